// Package oneshot makes the Go runtime's start short in a process that serves one request
// and ends. It takes effect in a program that imports the package and is linked with
//
//	-ldflags='-E github.com/nodekit-project/nodekit/internal/oneshot.entry'
//
// and CGO_ENABLED=0 on Linux on amd64 and arm64. Elsewhere, and with cgo, whose C library
// must not be passed over, the linker says that the entry is missing. Without the flag
// nothing changes.
//
// The runtime finds two environment variables that nobody can set for a process that a
// stranger executes, unless it was given them, and fewer files than it would open:
//
//   - GOMAXPROCS=1: it starts with one processor. Set later, by runtime.GOMAXPROCS, it gains
//     nothing, because the other processors' memory and threads have been made by then.
//   - GODEBUG=memprofilerate=0: a program without a memory profile, which the linker tells
//     by itself, allocates its first object before the runtime takes notice (Go 1.26), and
//     the profile's tables and a stack trace are made for it.
//   - No file but standard input, output and error can be opened until the packages are
//     initialised, by RLIMIT_NOFILE. Else the runtime reads all of the host's mounts to find
//     a cgroup's limit on processors, although it was told their number. It does not learn
//     the size of huge pages either, which matters to heaps that live longer.
//
// See docs/decisions/008.
package oneshot

import (
	"errors"
	"os"
	"strings"
	"syscall"

	"github.com/nodekit-project/nodekit/internal/oneshot/nofiles"
)

// variable is an environment variable that entry adds if it is not given.
type variable struct {
	text  string // with the zero that ends it
	name  int    // the length of the name, with its =
	added bool
}

var variables = [...]variable{
	{text: "GOMAXPROCS=1\x00", name: len("GOMAXPROCS=")},
	{text: "GODEBUG=memprofilerate=0\x00", name: len("GODEBUG=")},
}

// Hide takes the variables that were added out of the environment again, so that programs
// which this one executes are not affected. Call it once, before the environment is read.
func Hide() (err error) {
	if nofiles.Failure != 0 {
		err = os.NewSyscallError("prlimit", syscall.Errno(nofiles.Failure))
	}
	for i := range variables {
		v := &variables[i]
		if !v.added {
			continue
		}
		v.added = false
		name, _, _ := strings.Cut(v.text, "=")
		err = errors.Join(err, os.Unsetenv(name))
	}
	return err
}
