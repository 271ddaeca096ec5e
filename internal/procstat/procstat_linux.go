// Package procstat reads the kernel's one-line status of a process
// (proc_pid_stat(5)). It needs Linux.
package procstat

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/rawfile"
)

// Stat is a part of the line, with the manual's names.
type Stat struct {
	Comm  string // the program's name, at most 15 bytes, which the process may change arbitrarily
	State byte   // a letter: R, S, D, Z, ...
	PPID  int
	Flags uint64 // the kernel's PF_*
	// Threads counts the threads that have not ended; the first one always counts.
	Threads int
	// StartTime is in clock ticks since the boot. Together with the process id it
	// identifies a process until the next boot.
	StartTime uint64
	VSize     uint64 // size of its memory in bytes; 0 for kernel threads and zombies
	// EnvStart and EnvEnd are the addresses of the environment, ExitCode is a wait status.
	// They are 0 for a reader that may not trace the process
	// (PTRACE_MODE_READ_FSCREDS).
	EnvStart uint64
	EnvEnd   uint64
	ExitCode int
}

// Zombie reports whether the process has ended and its parent has yet to wait for it.
// A process whose first thread has ended has the same state while its other threads
// run.
func (s Stat) Zombie() bool { return (s.State == 'Z' || s.State == 'X') && s.Threads <= 1 }

// Kernel reports whether it is a kernel thread.
func (s Stat) Kernel() bool {
	const kthread = 0x00200000 // PF_KTHREAD of the kernel's include/linux/sched.h
	return s.Flags&kthread != 0
}

// Read returns the state of a process. If the process no longer exists, the error is
// both fs.ErrNotExist and unix.ESRCH. A zombie still exists.
func Read(pid int) (Stat, error) {
	line, err := rawfile.Read("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return Stat{}, failure(pid, err)
	}
	s, err := parse(line)
	if err != nil {
		return Stat{}, fmt.Errorf("process %d: %w", pid, err)
	}
	return s, nil
}

// Ended reports whether a process no longer exists or is a zombie. A process whose
// state cannot be read counts as not ended.
func Ended(pid int) bool {
	s, err := Read(pid)
	if err != nil {
		return errors.Is(err, fs.ErrNotExist)
	}
	return s.Zombie()
}

// failure returns the error of a read. Only the errno distinguishes a process that
// ended between the opening of the file and the read from one that was gone before.
func failure(pid int, err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("process %d: %w (%w)", pid, unix.ESRCH, fs.ErrNotExist)
	}
	return fmt.Errorf("process %d: %w", pid, err)
}

// parse parses the line. The name is in parentheses and may itself contain
// parentheses, spaces and newlines: it ends at the last closing parenthesis.
func parse(line []byte) (Stat, error) {
	open, end := bytes.IndexByte(line, '('), bytes.LastIndexByte(line, ')')
	if open < 0 || end < open {
		return Stat{}, fmt.Errorf("its stat %q has no name", line)
	}
	f := fields{all: strings.Fields(string(line[end+1:]))}
	const last = 52 // since Linux 3.5
	if len(f.all) <= last-state {
		return Stat{}, fmt.Errorf("its stat %q ends before field %d", line, last)
	}
	s := Stat{
		Comm: string(line[open+1 : end]), State: f.all[0][0], PPID: f.signed(4), Flags: f.unsigned(9), Threads: f.signed(20),
		StartTime: f.unsigned(22), VSize: f.unsigned(23), EnvStart: f.unsigned(50), EnvEnd: f.unsigned(51), ExitCode: f.signed(last),
	}
	if f.err != nil {
		return Stat{}, fmt.Errorf("its stat %q: %w", line, f.err)
	}
	return s, nil
}

// state is the number of the first field after the name.
const state = 3

// fields are the fields from the state on, numbered as in the manual. It keeps the
// first error.
type fields struct {
	all []string
	err error
}

func (f *fields) signed(number int) int {
	n, err := strconv.Atoi(f.all[number-state])
	f.note(number, err)
	return n
}

func (f *fields) unsigned(number int) uint64 {
	n, err := strconv.ParseUint(f.all[number-state], 10, 64)
	f.note(number, err)
	return n
}

func (f *fields) note(number int, err error) {
	if err != nil && f.err == nil {
		f.err = fmt.Errorf("field %d: %w", number, err)
	}
}
