//go:build (amd64 || arm64) && !cgo

package bare

import (
	"syscall"
	"unsafe"
)

// Word is a word of the stack that the kernel has made: the number of arguments, the
// arguments, nil, the environment, nil, and what the kernel has to say besides.
//
//go:nosplit
func Word(sp unsafe.Pointer, i int) **byte {
	return (**byte)(unsafe.Add(sp, i*int(unsafe.Sizeof(sp))))
}

// At is a byte of a string that ends with a zero.
//
//go:nosplit
func At(s *byte, i int) byte {
	return *(*byte)(unsafe.Add(unsafe.Pointer(s), i))
}

// Call makes a system call, again after an interruption. An error is negative.
//
//go:nosplit
func Call(number, a, b, c, d uintptr) int {
	for {
		r, _, errno := syscall.RawSyscall6(number, a, b, c, d, 0, 0)
		if errno == 0 {
			return int(r)
		}
		if errno != syscall.EINTR {
			return -int(errno)
		}
	}
}

// Signal is a signal's place in the kernel's sets of signals.
//
//go:nosplit
func Signal(s syscall.Signal) uint64 { return 1 << (s - 1) }

// Block blocks a set of signals.
//
//go:nosplit
func Block(set *uint64) {
	const block = 0 // SIG_BLOCK
	Call(syscall.SYS_RT_SIGPROCMASK, block, uintptr(unsafe.Pointer(set)), 0, unsafe.Sizeof(*set))
}
