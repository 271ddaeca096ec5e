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

// How long Remove and Kill wait for the kernel. A killed process leaves its cgroup
// only when its address space is gone, which takes milliseconds, or seconds for
// gigabytes.
const (
	removeLimit = 5 * time.Second
	killLimit   = 10 * time.Second
)

// Remove removes the cgroup and everything below it. It waits up to five seconds for
// exiting processes and kills nothing. It succeeds if the cgroup does not exist.
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

// Destroy kills every process in the cgroup and below it, as Kill does, and removes
// all of it. A cgroup that is empty, as most are by then, is removed without reading
// its processes.
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

// Prune removes the cgroup if it is empty and has no children; otherwise it leaves
// the cgroup alone.
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

// Kill kills every process in the cgroup and below it and returns when they are gone.
// It succeeds if the cgroup does not exist. On v2 the kernel kills them together
// (cgroup.kill); on v1, or before Linux 5.14, the processes are killed again and
// again until none is left.
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

// killEach kills processes by id, none of which may belong to another process by now:
// it opens a pidfd of whatever process has the id, and sends the signal only if the
// id is still, or again, in the cgroup.
func killEach(dirs []string, pids map[int]bool) {
	held := map[int]int{}
	for pid := range pids {
		if fd, err := unix.PidfdOpen(pid, 0); err == nil { // otherwise it is gone, as it should be
			held[pid] = fd
		}
	}
	still := processes(dirs)
	for pid, fd := range held {
		if still[pid] {
			_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) // it may be gone by now
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
