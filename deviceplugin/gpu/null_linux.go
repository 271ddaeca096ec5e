package gpu

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// makeNull creates a character device that behaves as /dev/null, unless it exists
// already: reads return nothing, and writes are discarded.
func makeNull(path string) error {
	null := unix.Mkdev(1, 3) // Documentation/admin-guide/devices.txt
	err := unix.Mknod(path, unix.S_IFCHR|0o666, int(null))
	switch {
	case errors.Is(err, unix.EPERM):
		return fault.PermissionDenied.Errorf("making the device node %q: %w: it needs root (CAP_MKNOD)", path, err)
	case errors.Is(err, unix.EEXIST):
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return &os.PathError{Op: "lstat", Path: path, Err: err}
		}
		if st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != null {
			return fault.AlreadyExists.Errorf("making the device node %q: something else is there", path)
		}
	case err != nil:
		return fmt.Errorf("making the device node %q: %w", path, err)
	}
	if err := os.Chmod(path, 0o666); err != nil { // mknod obeys the umask
		return fmt.Errorf("making the device node %q: %w", path, err)
	}
	return nil
}
