package fault_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// TestReadable: whoever looks at an error after Readable does not panic.
func TestReadable(t *testing.T) {
	var nilPointer *net.OpError  // its Unwrap panics
	var nilText *os.SyscallError // its Error does
	for _, err := range []error{nilPointer, nilText, fmt.Errorf("wrapped: %w", nilPointer), errors.Join(os.ErrClosed, nilPointer)} {
		got := fault.Readable("Exec", err)
		if !errors.Is(got, fault.Internal) || !strings.HasPrefix(got.Error(), "Exec returned an error that cannot be read, a ") {
			t.Errorf("%T: %v", err, got)
		}
	}
	for _, err := range []error{nil, os.ErrClosed, fault.NotFound.Errorf("x")} {
		if got := fault.Readable("Exec", err); !errors.Is(got, err) || !errors.Is(err, got) {
			t.Errorf("%v became %v", err, got)
		}
	}
}
