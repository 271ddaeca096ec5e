// Package bare is for code that runs before the Go runtime starts, in a process that the
// linker was told to start elsewhere (-E): cmd/cni-shim, internal/oneshot, internal/pause.
//
// There is no heap, no goroutine and no thread but one, and nobody to handle a panic. So
// such code must not grow the stack (each function is nosplit), works in static memory and
// on the stack that the kernel made, and stays within the bounds of arrays by its own care.
// With cgo there is none of it, because the C library must not be passed over.
//
// Each of these packages has the same few lines of assembly, because the linker wants one
// symbol for each, and a program may link several of them. They call a Go function on the
// kernel's stack, with its first address as the argument. On amd64 a call from assembly
// loads the goroutine, here nil, from below where FS points to, which therefore has to
// point to somewhere. If the function returns, the runtime starts as if nothing had
// happened.
package bare
