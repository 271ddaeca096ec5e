package cnisuite

import (
	"errors"
	"maps"
	"os"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/leak"
	"github.com/nodekit-project/nodekit/internal/procstat"
)

// processes maps process ids to pidfds. A pidfd reports the end of the last thread
// (pidfd_open(2)), which has closed its files by then; before that, /proc already
// shows the process without its memory, and so without its marks.
type processes map[int]int

// hold adds the running processes of the plugin and its daemon. Zombies are left out:
// they are no more than a number.
func (l *lab) hold(into processes) error {
	for {
		found, err := l.running()
		if err != nil {
			return err
		}
		if all, err := into.open(found); all || err != nil {
			return err
		}
	}
}

// running returns the processes of the plugin and of its daemon: their start times,
// by id.
func (l *lab) running() (map[int]uint64, error) {
	now, err := leak.Take(l.scopeOf(leak.Process))
	if err != nil {
		return nil, err
	}
	found := now.Processes()
	maps.Copy(found, l.group())
	return found, nil
}

// group returns the daemon's process group, as running does.
func (l *lab) group() map[int]uint64 {
	if l.daemon == 0 {
		return nil
	}
	found := map[int]uint64{}
	entries, _ := os.ReadDir("/proc") // leak.Take has read it
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		st, err := procstat.Read(pid)
		if err != nil {
			continue
		}
		if group, err := unix.Getpgid(pid); err == nil && group == l.daemon {
			found[pid] = st.StartTime
		}
	}
	return found
}

// open adds processes. all is false if one was left out because its id belongs to
// another process by now, which may also be the plugin's.
func (p processes) open(found map[int]uint64) (all bool, err error) {
	all = true
	var errs []error
	for pid, start := range found {
		if _, is := p[pid]; is || pid <= 1 {
			continue
		}
		fd, err := unix.PidfdOpen(pid, 0)
		if errors.Is(err, unix.ESRCH) { // it has ended
			continue
		}
		if err != nil {
			errs = append(errs, os.NewSyscallError("pidfd_open", err))
			continue
		}
		// A process that has the id now and the same start time has had it all the
		// time.
		st, err := procstat.Read(pid)
		switch {
		case err == nil && st.StartTime == start && !ended(fd, time.Now()):
			p[pid] = fd
			continue
		case err == nil && st.StartTime != start:
			all = false
		case err != nil && !errors.Is(err, unix.ESRCH):
			errs = append(errs, err)
		}
		_ = unix.Close(fd) // it was only read
	}
	return all, errors.Join(errs...)
}

// end kills the processes and waits until the deadline for them to end. It returns
// those that still run.
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
