package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/procstat"
)

// How long Remove and Kill wait for the kernel. A process that was killed
// leaves its cgroup only when its address space is gone, which takes
// milliseconds, or seconds for gigabytes.
const (
	removeLimit = 5 * time.Second
	killLimit   = 10 * time.Second
)

// Remove removes the cgroup and everything below it. It waits up to five
// seconds for processes that are on their way out and kills nothing. A cgroup
// that is not there is not an error.
func Remove(path string) error {
	dirs, err := Dirs(path)
	if err != nil {
		return err
	}
	deadline := time.Now().Add(removeLimit)
	var errs []error
	if IsUnit(path) && Systemd() {
		errs = append(errs, removeUnit(path, dirs, deadline))
	}
	for _, d := range dirs {
		errs = append(errs, removeTree(d, deadline))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("removing cgroup %q: %w", path, err)
	}
	return nil
}

// Destroy kills every process in the cgroup and below it, as Kill does, and
// removes all of it. One that is empty, as most are when their time has come, is
// removed without a look at what is in it.
func Destroy(path string) error {
	dirs, err := Dirs(path)
	if err != nil {
		return err
	}
	if !IsUnit(path) {
		full := slices.ContainsFunc(dirs, func(d string) bool { return rmdir(d) != nil })
		if !full {
			return nil
		}
	}
	if err := Kill(path); err != nil {
		return err
	}
	return Remove(path)
}

// Prune removes the cgroup if nothing is in it or below it, and leaves it alone
// otherwise.
func Prune(path string) error {
	dirs, err := Dirs(path)
	if err != nil {
		return err
	}
	if IsUnit(path) && Systemd() {
		if len(processes(dirs)) > 0 || slices.ContainsFunc(dirs, func(d string) bool { return len(children(d)) > 0 }) {
			return nil
		}
		return Remove(path)
	}
	for _, d := range dirs {
		if err := rmdir(d); err != nil && !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ENOTEMPTY) {
			return fmt.Errorf("removing cgroup %q: %w", path, err)
		}
	}
	return nil
}

func removeTree(dir string, deadline time.Time) error {
	if err := rmdir(dir); err == nil {
		return nil
	}
	for delay := time.Millisecond; ; delay *= 2 {
		for _, child := range children(dir) {
			if err := removeTree(child, deadline); err != nil {
				return err
			}
		}
		err := rmdir(dir)
		if err == nil || !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			return err
		}
		time.Sleep(min(delay, 100*time.Millisecond)) // no event tells when a v1 cgroup is free
	}
}

func rmdir(dir string) error {
	err := unix.Rmdir(dir)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return &fs.PathError{Op: "rmdir", Path: dir, Err: err}
}

func children(dir string) []string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil // gone, or rmdir reports why not
	}
	var dirs []string
	for _, e := range entries {
		if e.IsDir() {
			dirs = append(dirs, filepath.Join(dir, e.Name()))
		}
	}
	return dirs
}

// Kill kills every process in the cgroup and below it and returns when they
// are gone. A cgroup that is not there has none. On v2 the kernel does it at
// once (cgroup.kill); on v1, or before Linux 5.14, the processes are killed
// again and again until none is left.
func Kill(path string) error {
	dirs, err := Dirs(path)
	if err != nil {
		return err
	}
	deadline := time.Now().Add(killLimit)
	for delay := time.Millisecond; ; delay *= 2 {
		pids := processes(dirs)
		if len(pids) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("killing cgroup %q: processes %v do not end", path, pids)
		}
		if !killAtOnce(dirs) {
			killEach(dirs, pids)
		}
		time.Sleep(min(delay, 50*time.Millisecond))
	}
}

func killAtOnce(dirs []string) bool {
	return len(dirs) == 1 && os.WriteFile(filepath.Join(dirs[0], "cgroup.kill"), []byte("1"), 0) == nil
}

// killEach kills processes by their ids, none of which may be another's by now:
// a descriptor keeps hold of whatever has the id, and the signal is sent if that
// id is in the cgroup still, or again.
func killEach(dirs []string, pids map[int]bool) {
	held := map[int]int{}
	for pid := range pids {
		if fd, err := unix.PidfdOpen(pid, 0); err == nil { // else it is gone, which is what we want
			held[pid] = fd
		}
	}
	still := processes(dirs)
	for pid, fd := range held {
		if still[pid] {
			_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) // it may be gone by now, too
		}
		_ = unix.Close(fd)
	}
}

// Processes returns the ids of all processes in the cgroup and below it.
func Processes(path string) ([]int, error) {
	dirs, err := Dirs(path)
	if err != nil {
		return nil, err
	}
	var pids []int
	for pid := range processes(dirs) {
		pids = append(pids, pid)
	}
	return pids, nil
}

func processes(dirs []string) map[int]bool {
	pids := map[int]bool{}
	for _, d := range dirs {
		collect(d, pids)
	}
	return pids
}

// collect adds the live processes of dir and below. A zombie stays listed on
// v1 until its parent reaps it; it holds nothing and cannot be killed.
func collect(dir string, into map[int]bool) {
	content, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return // gone
	}
	for line := range strings.FieldsSeq(string(content)) {
		if pid, err := strconv.Atoi(line); err == nil && pid > 0 && !procstat.Ended(pid) {
			into[pid] = true
		}
	}
	for _, child := range children(dir) {
		collect(child, into)
	}
}
