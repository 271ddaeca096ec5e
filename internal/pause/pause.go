// Package pause is a process that only has to be there: the first one of a PID namespace
// that containers share, or the owner of a user namespace.
//
// A program that imports it and is linked with
//
//	-ldflags='-E github.com/nodekit-project/nodekit/internal/pause.entry'
//
// and CGO_ENABLED=0 on Linux on amd64 or arm64 does what Run does before the Go runtime
// starts, if its first argument is pause and the only one: with one thread and a quarter of a
// megabyte of memory instead of seven threads and several megabytes. With cgo there is no
// entry, because the C library must not be passed over.
package pause

import (
	"os"
	"os/signal"
	"syscall"
)

// Run returns on SIGTERM or SIGINT. Until then it reaps whatever becomes a child of the
// process.
func Run() {
	// A signal is dropped if its channel is full: that is harmless only for one of
	// several SIGCHLDs, so the kinds have separate channels.
	told, ended := make(chan os.Signal, 1), make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGTERM, syscall.SIGINT)
	signal.Notify(ended, syscall.SIGCHLD)
	for {
		select {
		case <-told:
			return
		case <-ended:
			reap()
		}
	}
}

// reap waits for every child that has ended.
func reap() {
	for {
		pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
		if err != nil || pid <= 0 {
			return
		}
	}
}
