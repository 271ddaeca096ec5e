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
// container has the other one. An unfinished line stays in the pipe: see patience.
type output struct {
	fd       int
	frame    byte
	over     bool // it has ended, and all of it was read
	seen     int  // bytes in the pipe that the attached have got already
	saw      int  // how much of an unfinished line was seen when more was there
	owed     int  // the most bytes that somebody waits for: see stdio.reckon
	tap      *tap // where the pipe is the keeper's own; else nil
	patience patience
}

// tap is a terminal, which cannot be copied without being read. So that no more
// than what is being read at the moment is lost with the keeper, that is put into
// a pipe at once and goes on from there as other output does.
//
// A terminal that no process has open says so, and may be opened again: it ends with the
// container's process. Before that it must not be closed, which would be a hang-up for
// that process.
type tap struct {
	tty  int
	into *os.File
	hung bool // nobody has the terminal open
	over bool // and nobody will
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

// pull takes what the terminal has. ended says that the container's process has.
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

// turn is how many pieces of an output are worked on before it is another one's turn.
const turn = 16

// drain works on an output until there is nothing more to do for now, or so much that the
// other one must not wait any longer.
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
	for n := 0; s.goesOn(o) && step(); n++ {
		if n == turn && len(s.due) == 0 && !s.last {
			s.wake()
			return
		}
	}
}

// pass passes output on that goes into no log, and reports whether there was any.
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

// copy brings what there is into the log, and reports whether there may be more.
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
	if hung || isFull(o.fd) || o.patience.over() {
		return itEnds
	}
	return itWaits
}

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
