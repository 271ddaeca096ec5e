//go:build (amd64 || arm64) && !cgo

//nolint:unused // linters do not see what assembly calls
package pause

import (
	"syscall"
	"unsafe"

	"github.com/nodekit-project/nodekit/internal/bare"
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
// otherwise it returns.
//
//go:nosplit
func early(sp unsafe.Pointer) {
	if *(*uintptr)(sp) != 2 {
		return
	}
	given := *bare.Word(sp, 2)
	for i := range len(argument) + 1 {
		c := byte(0)
		if i < len(argument) {
			c = argument[i]
		}
		if bare.At(given, i) != c {
			return
		}
	}
	// Signals that are blocked and waited for reach even the first process of a PID
	// namespace, which has no handler for them.
	wanted = bare.Signal(syscall.SIGTERM) | bare.Signal(syscall.SIGINT) | bare.Signal(syscall.SIGCHLD)
	bare.Block(&wanted)
	for {
		switch bare.Call(syscall.SYS_RT_SIGTIMEDWAIT, uintptr(unsafe.Pointer(&wanted)), 0, 0, unsafe.Sizeof(wanted)) {
		case int(syscall.SIGTERM), int(syscall.SIGINT):
			bare.Call(syscall.SYS_EXIT_GROUP, 0, 0, 0, 0)
		case int(syscall.SIGCHLD):
			const anybody = ^uintptr(0) // -1
			for bare.Call(syscall.SYS_WAIT4, anybody, 0, syscall.WNOHANG, 0) > 0 {
			}
		}
	}
}
