//go:build (amd64 || arm64) && !cgo

package nofiles

type rlimit struct{ soft, hard uint64 }

var (
	given rlimit // the limit on open files that the process was given
	shut  bool   // until init, it has another one
)

// Shut leaves no file that could be opened until init. If the limit cannot be had, or is as
// low already, nothing changes. It may run before the Go runtime: see package bare.
//
//go:nosplit
func Shut() {
	const standard = 3 // input, output and error: the runtime opens those that are closed
	if prlimit(nil, &given) != 0 || given.soft <= standard {
		return
	}
	shut = prlimit(&rlimit{standard, given.hard}, nil) == 0
}

func init() { //nolint:gochecknoinits // nobody could call it at that time
	if shut {
		Failure = prlimit(&given, nil)
	}
}

// prlimit sets or gets this process's RLIMIT_NOFILE, and returns the number of an error.
//
//go:noescape
func prlimit(set, get *rlimit) (errno uintptr)
