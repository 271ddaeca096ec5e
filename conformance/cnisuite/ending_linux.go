package cnisuite

import (
	"errors"
	"os"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/leak"
)

// processes are held by descriptors, by their ids. A descriptor tells the end of the
// last thread (pidfd_open(2)), which has closed its files by then; /proc shows a
// process without its memory, and so without its marks, before that.
type processes map[int]int

// hold adds what the plugin and its daemon have running. What has ended and was not
// waited for is left out: it is no more than a number.
func (l *lab) hold(into processes) error {
	now, err := leak.Take(l.scopeOf(leak.Process))
	if err != nil {
		return err
	}
	pids := l.group()
	for _, name := range now.Names(leak.Process) {
		pids = append(pids, pidOf(name))
	}
	var errs []error
	for _, pid := range pids {
		if _, is := into[pid]; is || pid <= 1 {
			continue
		}
		fd, err := unix.PidfdOpen(pid, 0)
		switch {
		case errors.Is(err, unix.ESRCH): // it has ended
		case err != nil:
			errs = append(errs, os.NewSyscallError("pidfd_open", err))
		case ended(fd, time.Now()):
			_ = unix.Close(fd) // it was only read
		default:
			into[pid] = fd
		}
	}
	return errors.Join(errs...)
}

// group returns the daemon's process group.
func (l *lab) group() (pids []int) {
	if l.daemon == 0 {
		return nil
	}
	entries, _ := os.ReadDir("/proc") // leak.Take has read it
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if group, err := unix.Getpgid(pid); err == nil && group == l.daemon {
			pids = append(pids, pid)
		}
	}
	return pids
}

// end kills the processes and waits for their ends until the deadline. It returns those
// that live on.
func (p processes) end(deadline time.Time) (left []int) {
	for _, fd := range p {
		_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) // it may have ended
	}
	for pid, fd := range p {
		if !ended(fd, deadline) {
			left = append(left, pid)
			continue
		}
		_ = unix.Close(fd) // it was only read
		delete(p, pid)
	}
	slices.Sort(left)
	return left
}

// ended waits for the end of a process.
func ended(fd int, deadline time.Time) bool {
	for {
		wait := max(0, time.Until(deadline).Milliseconds())
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(wait))
		if !errors.Is(err, unix.EINTR) {
			return n > 0
		}
	}
}

func (p processes) release() {
	for _, fd := range p {
		_ = unix.Close(fd) // it was only read
	}
}
