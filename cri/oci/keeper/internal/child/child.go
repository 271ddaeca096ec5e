// Package child asks the kernel how children of this process ended, with and without
// reaping them. A child that has ended keeps its process id until it is reaped; the id of
// another process's child may be reused at any time. So processes that may not be
// children are addressed by pidfd.
package child

import (
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"
)

// cldExited is CLD_EXITED of <signal.h>; every other code of an ended child means death
// by signal.
const cldExited = 1

// Peek returns whether the child has ended and with which code, 128+n for death by signal
// n, without reaping it. The error is unix.ECHILD if it is not a child.
func Peek(pid int) (ended bool, code int32, err error) { return peek(unix.P_PID, pid) }

// PeekFD is Peek for the process of a pidfd, which may have been reaped.
func PeekFD(pidfd int) (ended bool, code int32, err error) { return peek(unix.P_PIDFD, pidfd) }

func peek(kind, id int) (ended bool, code int32, err error) {
	var info siginfo
	err = waitid(kind, id, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT)
	if err != nil || info.pid == 0 {
		return false, 0, err
	}
	code = info.status
	if info.code != cldExited {
		code += 128
	}
	return true, code, nil
}

// Ended returns a child that has ended, without reaping it; 0 if there is none.
func Ended() int {
	var info siginfo
	if err := waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT); err != nil {
		return 0 // no children
	}
	return int(info.pid)
}

// Reap reaps a child that has ended. It never waits.
func Reap(pid int) error {
	var info siginfo
	return waitid(unix.P_PID, pid, &info, unix.WEXITED|unix.WNOHANG)
}

// ReapFD is Reap for the process of a pidfd. A process that is not a child is left alone.
func ReapFD(pidfd int) error {
	var info siginfo
	return waitid(unix.P_PIDFD, pidfd, &info, unix.WEXITED|unix.WNOHANG)
}

// Await waits for the end of a child and reaps it.
func Await(pid int) error {
	var info siginfo
	return waitid(unix.P_PID, pid, &info, unix.WEXITED)
}

// siginfo is what waitid(2) fills in on 64-bit systems.
type siginfo struct {
	signo, errno, code, _ int32
	pid                   int32
	uid                   uint32
	status                int32
	_                     [100]byte
}

func waitid(kind, id int, info *siginfo, options int) error {
	for {
		*info = siginfo{}
		err := unix.Waitid(kind, id, (*unix.Siginfo)(unsafe.Pointer(info)), options, nil)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
