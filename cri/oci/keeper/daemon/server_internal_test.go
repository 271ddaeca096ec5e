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
