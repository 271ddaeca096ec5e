package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cri/log"
	"github.com/nodekit-project/nodekit/cri/oci/keeper/internal/wire"
)

// interrupted returns the streams of a container whose keeper was interrupted when
// so many bytes of the records of a piece of output were in the log, and how the
// records are.
func interrupted(t *testing.T, s *server, path, text string, written int) (std *stdio, records string) {
	t.Helper()
	at := time.Now()
	out, _ := encode(nil, at, wire.FrameStdout, []byte(text), true) // a part of a long line, too
	const before = "an earlier line\n"
	if err := os.WriteFile(path, []byte(before+string(out[:written])), 0o600); err != nil {
		t.Fatal(err)
	}
	fd, err := logPlace{path: path}.open()
	if err != nil {
		t.Fatal(err)
	}
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	unix.Close(p[1])
	hold := s.escrow.newHolding("c", record{Key: 1, Start: wire.StartRequest{Log: path}})
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
		path := filepath.Join(t.TempDir(), "log")
		std, want := interrupted(t, s, path, text, written)
		if err := os.Rename(path, path+".1"); err != nil {
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
		old, err := os.ReadFile(path + ".1")
		if err != nil || string(old) != want {
			t.Errorf("after %d bytes: the old file is %q, %v; want %q", written, old, err, want)
		}
		if fresh, _ := os.ReadFile(path); len(fresh) > 0 {
			t.Errorf("after %d bytes: the new file is %q", written, fresh)
		}
	}
}

// A rotation that comes when the output ends leaves nothing in the holding that is closed.
func TestRotationAtTheEnd(t *testing.T) {
	s := newTestServer(t)
	for range 500 {
		path := filepath.Join(t.TempDir(), "log")
		std, child := pumped(t, s, path)
		rotated := make(chan error, 1)
		go func() {
			var err error
			for over := false; !over && err == nil; {
				select {
				case <-std.drained:
					over = true
				default:
				}
				err = std.reopen()
			}
			rotated <- err
		}()
		wire.CloseAll(child[:])
		if err := <-rotated; err != nil {
			t.Fatal(err)
		}
		if len(std.hold.rec.Roles) > 0 {
			t.Fatalf("the holding has %v of a container whose output has ended", std.hold.rec.Roles)
		}
	}
}

// A part of a long line, behind which the keeper had seen that more comes, is in the log
// whole, wherever that keeper was killed.
func TestPartOfALineIsTakenOver(t *testing.T) {
	s := newTestServer(t)
	part := strings.Repeat("x", log.MaxContent)
	for _, text := range []string{part, "one line\n" + part} {
		for _, written := range []int{0, 10, 5000, len(text)} {
			path := filepath.Join(t.TempDir(), "log")
			std, want := interrupted(t, s, path, text, written)
			if err := std.pump(); err != nil {
				t.Fatal(err)
			}
			<-std.drained
			if got, err := os.ReadFile(path); err != nil || string(got) != want {
				t.Errorf("after %d bytes: the log has %d bytes, want %d: %v", written, len(got), len(want), err)
			}
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
