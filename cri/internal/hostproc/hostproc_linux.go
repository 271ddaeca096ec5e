package hostproc

import (
	"bytes"
	"errors"
	"fmt"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/procmark"
)

// reap waits for the process, kills what it left in its group, and only then releases its
// id (waitid(2) with WNOWAIT).
func (p *process) reap(cmd *exec.Cmd) {
	for {
		err := unix.Waitid(unix.P_PID, p.pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	p.signal(syscall.SIGKILL)
	p.mu.Lock()
	p.over = true
	p.mu.Unlock()
	_ = cmd.Wait() // the state says how it ended
}

// KillLeft kills every process that has the id in its environment: the one that an
// earlier program started, and its children. It returns when none is left. If processes
// keep starting others for a quarter of a second, the remaining ones are left, which is
// an error.
func KillLeft(id string) error {
	const looks, pause = 50, 5 * time.Millisecond
	variable := []byte("\x00" + mark + id + "\x00")
	err := procmark.Kill(func(pid int) bool {
		env, err := procmark.Environ(pid)
		return err == nil && bytes.Contains(append([]byte{0}, env...), variable) // otherwise it is gone, somebody else's, or not marked
	}, looks, pause)
	if err != nil {
		return fmt.Errorf("ending the processes of %q: %w", id, err)
	}
	return nil
}
