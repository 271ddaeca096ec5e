package flock

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/procstat"
)

// lentAt is the descriptor of a lent lock in the started program or, if the program
// has that many, the first one after its own. Programs assign descriptors from 3 on
// to their children, replacing whatever is there, and leave the high ones alone.
const lentAt = 100

// Lend makes a command that is about to be started, and all its descendants, hold the
// lock too: it is free when this process has released it and the last of them has
// ended, whatever becomes of this process, and of their parents, sessions and process
// groups. It is for a lock of a whole file.
func (l *Lock) Lend(cmd *exec.Cmd) {
	const first = 3 // behind the standard streams
	files := slices.Clone(cmd.ExtraFiles)
	for len(files) < lentAt-first {
		files = append(files, nil)
	}
	cmd.ExtraFiles = append(files, l.file)
}

// evictLimit is how long killed processes may take to be gone.
const evictLimit = 10 * time.Second

// Evict returns when nobody has a lock of the whole file at path any more: it waits
// for grace, and then kills the other processes that have one, those to which it was
// lent, with all their descendants. If the file does not exist, nobody has one. The
// caller must not hold the lock: it would wait for itself. Evict fails if ctx ends,
// or if processes are not gone some seconds after the grace.
func Evict(ctx context.Context, path string, grace time.Duration) error {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	own, err := f.Stat()
	if err != nil {
		return err
	}
	name, err := os.Readlink(filepath.Join("/proc/self/fd", strconv.Itoa(int(f.Fd()))))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, grace+evictLimit)
	defer cancel()
	kill := time.Now().Add(grace)
	var killed []int
	for delay := time.Millisecond; ; delay = min(2*delay, 50*time.Millisecond) {
		if err := lock(f, whole(Exclusive), false); !busy(err) {
			return err
		}
		if !time.Now().Before(kill) {
			killed = killHolders(name, own)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for the end of the processes that have %q locked, of which %v were killed: %w", path, killed, context.Cause(ctx))
		case <-time.After(delay):
		}
	}
}

// killHolders kills every other process that has a lock on the named file. It opens a
// pidfd of whatever process has the id before it checks that process.
func killHolders(name string, file os.FileInfo) (pids []int) {
	processes, _ := os.ReadDir("/proc")
	for _, p := range processes {
		pid, err := strconv.Atoi(p.Name())
		if err != nil || pid == os.Getpid() || !holds(pid, name, file) {
			continue
		}
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil { // it is gone
			continue
		}
		if holds(pid, name, file) {
			killTree(pid, fd)
			pids = append(pids, pid)
		}
		_ = unix.Close(fd)
	}
	return pids
}

// stopLimit is how long a process may take to stop, and a killed one to be gone. A
// process that hangs in the kernel for longer is not waited for.
const stopLimit = time.Second

// killTree kills a process and its descendants, which may have closed the lock and
// would continue: criu, for example, has iptables lock a network. It stops the
// process first, so that it neither starts more nor reaps a child whose id another
// process could then get.
func killTree(pid, fd int) {
	_ = unix.PidfdSendSignal(fd, unix.SIGSTOP, nil, 0) // it may be gone by now, here and below
	for deadline := time.Now().Add(stopLimit); !standsStill(pid) && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	for _, child := range children(pid) {
		if c, err := unix.PidfdOpen(child, 0); err == nil {
			killTree(child, c)
			_, _ = unix.Poll([]unix.PollFd{{Fd: int32(c), Events: unix.POLLIN}}, int(stopLimit.Milliseconds()))
			_ = unix.Close(c)
		}
	}
	_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
}

// standsStill reports whether a process is stopped or gone.
func standsStill(pid int) bool {
	stat, err := procstat.Read(pid)
	return err != nil || strings.IndexByte("TtZX", stat.State) >= 0
}

// children returns the children of a process if the kernel reports them
// (proc_pid_children(5)), which it does with CONFIG_CHECKPOINT_RESTORE.
func children(pid int) (pids []int) {
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, l := range lists {
		text, _ := os.ReadFile(l)
		for _, f := range bytes.Fields(text) {
			if child, err := strconv.Atoi(string(f)); err == nil {
				pids = append(pids, child)
			}
		}
	}
	return pids
}

// holds reports whether a process has a lock on the file. Having it open is not
// enough: the process may only read it, or may be about to exec another program, at a
// moment when this process has the file open. Nor is the name enough: the file may be
// in a container's mount namespace.
func holds(pid int, name string, file os.FileInfo) bool {
	dir := fmt.Sprintf("/proc/%d", pid)
	entries, _ := os.ReadDir(dir + "/fd") // it is gone, or has none
	for _, e := range entries {
		at := filepath.Join(dir, "fd", e.Name())
		if target, err := os.Readlink(at); err != nil || target != name {
			continue // most of them, without asking a file system
		}
		locks, err := os.ReadFile(filepath.Join(dir, "fdinfo", e.Name()))
		if err != nil || !bytes.Contains(locks, []byte("FLOCK")) {
			continue
		}
		if seen, err := os.Stat(at); err == nil && os.SameFile(seen, file) {
			return true
		}
	}
	return false
}
