package daemon

import (
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cri/oci/keeper/internal/wire"
)

// A change that cannot be handed in has not been made, here or there, and nothing
// that it took out is closed.
func TestChangeFails(t *testing.T) {
	s := newTestServer(t)
	null, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	hold := s.escrow.newHolding("c", record{Key: 1})
	if err := hold.change(func(h *content) { h.set(roleLog, null) }); err != nil {
		t.Fatal(err)
	}
	was := string(s.escrow.entries["c"].Data)
	err = hold.change(func(h *content) {
		h.rec.Start.Log = strings.Repeat("x", 100<<10)
		h.retire(roleLog)
		h.entry.PID = 7
	})
	if err == nil {
		t.Fatal("an entry that is too large was taken")
	}
	if hold.get(roleLog) != null || hold.entry.PID != 0 || hold.rec.Start.Log != "" || len(hold.spent) > 0 {
		t.Errorf("the holding is %+v", hold.content)
	}
	if e := s.escrow.entries["c"]; string(e.Data) != was || len(e.Files) != 1 {
		t.Errorf("the escrow has %+v", e)
	}
	if err := hold.change(func(h *content) { h.retire(roleLog) }); err != nil {
		t.Error(err)
	}
	if _, err := unix.FcntlInt(uintptr(null), unix.F_GETFD, 0); !errors.Is(err, unix.EBADF) {
		t.Errorf("what was retired is still open: %v", err)
	}
}

// What is abandoned is closed, and has left the escrow.
func TestAbandon(t *testing.T) {
	s := newTestServer(t)
	null, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	hold := s.escrow.newHolding("c", record{Key: 1})
	if err := hold.change(func(h *content) { h.set(roleLog, null) }); err != nil {
		t.Fatal(err)
	}
	hold.abandon()
	if _, err := unix.FcntlInt(uintptr(null), unix.F_GETFD, 0); !errors.Is(err, unix.EBADF) {
		t.Errorf("what was abandoned is still open: %v", err)
	}
	if ids := s.kept(); len(ids) > 0 || len(hold.entry.Files) > 0 {
		t.Errorf("the anchor has %q, and the holding %v", ids, hold.entry.Files)
	}
}

// What the anchor has after all is not closed.
func TestNothingIsClosedThatIsHeld(t *testing.T) {
	s := newTestServer(t)
	r, w, err := pipe()
	if err != nil {
		t.Fatal(err)
	}
	hold := s.escrow.newHolding("c", record{Key: 1})
	if err := hold.change(func(h *content) { h.set(roleStdout, r) }); err != nil {
		t.Fatal(err)
	}
	hold.rec.Start.Log = strings.Repeat("x", 100<<10) // it can be handed in no more
	std := s.streams.newStdio(hold, s.log)
	std.outputs = []*output{{fd: r, frame: wire.FrameStdout}}
	w.Close()
	if err := std.pump(); err != nil {
		t.Fatal(err)
	}
	<-std.drained
	if _, err := unix.FcntlInt(uintptr(r), unix.F_GETFD, 0); err != nil || hold.get(roleStdout) != r {
		t.Errorf("the pipe that the anchor has was closed: %v", err)
	}
}
