package daemon

import (
	"errors"
	"testing"

	"github.com/nodekit-project/nodekit/cri/oci/keeper/internal/wire"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// A call that panics is answered, and the keeper lives on.
func TestCallPanics(t *testing.T) {
	s := &server{log: newTestServer(t).log} // it has nothing that a call needs
	err := s.call(nil, &wire.Request{Op: wire.OpStart, ID: "c", Start: &wire.StartRequest{
		Command: wire.Command{Args: []string{"/bin/true"}, PIDFile: "pid"},
	}}, nil)
	if !errors.Is(err, fault.Internal) {
		t.Errorf("%v, want %q", err, fault.Internal)
	}
}

// A start that comes while the keeper is ending is refused, and one that came before
// keeps it from that.
func TestNoStartWhileEnding(t *testing.T) {
	s := newTestServer(t)
	c, err := s.claim("before")
	if err != nil {
		t.Fatal(err)
	}
	if alive := s.close(); alive != 1 {
		t.Errorf("beside a start the keeper would end: %d", alive)
	}
	s.forget(c)
	c.life.Unlock()
	if alive := s.close(); alive != 0 {
		t.Errorf("%d containers keep it, want none", alive)
	}
	if _, err := s.claim("after"); !errors.Is(err, fault.Unavailable) {
		t.Errorf("a keeper that is ending takes a container: %v", err)
	}
}
