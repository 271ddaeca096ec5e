package leak

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/procmark"
	"github.com/nodekit-project/nodekit/internal/rawfile"
)

// proc is what /proc tells of a process.
type proc struct {
	pid, parent int
	state       string
	started     string // in clock ticks: with the id it names one process for ever
	comm        string
	kernel      bool // a kernel thread
}

// pfKthread is PF_KTHREAD of the kernel's include/linux/sched.h.
const pfKthread = 0x00200000

func processes(scope *Scope) (things, error) {
	all, err := readProcs()
	if err != nil {
		return nil, err
	}
	found, self := make(things), os.Getpid()
	for pid, p := range all {
		if pid == self || p.kernel || !scope.matches(Process, strconv.Itoa(pid)) {
			continue
		}
		if p.state == "Z" && !descends(all, pid, self) {
			continue // its parent owes the wait; nothing of it is left but the id
		}
		if !scope.concerns(all, pid) {
			continue
		}
		found.add(strconv.Itoa(pid)+" "+p.started, fmt.Sprintf("%d %s", pid, p.command()))
	}
	return found, nil
}

// concerns tells whether a process is one of those that the marker or the network
// namespaces select.
func (s *Scope) concerns(all map[int]proc, pid int) bool {
	if s.Marker == "" || procmark.Carries(pid, s.Marker) || s.inside(pid) {
		return true
	}
	return !s.MarkedOnly && descends(all, pid, os.Getpid())
}

// inside tells whether a process is in one of the network namespaces. One that has
// ended, or may not be looked at, is not.
func (s *Scope) inside(pid int) bool {
	if len(s.NetNS) == 0 {
		return false
	}
	name, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
	return err == nil && slices.Contains(s.NetNS, name)
}

func readProcs() (map[int]proc, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	all := make(map[int]proc)
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		p, err := readProc(pid)
		if err != nil {
			return nil, err
		}
		if p.pid != 0 {
			all[pid] = p
		}
	}
	return all, nil
}

// readProc reads /proc/PID/stat; a zero proc means that the process has ended.
func readProc(pid int) (proc, error) {
	data, err := rawfile.Read(fmt.Sprintf("/proc/%d/stat", pid))
	if gone(err) || errors.Is(err, unix.ESRCH) {
		return proc{}, nil
	}
	if err != nil {
		return proc{}, err
	}
	// The name stands in parentheses and may itself hold some.
	open, end := bytes.IndexByte(data, '('), bytes.LastIndexByte(data, ')')
	if open < 0 || end < open {
		return proc{}, fmt.Errorf("/proc/%d/stat: unknown format", pid)
	}
	fields := strings.Fields(string(data[end+1:])) // from the third field of proc(5) on
	if len(fields) < 20 {
		return proc{}, fmt.Errorf("/proc/%d/stat: %d fields", pid, len(fields))
	}
	parent, err := strconv.Atoi(fields[1])
	if err != nil {
		return proc{}, fmt.Errorf("/proc/%d/stat: %w", pid, err)
	}
	flags, err := strconv.ParseUint(fields[6], 10, 64)
	if err != nil {
		return proc{}, fmt.Errorf("/proc/%d/stat: %w", pid, err)
	}
	return proc{
		pid: pid, parent: parent, state: fields[0], started: fields[19],
		comm: string(data[open+1 : end]), kernel: flags&pfKthread != 0,
	}, nil
}

func (p proc) command() string {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.pid))
	if err != nil || len(line) == 0 {
		return fmt.Sprintf("[%s] (state %s)", p.comm, p.state)
	}
	return strings.TrimSpace(strings.ReplaceAll(string(line), "\x00", " "))
}

func descends(all map[int]proc, pid, ancestor int) bool {
	for range len(all) { // a torn read could make a loop
		p, ok := all[pid]
		if !ok || p.parent == 0 {
			return false
		}
		if p.parent == ancestor {
			return true
		}
		pid = p.parent
	}
	return false
}

// descriptors identifies an open file by what it is open on, not by its
// number.
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
