// Package procmark tells which processes belong to something that is tested: those
// that have a mark, which nobody else can have, as the path of a temporary
// directory. It reads /proc, and so needs Linux.
package procmark

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"

	"github.com/nodekit-project/nodekit/internal/rawfile"
)

// Carries reports whether the process's own command line, environment or root
// file system holds the mark. A container's process has nothing else of the
// runtime that started it than a root below the runtime's directory, and is found
// by it when all of the runtime has been killed. A process that has ended, or may
// not be read, does not.
func Carries(pid int, mark string) bool {
	dir, text := filepath.Join("/proc", strconv.Itoa(pid)), []byte(mark)
	for _, file := range []string{"cmdline", "environ"} {
		if data, err := rawfile.Read(filepath.Join(dir, file)); err == nil && bytes.Contains(data, text) {
			return true
		}
	}
	return bytes.Contains(root(dir), text)
}

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
