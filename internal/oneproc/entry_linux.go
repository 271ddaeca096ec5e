//go:build (amd64 || arm64) && !cgo

//nolint:unused // linters do not see what assembly calls
package oneproc

import (
	"unsafe"

	"github.com/nodekit-project/nodekit/internal/bare"
)

// entry is for the linker.
func entry()

var (
	stack  unsafe.Pointer // as the kernel made it; then as the runtime is to find it
	thread [2]uintptr     // the end of thread-local storage, where the processor has a register for it
)

// arrange adds the variable to the environment: all before the environment's end moves down
// by two words, which keeps the stack aligned. The second of them is an empty variable,
// which Go ignores.
//
//go:nosplit
func arrange(sp unsafe.Pointer) {
	end := 1
	for *bare.Word(sp, end) != nil {
		end++
	}
	for end++; *bare.Word(sp, end) != nil; end++ {
		if given(*bare.Word(sp, end)) {
			return
		}
	}
	for i := range end {
		*bare.Word(sp, i-2) = *bare.Word(sp, i)
	}
	*bare.Word(sp, end-2), *bare.Word(sp, end-1) = &variable[0], &variable[len(variable)-1]
	stack, set = unsafe.Add(sp, -2*int(unsafe.Sizeof(sp))), true
}

// given reports whether this is the variable, with any value.
//
//go:nosplit
func given(kv *byte) bool {
	for i := range name + 1 {
		if bare.At(kv, i) != variable[i] {
			return false
		}
	}
	return true
}
