//go:build (amd64 || arm64) && !cgo

//nolint:unused // linters do not see what assembly calls
package oneshot

import (
	"os"
	"syscall"
	"unsafe"

	"github.com/nodekit-project/nodekit/internal/bare"
)

// entry is for the linker.
func entry()

var (
	stack  unsafe.Pointer // as the kernel made it; then as the runtime is to find it
	thread [2]uintptr     // the end of thread-local storage, where the processor has a register for it

	files  syscall.Rlimit // the limit on open files that the process was given
	closed bool           // until init, it has another one
)

// arrange adds the variables to the environment: all before the environment's end moves
// down by two words, which keeps the stack aligned. Where a variable is given, an empty
// one, which Go ignores, takes its place.
//
//go:nosplit
func arrange(sp unsafe.Pointer) {
	end := 1
	for *bare.Word(sp, end) != nil {
		end++
	}
	for i := range variables {
		variables[i].added = true
	}
	for end++; *bare.Word(sp, end) != nil; end++ {
		for i := range variables {
			if variables[i].is(*bare.Word(sp, end)) {
				variables[i].added = false
			}
		}
	}
	for i := range end {
		*bare.Word(sp, i-len(variables)) = *bare.Word(sp, i)
	}
	for i := range variables {
		text := "\x00"
		if variables[i].added {
			text = variables[i].text
		}
		*bare.Word(sp, end-len(variables)+i) = unsafe.StringData(text)
	}
	stack = unsafe.Add(sp, -len(variables)*int(unsafe.Sizeof(sp)))
	if variables[procs].added {
		shut()
	}
}

// is reports whether this is the variable, with any value.
//
//go:nosplit
func (v *variable) is(kv *byte) bool {
	for i := range v.name {
		if bare.At(kv, i) != bare.At(unsafe.StringData(v.text), i) {
			return false
		}
	}
	return true
}

// shut leaves no file that could be opened until init. If the limit cannot be had, or is as
// low already, nothing changes.
//
//go:nosplit
func shut() {
	const standard = 3 // input, output and error: the runtime opens those that are closed
	if bare.Call(syscall.SYS_PRLIMIT64, 0, syscall.RLIMIT_NOFILE, 0, uintptr(unsafe.Pointer(&files))) != 0 || files.Cur <= standard {
		return
	}
	few := syscall.Rlimit{Cur: standard, Max: files.Max}
	closed = bare.Call(syscall.SYS_PRLIMIT64, 0, syscall.RLIMIT_NOFILE, uintptr(unsafe.Pointer(&few)), 0) == 0
}

// init comes after that of package syscall, which raises the limit, and remembers for
// children what it was.
func init() {
	if closed {
		unlimited = os.NewSyscallError("setrlimit", syscall.Setrlimit(syscall.RLIMIT_NOFILE, &files))
	}
}
