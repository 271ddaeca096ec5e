package supervisor

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strconv"
)

// KillMarked kills every process, other than this one, whose own command line or
// environment holds the mark, and returns how many those were. It is for what a
// process left running on purpose, as a monitor of containers does; the mark is
// something that nobody else can have, as a temporary directory's path. What
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
		if err != nil || !carries(pid, mark) {
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

func carries(pid int, mark string) bool {
	for _, file := range []string{"cmdline", "environ"} {
		data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), file))
		if err == nil && bytes.Contains(data, []byte(mark)) {
			return true
		}
	}
	return false
}
