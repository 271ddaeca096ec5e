// Package panics says where a panic began, for whoever recovers it: the error
// that is made of it has the place in it, and the log the calls that led there.
package panics

import (
	"fmt"
	"path/filepath"
	"runtime"
	"strings"
)

// maxCalls bounds how many calls are told: what led to a panic stands in the
// first few, and they go into one line of a log.
const maxCalls = 16

// Panic is a panic that was recovered.
type Panic struct {
	Value any // what panic was called with
	// Calls are the functions that ran, with their files and lines, innermost
	// first: that of the panic is the first. Those of the Go runtime are left out.
	Calls []runtime.Frame
}

// Of describes the panic of which recover returned the value, which is not nil.
// The deferred function that recovers it calls Of, itself or through others.
//
// A *Panic as the value is one that was recovered on another goroutine and goes
// on here: its calls come before those of this one.
func Of(value any) *Panic {
	p := &Panic{Value: value}
	if carried, ok := value.(*Panic); ok {
		p.Value = carried.Value
		p.Calls = append(p.Calls, carried.Calls...)
	}
	var pcs [128]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs[:])])
	begun := false // past the frames of whoever recovers
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

// ofGo reports whether the function is one of those by which a panic starts and a
// goroutine begins: a nil map's, a nil pointer's, and so on.
func ofGo(function string) bool {
	return function == "" || strings.HasPrefix(function, "runtime.") || strings.HasPrefix(function, "internal/runtime/")
}

// Place is the file's name and the line of the panic: "main.go:12".
func (p *Panic) Place() string {
	if len(p.Calls) == 0 {
		return "an unknown place"
	}
	return fmt.Sprintf("%s:%d", filepath.Base(p.Calls[0].File), p.Calls[0].Line)
}

// Stack is the calls in one line, innermost first, with the files' whole names.
func (p *Panic) Stack() string {
	words := make([]string, len(p.Calls))
	for i, f := range p.Calls {
		words[i] = fmt.Sprintf("%s (%s:%d)", f.Function, f.File, f.Line)
	}
	return strings.Join(words, " < ")
}

// String is what Go prints of a *Panic that nobody recovers.
func (p *Panic) String() string {
	return fmt.Sprintf("%v, at %s", p.Value, p.Stack())
}
