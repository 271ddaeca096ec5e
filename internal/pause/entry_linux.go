//go:build (amd64 || arm64) && !cgo

//nolint:unused // linters do not see what assembly calls
package pause

import (
	"syscall"
	"unsafe"
)

// entry is for the linker.
func entry()

var (
	stack  unsafe.Pointer // as the kernel made it
	thread [2]uintptr     // the end of thread-local storage, where the processor has a register for it
	wanted uint64         // the signals that are waited for
)

const argument = "pause"

// early is Run, and then the end of the process, if that is what the arguments ask for;
// otherwise it returns. Above sp are the number of arguments and the arguments.
//
// No runtime is there yet: nothing here may grow the stack or allocate.
//
//go:nosplit
func early(sp unsafe.Pointer) {
	if *(*uintptr)(sp) != 2 {
		return
	}
	given := *(**byte)(unsafe.Add(sp, 2*unsafe.Sizeof(sp)))
	for i := range len(argument) + 1 {
		c := byte(0)
		if i < len(argument) {
			c = argument[i]
		}
		if *(*byte)(unsafe.Add(unsafe.Pointer(given), i)) != c {
			return
		}
	}
	// Signals that are blocked and waited for reach even the first process of a PID
	// namespace, which has no handler for them.
	wanted = bit(syscall.SIGTERM) | bit(syscall.SIGINT) | bit(syscall.SIGCHLD)
	const block = 0 // SIG_BLOCK
	call(syscall.SYS_RT_SIGPROCMASK, block, uintptr(unsafe.Pointer(&wanted)), 0, unsafe.Sizeof(wanted))
	for {
		switch call(syscall.SYS_RT_SIGTIMEDWAIT, uintptr(unsafe.Pointer(&wanted)), 0, 0, unsafe.Sizeof(wanted)) {
		case uintptr(syscall.SIGTERM), uintptr(syscall.SIGINT):
			call(syscall.SYS_EXIT_GROUP, 0, 0, 0, 0)
		case uintptr(syscall.SIGCHLD):
			const anybody = ^uintptr(0) // -1
			for call(syscall.SYS_WAIT4, anybody, 0, syscall.WNOHANG, 0) != 0 {
			}
		}
	}
}

// bit is the signal's place in the kernel's sets.
//
//go:nosplit
func bit(s syscall.Signal) uint64 { return 1 << (s - 1) }

// call makes a system call. The result is 0 if it fails.
//
//go:nosplit
func call(number, a, b, c, d uintptr) uintptr {
	r, _, errno := syscall.RawSyscall6(number, a, b, c, d, 0, 0)
	if errno != 0 {
		return 0
	}
	return r
}
