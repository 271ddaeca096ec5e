package sockfile

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// Private is the Control of a net.ListenConfig that creates the file of a unix socket
// with mode 0600. A chmod(2) after bind(2) would be too late: until then anybody whom
// the umask allows can connect, and keeps the connection.
func Private(_, _ string, socket syscall.RawConn) error {
	var err error
	if cerr := socket.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), 0o600) }); cerr != nil {
		return cerr
	}
	return err
}
