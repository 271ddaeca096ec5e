package supervisor

import (
	"errors"
	"os"
	"strconv"

	"github.com/nodekit-project/nodekit/internal/procmark"
)

// KillMarked kills every process, other than this one, that carries the mark (see
// internal/procmark), and returns how many those were. It is for what a process
// left running on purpose: the monitors of containers, and the containers. What
// starts another at that moment may need a second call.
func KillMarked(mark string) (killed int, err error) {
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
