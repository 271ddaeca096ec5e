// Package procmark finds the processes that belong to something, such as a runtime
// under test: those with a mark that nobody else can have, such as the path of a
// temporary directory. It reads /proc, and therefore needs Linux.
package procmark

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/nodekit-project/nodekit/internal/procstat"
	"github.com/nodekit-project/nodekit/internal/rawfile"
)

// Carries reports whether the process's command line, environment or root file system
// has the mark. All that a container's process has of the runtime that started it is
// a root below the runtime's directory, by which it is found when all of the runtime
// has been killed. For a process that has ended, or may not be read, Carries returns
// false.
func Carries(pid int, mark string) bool {
	text := []byte(mark)
	env, err := Environ(pid)
	if err == nil && bytes.Contains(env, text) {
		return true
	}
	dir := dirOf(pid)
	if data, err := rawfile.Read(filepath.Join(dir, "cmdline")); err == nil && bytes.Contains(data, text) {
		return true
	}
	return HasRoot(pid, mark)
}

// HasRoot reports whether the process's root file system has the mark, as that of a
// container has: see Carries.
func HasRoot(pid int, mark string) bool { return bytes.Contains(root(dirOf(pid)), []byte(mark)) }

// Environ returns the environment with which a process was executed
// (proc_pid_environ(5)). During execve(2) a process has neither an environment nor a
// command line: Environ waits for the end of that.
func Environ(pid int) ([]byte, error) {
	for deadline := time.Now().Add(execLimit); ; time.Sleep(50 * time.Microsecond) {
		env, err := rawfile.Read(filepath.Join(dirOf(pid), "environ"))
		if err != nil || len(env) > 0 || time.Now().After(deadline) {
			return env, err
		}
		if stat, err := procstat.Read(pid); err != nil || hasNone(stat) {
			return nil, err
		}
	}
}

// execLimit is for a process that reads its program from a disk that does not answer.
const execLimit = time.Second

func dirOf(pid int) string { return filepath.Join("/proc", strconv.Itoa(pid)) }

// hasNone reports whether a process whose environment was just found empty has none. It
// has one if its execve(2) is not over, which shows as memory without an end of the
// environment, and if that ended since. Only readers that may read the environment can
// see that.
func hasNone(s procstat.Stat) bool { return s.VSize == 0 || s.EnvEnd != 0 && s.EnvEnd == s.EnvStart }

// root returns the line of proc_pid_mountinfo(5) about the process's root, the last
// one if a mount hides another. Lines about other places tell nothing: every process
// sees the host's mounts. A process in the caller's mount namespace has the caller's
// root, so root returns nothing for it.
func root(dir string) (found []byte) {
	const mountPoint = 4 // the index of the field
	if theirs, err := os.Readlink(filepath.Join(dir, "ns/mnt")); err == nil {
		if ours, err := os.Readlink("/proc/self/ns/mnt"); err == nil && ours == theirs {
			return nil
		}
	}
	data, err := rawfile.Read(filepath.Join(dir, "mountinfo"))
	if err != nil {
		return nil
	}
	for line := range bytes.Lines(data) {
		if fields := bytes.Fields(line); len(fields) > mountPoint && string(fields[mountPoint]) == "/" {
			found = line
		}
	}
	return found
}
