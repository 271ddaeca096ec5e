// Package procstat reads what the kernel says of a process in one line
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

// Stat is a part of the line, named as the manual does.
type Stat struct {
	Comm  string // the program's name, at most 15 bytes, which the process may change to any others
	State byte   // a letter: R, S, D, Z, ...
	PPID  int
	Flags uint64 // the kernel's PF_*
	// Threads are those that have not ended, and the first one in any case.
	Threads int
	// StartTime is in clock ticks since the boot. With the process's id it names one
	// process until the next boot.
	StartTime uint64
	VSize     uint64 // of its memory, in bytes; threads of the kernel and zombies have none
	// EnvEnd is where the environment ends in its memory, ExitCode a wait status. Both
	// are 0 to a reader who may not trace the process (PTRACE_MODE_READ_FSCREDS).
	EnvEnd   uint64
	ExitCode int
}

// Zombie reports whether the process has ended and its parent has yet to wait for it.
// One whose first thread has ended shows the same state while the others go on.
func (s Stat) Zombie() bool { return (s.State == 'Z' || s.State == 'X') && s.Threads <= 1 }

// Kernel reports whether it is a thread of the kernel.
func (s Stat) Kernel() bool {
	const kthread = 0x00200000 // PF_KTHREAD of the kernel's include/linux/sched.h
	return s.Flags&kthread != 0
}

// Read returns the state of a process. The error for one that is no more is both
// fs.ErrNotExist and unix.ESRCH. A zombie is still there.
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

// Ended reports whether a process is no more, or a zombie. One of which the kernel
// does not tell has not ended.
func Ended(pid int) bool {
	s, err := Read(pid)
	if err != nil {
		return errors.Is(err, fs.ErrNotExist)
	}
	return s.Zombie()
}

// failure is the error of a read. A process that ends between the opening of the file
// and the reading is told from one that was gone before by the number alone.
func failure(pid int, err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("process %d: %w (%w)", pid, unix.ESRCH, fs.ErrNotExist)
	}
	return fmt.Errorf("process %d: %w", pid, err)
}

// parse reads the line. The name stands in parentheses and may have some in it, spaces
// and line ends, too: it ends with the last that closes.
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
		StartTime: f.unsigned(22), VSize: f.unsigned(23), EnvEnd: f.unsigned(51), ExitCode: f.signed(last),
	}
	if f.err != nil {
		return Stat{}, fmt.Errorf("its stat %q: %w", line, f.err)
	}
	return s, nil
}

// state is the number of the first field behind the name.
const state = 3

// fields are those from the state on, counted as the manual does. It keeps the first error.
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
