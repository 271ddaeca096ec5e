package supervisor

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/nodekit-project/nodekit/internal/procmark"
)

// EndMarked kills every process, other than this one, that carries the mark (see
// internal/procmark), until there is none. It is for what a process left running
// on purpose: the monitors of containers, and the containers. What goes on
// starting others for a fifth of a second is left, and an error.
func EndMarked(mark string) error {
	const tries, pause = 10, 20 * time.Millisecond
	var errs []error
	for range tries {
		killed, err := killMarked(mark)
		errs = append(errs, err)
		if killed == 0 {
			return errors.Join(errs...)
		}
		time.Sleep(pause)
	}
	return errors.Join(append(errs, fmt.Errorf("processes of %q go on starting others", mark))...)
}

func killMarked(mark string) (killed int, err error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, err
	}
	var errs []error
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		p, err := os.FindProcess(pid) // holds the process, whoever gets its id next
		if err != nil || !procmark.Carries(pid, mark) {
			continue
		}
		if err := p.Kill(); err == nil {
			killed++
		} else if !errors.Is(err, os.ErrProcessDone) {
			errs = append(errs, err)
		}
	}
	return killed, errors.Join(errs...)
}
