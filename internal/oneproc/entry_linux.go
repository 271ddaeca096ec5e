//go:build (amd64 || arm64) && !cgo

//nolint:unused // linters do not see what assembly calls
package oneproc

import "unsafe"

// entry is for the linker.
func entry()

var (
	stack  unsafe.Pointer // as the kernel made it; then as the runtime is to find it
	thread [2]uintptr     // the end of thread-local storage, where the processor has a register for it
)

// arrange adds the variable to the environment. Above sp are the number of arguments, the
// arguments, nil, the environment, nil, and what the kernel has to say besides: all before
// the last nil moves down by two words, which keeps the stack aligned. The second of them
// is an empty variable, which Go ignores.
//
// No runtime is there yet: nothing here may grow the stack or allocate.
//
//go:nosplit
func arrange(sp unsafe.Pointer) {
	end := 1
	for *word(sp, end) != nil {
		end++
	}
	for end++; *word(sp, end) != nil; end++ {
		if given(*word(sp, end)) {
			return
		}
	}
	for i := range end {
		*word(sp, i-2) = *word(sp, i)
	}
	*word(sp, end-2), *word(sp, end-1) = &variable[0], &variable[len(variable)-1]
	stack, set = unsafe.Add(sp, -2*int(unsafe.Sizeof(sp))), true
}

//go:nosplit
func word(sp unsafe.Pointer, i int) **byte {
	return (**byte)(unsafe.Add(sp, i*int(unsafe.Sizeof(sp))))
}

// given reports whether this is the variable, with any value.
//
//go:nosplit
func given(kv *byte) bool {
	for i := range name + 1 {
		if *(*byte)(unsafe.Add(unsafe.Pointer(kv), i)) != variable[i] {
			return false
		}
	}
	return true
}
