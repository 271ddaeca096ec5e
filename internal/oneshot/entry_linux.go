//go:build (amd64 || arm64) && !cgo

//nolint:unused // linters do not see what assembly calls
package oneshot

import (
	"unsafe"

	"github.com/nodekit-project/nodekit/internal/bare"
	"github.com/nodekit-project/nodekit/internal/oneshot/nofiles"
)

// entry is for the linker.
func entry()

var (
	stack  unsafe.Pointer // as the kernel made it; then as the runtime is to find it
	thread [2]uintptr     // the end of thread-local storage, where the processor has a register for it
)

// procs is the index of GOMAXPROCS.
const procs = 0

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
		nofiles.Shut()
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
