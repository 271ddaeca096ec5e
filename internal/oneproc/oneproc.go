// Package oneproc starts the Go runtime of a process that serves one request with one
// processor, as GOMAXPROCS=1 does in the environment, which nobody can set for a process
// that a stranger executes. Set later, by runtime.GOMAXPROCS, it gains nothing: the other
// processors' memory and threads have been made by then. See docs/decisions/008.
//
// It takes effect in a program that imports the package and is linked with
//
//	-ldflags='-E github.com/nodekit-project/nodekit/internal/oneproc.entry'
//
// and CGO_ENABLED=0 on Linux on amd64 and arm64. Elsewhere, and with cgo, whose C library
// must not be passed over, the linker says that the entry is missing. Without the flag
// nothing changes. A GOMAXPROCS that the process was given counts.
package oneproc

import "os"

// variable is the environment variable, for entry to point to.
var variable = [...]byte{'G', 'O', 'M', 'A', 'X', 'P', 'R', 'O', 'C', 'S', '=', '1', 0}

const name = len("GOMAXPROCS")

// set says that entry has added the variable.
var set bool

// Hide takes the variable out of the environment again, so that programs which this one
// executes are not affected. It does nothing if the variable was given. Call it before
// the environment is read.
func Hide() error {
	if !set {
		return nil
	}
	set = false
	return os.Unsetenv(string(variable[:name]))
}
