package supervisor

import (
	"fmt"
	"time"

	"github.com/nodekit-project/nodekit/internal/procmark"
)

// EndMarked kills every process, except this one, that carries the mark (see
// internal/procmark), until there is none. It is for what a process left running on
// purpose: the monitors of containers, and the containers. If some keep starting
// others for a fifth of a second, they are left, and that is an error.
func EndMarked(mark string) error {
	const looks, pause = 10, 20 * time.Millisecond
	err := procmark.Kill(func(pid int) bool { return procmark.Carries(pid, mark) }, looks, pause)
	if err != nil {
		return fmt.Errorf("ending the processes of %q: %w", mark, err)
	}
	return nil
}
