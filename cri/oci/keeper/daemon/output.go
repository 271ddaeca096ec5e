package daemon

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cri/oci/keeper/internal/wire"
)

// output is one output of a container: the end to read of a pipe, of which the
// container has the other one. An unfinished line stays in the pipe.
type output struct {
	fd    int
	frame byte
	over  bool // it has ended, and all of it was read
	seen  int  // bytes in the pipe that the attached have got already
	saw   int  // how much of an unfinished line was seen when more was there
	owed  int  // the most bytes that somebody waits for: see stdio.reckon
	tap   *tap // where the pipe is the keeper's own; else nil
	crowd crowd
}

// tap is a terminal, which cannot be copied without being read. So that no more
// than what is being read at the moment is lost with the keeper, that is put into
// a pipe at once and goes on from there as other output does.
type tap struct {
	tty  int
	into *os.File
	hung bool // the terminal has ended
}

const (
	// ttyRead is the most that a terminal gives at once.
	ttyRead = 4 << 10
	// tapLimit is how full the pipe may be for more to fit in for certain, in
	// pieces of any size, and more than the longest record has room before.
	tapLimit = 17 << 10
	// ttyMost is more than the kernel keeps for a terminal that is not read.
	ttyMost = 1 << 20
)

func (o *output) role() role {
	if o.frame == wire.FrameStderr {
		return roleStderr
	}
	return roleStdout
}

// source is the descriptor that tells of output.
func (o *output) source() int {
	if o.tap != nil {
		return o.tap.tty
	}
	return o.fd
}

// there is the most that can be read now. Of a terminal only reading tells.
func (o *output) there() int {
	if o.tap != nil {
		return held(o.fd) + ttyMost
	}
	return held(o.fd)
}

// pull takes what the terminal has.
func (o *output) pull(buf []byte) error {
	if o.tap == nil {
		return nil
	}
	for !o.tap.hung && held(o.fd) < tapLimit {
		n, err := readAgain(o.tap.tty, buf[:ttyRead])
		switch {
		case errors.Is(err, unix.EAGAIN):
			return nil
		case n <= 0: // a terminal ends with EIO
			o.tap.hung = true
		default:
			if _, err := o.tap.into.Write(buf[:n]); err != nil {
				return err
			}
		}
	}
	return nil
}

// drain works on an output until there is nothing more to do for now.
func (s *stdio) drain(o *output) {
	if !s.goesOn(o) {
		return
	}
	p := s.pool.get()
	defer s.pool.put(p)
	step := func() bool { return s.pass(o, p) }
	if s.log != nil {
		k, err := s.desks.take()
		if err != nil { // of a lack of descriptors, which passes or not
			s.complain(err)
			time.AfterFunc(acceptPause, s.wake)
			return
		}
		defer s.desks.giveBack(k)
		step = func() bool { return s.copy(o, k, p) }
	}
	for s.goesOn(o) && step() {
	}
}

// pass passes output on that goes into no log, and reports whether there was any.
func (s *stdio) pass(o *output, p *pages) bool {
	if err := o.pull(p.in[:]); err != nil {
		s.complain(err)
	}
	n, err := readAgain(o.fd, p.in[:])
	if n > 0 {
		s.deliver(o.frame, p.in[:n])
		o.owed -= n
		return true
	}
	o.owed = 0
	o.over = !errors.Is(err, unix.EAGAIN) || o.tap != nil && o.tap.hung
	return false
}

// copy brings what there is into the log, and reports whether there may be more.
func (s *stdio) copy(o *output, k *desk, p *pages) bool {
	if err := o.pull(p.in[:]); err != nil {
		s.complain(err)
	}
	n, err := k.duplicate(o.fd, p.in[:])
	o.crowd.look(o.fd)
	if n == 0 {
		o.owed = 0
		if o.over = err == nil || o.tap != nil && o.tap.hung; !o.over && !errors.Is(err, unix.EAGAIN) {
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
				o.crowd.wait(s.wake)
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
	o.crowd.took(c.take)
	return true
}

// What becomes of an unfinished line.
type rest int

const (
	itWaits rest = iota // for its end
	itGrows             // there is more of it already
	itEnds              // it is all that comes, or that the pipe can hold
)

// unfinished says what becomes of the n bytes without an end that are in the pipe.
func (o *output) unfinished(n int) rest {
	hung := o.tap != nil && o.tap.hung || o.tap == nil && hungUp(o.fd)
	if held(o.fd) > n {
		if o.saw == n { // there is more behind than one look sees
			return itEnds
		}
		o.saw = n
		return itGrows
	}
	if hung || isFull(o.fd) || o.crowd.impatient() {
		return itEnds
	}
	return itWaits
}

// crowd tells whether somebody may be in the middle of a write, waiting for room in
// the pipe. What such a writer adds to bytes that are there already is announced to
// nobody before the write ends, and it does not end if the pipe is full again before.
// So an unfinished line must not stay there for long: the pipe has to be looked at
// again and, unless more has come, emptied, because what comes into an empty one
// always is announced.
type crowd struct {
	taken int       // since the pipe was last looked at
	last  time.Time // when it may have been full
	until time.Time // how long the unfinished line stays; zero without one
}

const (
	// crowdLasts is how long it takes at most, with a lot of patience, until who was
	// waiting for room goes on.
	crowdLasts = time.Second
	// crowdStay is how long a line may stay unfinished meanwhile: a processor may be
	// busy with others for some milliseconds before the writer has it.
	crowdStay = 10 * time.Millisecond
)

// look is called for each look at the pipe. One with a writer who waits for room holds
// half of what it could at least: pieces of no more than half a page share one.
func (c *crowd) look(pipe int) {
	most := held(pipe) + c.taken
	c.taken = 0
	if most < os.Getpagesize()/2 {
		return
	}
	if size, err := unix.FcntlInt(uintptr(pipe), unix.F_GETPIPE_SZ, 0); err == nil && most >= size/2 {
		c.last = time.Now()
	}
}

// took notes that so much was taken out of the pipe.
func (c *crowd) took(n int) { c.taken, c.until = n, time.Time{} }

// wait calls again in time, where that is necessary.
func (c *crowd) wait(again func()) {
	if c.until.IsZero() && time.Since(c.last) < crowdLasts {
		c.until = time.Now().Add(crowdStay)
		time.AfterFunc(crowdStay, again)
	}
}

// impatient reports whether an unfinished line has stayed for long enough.
func (c *crowd) impatient() bool { return !c.until.IsZero() && !time.Now().Before(c.until) }

// hungUp reports whether nobody holds the other end of a pipe or a connection.
func hungUp(fd int) bool {
	poll := []unix.PollFd{{Fd: int32(fd)}}
	n, err := unix.Poll(poll, 0)
	return err == nil && n > 0 && poll[0].Revents&unix.POLLHUP != 0
}

// isFull reports whether a pipe takes no more, which with many small pieces in it
// is so long before it holds the bytes that it could. Only the end to write
// tells.
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
