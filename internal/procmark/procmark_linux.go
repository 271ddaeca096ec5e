// Package procmark tells which processes belong to something, a runtime that is tested
// say: those that have a mark, which nobody else can have, as the path of a temporary
// directory. It reads /proc, and so needs Linux.
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

// Carries reports whether the process's own command line, environment or root
// file system holds the mark. A container's process has nothing else of the
// runtime that started it than a root below the runtime's directory, and is found
// by it when all of the runtime has been killed. A process that has ended, or may
// not be read, does not.
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
	return bytes.Contains(root(dir), text)
}

// Environ returns the environment that a process was executed with
// (proc_pid_environ(5)). In the middle of execve(2) a process has none, nor a command
// line: the end of that is waited for.
func Environ(pid int) ([]byte, error) {
	for deadline := time.Now().Add(execLimit); ; time.Sleep(50 * time.Microsecond) {
		env, err := rawfile.Read(filepath.Join(dirOf(pid), "environ"))
		if err != nil || len(env) > 0 {
			return env, err
		}
		if stat, err := procstat.Read(pid); err != nil || !executing(stat) || time.Now().After(deadline) {
			// Either it has none, or it has one since it was asked.
			return rawfile.Read(filepath.Join(dirOf(pid), "environ"))
		}
	}
}

// execLimit is for a process that reads its program from a disk which does not answer.
const execLimit = time.Second

func dirOf(pid int) string { return filepath.Join("/proc", strconv.Itoa(pid)) }

// executing reports whether the process has the memory of a new program and not yet
// its environment. That is only told to who may read the environment.
func executing(s procstat.Stat) bool { return s.VSize != 0 && s.EnvEnd == 0 }

// root returns the line of proc_pid_mountinfo(5) that is about the process's root,
// the last where one mount hides another. Lines about other places tell nothing:
// every process sees the host's mounts. A process in the caller's mount namespace
// has the caller's root, and it is not looked for.
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
