//go:build amd64 || arm64

package termination

import (
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// writeEnd is the end of the pipe to which the handler writes.
var writeEnd int32 //nolint:unused // who reads it is in assembly

// sigaction is the kernel's struct sigaction, which differs from the C library's.
type sigaction struct {
	handler  uintptr
	flags    uint64
	restorer uintptr
	mask     uint64
}

const (
	restart = 0x10000000 // SA_RESTART: an interrupted system call continues
	onStack = 0x08000000 // SA_ONSTACK: Go's own stacks are too small
)

// entries returns the addresses of the handler and of the restorer to which the
// kernel lets it return, with the flag for the latter. Like these it is written in
// assembly: the kernel calls them, and no Go code may run there.
func entries() (handler, restorer, flag uintptr)

// handle makes both signals write into a pipe, whose reader waits as for a
// connection. It returns a function that waits for the first of them.
func handle() (wait func() syscall.Signal, err error) {
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil, err
	}
	writeEnd = int32(pipe[1])
	handler, restorer, flag := entries()
	action := sigaction{handler: handler, restorer: restorer, flags: restart | onStack | uint64(flag), mask: ^uint64(0)}
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(&action)), 0, unsafe.Sizeof(action.mask), 0, 0)
		if errno != 0 {
			return nil, errno
		}
	}
	reader := os.NewFile(uintptr(pipe[0]), "signals")
	return func() syscall.Signal {
		var number [1]byte
		if _, err := reader.Read(number[:]); err != nil {
			panic(err) // an end of the pipe was closed, but both belong to this package alone
		}
		return syscall.Signal(number[0])
	}, nil
}
