package portmap

import (
	"testing"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/nft"
)

// TestPanicKeepsTheConnection: a call that panics leaves its socket to the next one.
func TestPanicKeepsTheConnection(t *testing.T) {
	p := newResident()
	defer p.close()
	var first, second *nft.Conn
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic does not go on")
			}
		}()
		_ = p.connectedTo(&nft.Ruleset{}, func(v *view) error {
			first = v.conn
			panic("oh")
		})
	}()
	if err := p.connectedTo(&nft.Ruleset{}, func(v *view) error { second = v.conn; return fault.Internal.Errorf("oh") }); err == nil {
		t.Error("the error is lost")
	}
	if first != second {
		t.Error("the socket is left open, and another one is opened")
	}
}
