package daemon

import (
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

// pause is the first process of a PID namespace that a Pod's containers share.
// It reaps whatever is orphaned there and ends on SIGTERM or SIGINT.
func pause() error {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGCHLD)
	for s := range signals {
		if s != unix.SIGCHLD {
			return nil
		}
		for {
			pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
			if err != nil || pid <= 0 {
				break
			}
		}
	}
	return nil
}
