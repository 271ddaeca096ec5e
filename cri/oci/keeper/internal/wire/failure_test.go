package wire_test

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"testing"

	"github.com/nodekit-project/nodekit/cri/oci/keeper/internal/wire"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// TestFailureOfTheDisk: a disk that takes no more is not told as a fault of the keeper.
func TestFailureOfTheDisk(t *testing.T) {
	for _, c := range []struct {
		err  error
		want fault.Kind
	}{
		{&os.PathError{Op: "open", Path: "log", Err: syscall.ENOSPC}, fault.Exhausted},
		{fmt.Errorf("opening streams: %w", syscall.EDQUOT), fault.Exhausted},
		{errors.Join(errors.New("journal"), syscall.EROFS), fault.FailedPrecondition},
		{fault.Invalid.Wrap(syscall.ENOSPC), fault.Invalid},
		{syscall.ENOENT, fault.Internal},
	} {
		if got := wire.Failure(c.err); got.Kind != c.want || got.Error != c.err.Error() {
			t.Errorf("%v travels as %q, %q; want %q", c.err, got.Kind, got.Error, c.want)
		}
	}
}
