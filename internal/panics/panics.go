// Package panics locates a recovered panic: the error made from it names the place,
// and the log the calls that led there.
package panics

import (
	"fmt"
	"path/filepath"
	"runtime"
	"strings"
)

// maxCalls bounds how many calls are reported: the cause of a panic is in the first
// few, and they are logged in one line.
const maxCalls = 16

// Panic is a panic that was recovered.
type Panic struct {
	Value any // what panic was called with
	// Calls are the active functions, with their files and lines, innermost first,
	// starting with the one that panicked. Functions of the Go runtime are left out.
	Calls []runtime.Frame
}

// Of describes the panic whose value recover returned, which must not be nil. It must
// be called, directly or indirectly, by the deferred function that recovers.
//
// If the value is a *Panic, it was recovered on another goroutine and continues here:
// its calls come before those of this goroutine.
func Of(value any) *Panic {
	p := &Panic{Value: value}
	if carried, ok := value.(*Panic); ok {
		p.Value = carried.Value
		p.Calls = append(p.Calls, carried.Calls...)
	}
	var pcs [128]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs[:])])
	begun := false // past the frames of the recovering function
	for more := true; more && len(p.Calls) < maxCalls; {
		var f runtime.Frame
		f, more = frames.Next()
		switch {
		case f.Function == "runtime.gopanic":
			begun = true
		case begun && !ofGo(f.Function):
			p.Calls = append(p.Calls, f)
		}
	}
	return p
}

// ofGo reports whether the function is one of the runtime's, which start panics (for
// nil maps, nil pointers and so on) and goroutines.
func ofGo(function string) bool {
	return function == "" || strings.HasPrefix(function, "runtime.") || strings.HasPrefix(function, "internal/runtime/")
}

// Place returns the file name and line of the panic: "main.go:12".
func (p *Panic) Place() string {
	if len(p.Calls) == 0 {
		return "an unknown place"
	}
	return fmt.Sprintf("%s:%d", filepath.Base(p.Calls[0].File), p.Calls[0].Line)
}

// Stack returns the calls in one line, innermost first, with full file names.
func (p *Panic) Stack() string {
	words := make([]string, len(p.Calls))
	for i, f := range p.Calls {
		words[i] = fmt.Sprintf("%s (%s:%d)", f.Function, f.File, f.Line)
	}
	return strings.Join(words, " < ")
}

// String is what Go prints for a *Panic that nobody recovers.
func (p *Panic) String() string {
	return fmt.Sprintf("%v, at %s", p.Value, p.Stack())
}
