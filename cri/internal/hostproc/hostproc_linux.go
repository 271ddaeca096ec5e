package hostproc

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// reap waits for the process, kills what it left in its group, and only then
// lets go of its id (waitid(2) with WNOWAIT).
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

// killTries is how often KillLeft looks, so that processes that are started
// while it does are found, too.
const killTries = 50

// KillLeft kills every process that carries the id in its environment
// (proc_pid_environ(5)): the one that an earlier program started, and its
// children. It returns when none is left.
func KillLeft(id string) error {
	for range killTries {
		n, err := killMarked([]byte("\x00" + mark + id + "\x00"))
		if n == 0 || err != nil {
			return err
		}
		time.Sleep(5 * time.Millisecond)
	}
	return fmt.Errorf("processes of %q are started faster than they are killed", id)
}

func killMarked(variable []byte) (killed int, err error) {
	files, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		return 0, err
	}
	for _, file := range files {
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			continue
		}
		p, err := os.FindProcess(pid) // holds the process, whoever gets its id next
		if err != nil {
			continue
		}
		env, err := os.ReadFile(file)
		if err == nil && bytes.Contains(append([]byte{0}, env...), variable) { // else gone, somebody else's, or not marked
			killed++
			if err := p.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
				return killed, fmt.Errorf("killing process %d: %w", pid, err)
			}
		}
		if err := p.Release(); err != nil {
			return killed, err
		}
	}
	return killed, nil
}
