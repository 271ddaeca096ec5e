package daemon

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cri/oci/keeper/internal/wire"
)

// interrupted returns the streams of a container whose keeper was interrupted when
// so many bytes of the records of a piece of output were in the log, and how the
// records are.
func interrupted(t *testing.T, s *server, log, text string, written int) (std *stdio, records string) {
	t.Helper()
	at := time.Now()
	out, _ := encode(nil, at, wire.FrameStdout, []byte(text), false)
	const before = "an earlier line\n"
	if err := os.WriteFile(log, []byte(before+string(out[:written])), 0o600); err != nil {
		t.Fatal(err)
	}
	fd, err := openLog(log)
	if err != nil {
		t.Fatal(err)
	}
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	unix.Close(p[1])
	hold := s.escrow.newHolding("c", record{Key: 1, Start: wire.StartRequest{Log: log}})
	err = hold.change(func(h *content) {
		h.set(roleStdout, p[0])
		h.set(roleLog, fd)
	})
	if err != nil {
		t.Fatal(err)
	}
	k, err := s.streams.desks.take()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Write(k.transit[1], []byte(text)); err != nil {
		t.Fatal(err)
	}
	*k.slot = slot{
		busy: 1, key: 1, frame: wire.FrameStdout, end: uint64(len(before)), size: uint64(len(out)),
		take: uint64(len(text)), at: uint64(at.UnixNano()),
	}
	if std, err = s.restoreStdio(hold); err != nil {
		t.Fatal(err)
	}
	std.resumeAt([]*desk{k})
	return std, before + string(out)
}

// A rotation that comes while the keeper takes over waits until what was being
// written is where it belongs, once.
func TestRotationWaitsForTheTakeover(t *testing.T) {
	s := newTestServer(t)
	const text = "one line\nand another one\n"
	for _, written := range []int{0, 10, 40, len(text)} {
		log := filepath.Join(t.TempDir(), "log")
		std, want := interrupted(t, s, log, text, written)
		if err := os.Rename(log, log+".1"); err != nil {
			t.Fatal(err)
		}
		reopened := make(chan error, 1)
		go func() { reopened <- std.reopen() }()
		select {
		case err := <-reopened:
			t.Errorf("after %d bytes: the rotation did not wait: %v", written, err)
			reopened <- err
		case <-time.After(50 * time.Millisecond):
		}
		if err := std.pump(); err != nil {
			t.Fatal(err)
		}
		if err := <-reopened; err != nil {
			t.Error(err)
		}
		<-std.drained
		old, err := os.ReadFile(log + ".1")
		if err != nil || string(old) != want {
			t.Errorf("after %d bytes: the old file is %q, %v; want %q", written, old, err, want)
		}
		if fresh, _ := os.ReadFile(log); len(fresh) > 0 {
			t.Errorf("after %d bytes: the new file is %q", written, fresh)
		}
	}
}

// The outputs of a container that has ended before anybody reads them are watched,
// read and closed, in this order.
func TestPumpOfWhatHasEnded(t *testing.T) {
	s := newTestServer(t)
	for range 2000 {
		std := s.streams.newStdio(s.escrow.newHolding("c", record{}), s.log)
		child, err := std.open()
		wire.CloseAll(child[:])
		if err != nil {
			t.Fatal(err)
		}
		if err := std.pump(); err != nil {
			t.Fatal(err)
		}
		<-std.drained
	}
}
