package sockfile

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// Owner returns the process that listens at the socket, as of its listen(2)
// (SO_PEERCRED, unix(7)), or 0 if there is none. It connects without sending
// anything.
func Owner(path string) (pid int) {
	c, err := net.DialTimeout("unix", path, time.Second)
	if err != nil {
		return 0
	}
	defer c.Close()
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0
	}
	err = raw.Control(func(fd uintptr) {
		if peer, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid = int(peer.Pid)
		}
	})
	if err != nil {
		return 0
	}
	return pid
}
