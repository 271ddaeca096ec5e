package leak

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/procmark"
	"github.com/nodekit-project/nodekit/internal/procstat"
)

func processes(scope *Scope) (things, error) {
	all, err := readProcs()
	if err != nil {
		return nil, err
	}
	found, self := make(things), os.Getpid()
	for pid, p := range all {
		if pid == self || p.Kernel() || !scope.matches(Process, strconv.Itoa(pid)) {
			continue
		}
		if p.Zombie() && !descends(all, pid, self) {
			continue // its parent must still reap it; only its id is left
		}
		if !scope.concerns(all, pid) {
			continue
		}
		found.add(fmt.Sprintf("%d %d", pid, p.StartTime), fmt.Sprintf("%d %s", pid, command(pid, p)))
	}
	return found, nil
}

// concerns reports whether the marker or the network namespaces select a process.
func (s *Scope) concerns(all map[int]procstat.Stat, pid int) bool {
	if s.Marker == "" || procmark.Carries(pid, s.Marker) || s.inside(pid) {
		return true
	}
	return !s.MarkedOnly && descends(all, pid, os.Getpid())
}

// inside reports whether a process is in one of the network namespaces; false if it
// has ended or may not be inspected.
func (s *Scope) inside(pid int) bool {
	if len(s.NetNS) == 0 {
		return false
	}
	name, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
	return err == nil && slices.Contains(s.NetNS, name)
}

func readProcs() (map[int]procstat.Stat, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	all := make(map[int]procstat.Stat)
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		switch p, err := procstat.Read(pid); {
		case err == nil:
			all[pid] = p
		case !errors.Is(err, fs.ErrNotExist):
			return nil, err
		}
	}
	return all, nil
}

func command(pid int, p procstat.Stat) string {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || len(line) == 0 {
		return fmt.Sprintf("[%s] (state %c)", p.Comm, p.State)
	}
	return strings.TrimSpace(strings.ReplaceAll(string(line), "\x00", " "))
}

func descends(all map[int]procstat.Stat, pid, ancestor int) bool {
	for range len(all) { // a torn read could make a loop
		p, ok := all[pid]
		if !ok || p.PPID == 0 {
			return false
		}
		if p.PPID == ancestor {
			return true
		}
		pid = p.PPID
	}
	return false
}

// descriptors identifies an open file by what it refers to, not by its number.
func descriptors(scope *Scope) (things, error) {
	found := make(things)
	for _, pid := range scope.PIDs {
		dir := fmt.Sprintf("/proc/%d/fd", pid)
		entries, err := os.ReadDir(dir)
		if err != nil && !gone(err) && !errors.Is(err, unix.ESRCH) {
			return nil, err
		}
		for _, entry := range entries {
			on, err := os.Readlink(filepath.Join(dir, entry.Name()))
			if err != nil || on == dir {
				continue // closed just now, or this very look
			}
			id := fmt.Sprintf("%d %s", pid, on)
			if scope.matches(Descriptor, id) {
				found.add(id, fmt.Sprintf("%d: %s -> %s", pid, entry.Name(), on))
			}
		}
	}
	return found, nil
}
