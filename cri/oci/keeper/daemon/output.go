package daemon

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cri/oci/keeper/internal/wire"
)

// output is one output of a container: the read end of a pipe whose write end the
// container has. An unfinished line stays in the pipe: see patience.
type output struct {
	fd       int
	frame    byte
	over     bool // it has ended, and all of it has been read
	seen     int  // bytes in the pipe that attached clients already have
	saw      int  // the length of an unfinished line when more than it was there
	owed     int  // at most so many bytes are waited for: see stdio.reckon
	tap      *tap // set if the pipe is the keeper's own
	patience patience
}

// tap is a terminal, which cannot be copied without being read. So that the keeper's
// death loses no more than what is being read at that moment, what is read goes into a
// pipe at once and is processed from there like other output.
//
// A read says so if no process has the terminal open; since it may be opened again, it
// ends only with the container's process. It must not be closed before that: the process
// would get a hang-up.
type tap struct {
	tty  int
	into *os.File
	hung bool // no process has the terminal open
	over bool // and none will again
}

const (
	// ttyRead is the most that one read of a terminal returns.
	ttyRead = 4 << 10
	// tapLimit is the fill level up to which the pipe certainly has room for another
	// read, in pieces of any size. It is larger than the longest record.
	tapLimit = 17 << 10
	// ttyMost is more than the kernel buffers for a terminal that is not read.
	ttyMost = 1 << 20
)

func (o *output) role() role {
	if o.frame == wire.FrameStderr {
		return roleStderr
	}
	return roleStdout
}

// source returns the descriptor that becomes readable when there is output.
func (o *output) source() int {
	if o.tap != nil {
		return o.tap.tty
	}
	return o.fd
}

// there returns the most that can be read now. For a terminal, that shows only when it is
// read.
func (o *output) there() int {
	if o.tap != nil {
		return held(o.fd) + ttyMost
	}
	return held(o.fd)
}

// pull moves what the terminal has into the pipe. ended says that the container's process
// has ended.
func (o *output) pull(buf []byte, ended bool) error {
	if o.tap == nil {
		return nil
	}
	for held(o.fd) < tapLimit {
		n, err := readAgain(o.tap.tty, buf[:ttyRead])
		o.tap.hung = n <= 0 && !errors.Is(err, unix.EAGAIN) // with EIO
		if n <= 0 {
			o.tap.over = o.tap.hung && ended
			return nil
		}
		if _, err := o.tap.into.Write(buf[:n]); err != nil {
			return err
		}
	}
	return nil
}

// turn is how many pieces of an output are processed before it is the other output's
// turn.
const turn = 16

// drain processes an output until there is nothing more to do for now, or the other
// output must not wait any longer.
func (s *stdio) drain(o *output) {
	if !s.goesOn(o) {
		return
	}
	p := s.pool.get()
	defer s.pool.put(p)
	step := func() bool { return s.pass(o, p) }
	if s.log != nil {
		k, err := s.desks.take()
		if err != nil { // no descriptors, which may be temporary
			s.complain(err)
			time.AfterFunc(acceptPause, s.wake)
			return
		}
		defer s.desks.giveBack(k)
		step = func() bool { return s.copy(o, k, p) }
	}
	for n := 0; s.goesOn(o) && step(); n++ {
		if n == turn && len(s.due) == 0 && !s.last {
			s.wake()
			return
		}
	}
}

// pass delivers output that is not logged, and reports whether there was any.
func (s *stdio) pass(o *output, p *pages) bool {
	if err := o.pull(p.in[:], s.hasEnded()); err != nil {
		s.complain(err)
	}
	n, err := readAgain(o.fd, p.in[:])
	if n > 0 {
		s.deliver(o.frame, p.in[:n])
		o.owed -= n
		return true
	}
	o.owed = 0
	o.over = !errors.Is(err, unix.EAGAIN) || o.tap != nil && o.tap.over
	return false
}

// copy writes the available output to the log, and reports whether there may be more.
func (s *stdio) copy(o *output, k *desk, p *pages) bool {
	if err := o.pull(p.in[:], s.hasEnded()); err != nil {
		s.complain(err)
	}
	n, err := k.duplicate(o.fd, p.in[:])
	o.patience.look(o.fd)
	if n == 0 {
		o.owed = 0
		if o.over = err == nil || o.tap != nil && o.tap.over; !o.over && !errors.Is(err, unix.EAGAIN) {
			s.complain(fmt.Errorf("reading a container's output: %w", err))
		}
		return false
	}
	if n > o.seen {
		s.deliver(o.frame, p.in[o.seen:n])
		o.seen = n
	}
	c := piece{pipe: o.fd, frame: o.frame, at: time.Now(), spare: p.in[:]}
	p.out, c.take = encode(p.out[:0], c.at, o.frame, p.in[:n], false)
	if c.take == 0 {
		switch o.unfinished(n) {
		case itGrows:
			return true
		case itWaits:
			if o.owed <= 0 {
				o.patience.wait(s.wake)
				return false
			}
		}
		c.flush = true
		p.out, c.take = encode(p.out[:0], c.at, o.frame, p.in[:n], true)
	}
	c.records = p.out
	if err := s.log.record(k, &c); err != nil {
		s.complain(err)
		s.lost += c.take
	}
	o.seen, o.saw, o.owed = o.seen-c.take, 0, o.owed-c.take
	o.patience.took(c.take)
	return true
}

// What becomes of an unfinished line.
type rest int

const (
	itWaits rest = iota // for the end of the line
	itGrows             // more of it is already there
	itEnds              // no more of it comes, or fits into the pipe
)

// unfinished says what becomes of the n bytes without a line end in the pipe.
func (o *output) unfinished(n int) rest {
	hung := o.tap != nil && o.tap.hung || o.tap == nil && hungUp(o.fd)
	if held(o.fd) > n {
		if o.saw == n { // there is more behind it than one look shows
			return itEnds
		}
		o.saw = n
		return itGrows
	}
	if hung || isFull(o.fd) || o.patience.over() {
		return itEnds
	}
	return itWaits
}

// hungUp reports whether the other end of a pipe or connection is closed.
func hungUp(fd int) bool {
	poll := []unix.PollFd{{Fd: int32(fd)}}
	n, err := unix.Poll(poll, 0)
	return err == nil && n > 0 && poll[0].Revents&unix.POLLHUP != 0
}

// isFull reports whether a pipe accepts no more. With many small pieces in it, that is
// long before it holds its capacity in bytes. Only the write end can tell.
func isFull(pipe int) bool {
	fd, err := openWriteEnd(pipe)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	n, err := unix.Poll(poll, 0)
	return err == nil && n == 0
}

func openWriteEnd(pipe int) (int, error) {
	return unix.Open(fmt.Sprintf("/proc/self/fd/%d", pipe), unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
}
