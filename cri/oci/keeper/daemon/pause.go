package daemon

import (
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

// pause is the first process of a PID namespace that a Pod's containers share.
// It reaps whatever is orphaned there and ends on SIGTERM or SIGINT.
func pause() error {
	// A signal is dropped if its channel is full: that is harmless only for one of
	// several SIGCHLDs, so the kinds have separate channels.
	told, ended := make(chan os.Signal, 1), make(chan os.Signal, 1)
	signal.Notify(told, unix.SIGTERM, unix.SIGINT)
	signal.Notify(ended, unix.SIGCHLD)
	for {
		select {
		case <-told:
			return nil
		case <-ended:
			reapAll()
		}
	}
}

// reapAll waits for every child that has ended.
func reapAll() {
	for {
		pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
		if err != nil || pid <= 0 {
			return
		}
	}
}
