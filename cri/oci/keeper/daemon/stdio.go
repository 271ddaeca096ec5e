package daemon

import (
	"errors"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cri/oci/keeper/internal/wire"
)

// stdio is the keeper's side of a container's standard streams. Output is read for as
// long as any process holds the other end, written to the log and then sent to attached
// clients. That is done by a worker, a goroutine that exists only while there is
// something to do; it alone closes what it works on.
type stdio struct {
	*streams
	report  *slog.Logger
	failed  sync.Once
	lost    int // bytes of output missing from the log; used by the worker
	hold    *holding
	log     *logFile // nil without one
	once    bool     // close stdin after the first attach
	outputs []*output
	tty     int           // the terminal's descriptor; -1 without one
	drained chan struct{} // closed when every output has ended
	// left are the desks at which the previous keeper was interrupted. While there are
	// any, the worker holds the log.
	left []*desk
	// due are closed when no output owes anything; last says that the output is given up
	// then. Both are used by the worker.
	due  []chan struct{}
	last bool

	mu       sync.Mutex
	attached map[*attachment]struct{}
	terminal *os.File // nil without one
	stdin    *os.File // write end of the pipe, or the terminal, or nil
	working  bool     // a worker runs, has finished for good, or must not run yet
	dirty    bool     // something has happened since the worker looked
	ended    bool     // the container's process has ended
	closing  bool     // the worker must give up what is still open
	useless  bool     // and need not read what is there
	asked    []chan struct{}
}

// streams is what the streams of all containers share.
type streams struct {
	poller *poller
	desks  *desks
	pool   pool
}

// childFiles are the standard streams with which the runtime's process is started; the
// container inherits them if it has no terminal.
type childFiles [3]*os.File

func (t *streams) newStdio(h *holding, report *slog.Logger) *stdio {
	return &stdio{
		streams: t, report: report, hold: h, once: h.rec.Start.StdinOnce, tty: -1,
		attached: map[*attachment]struct{}{}, drained: make(chan struct{}),
	}
}

// open opens the streams of a new container and puts them into its holding. Nothing is
// read before pump. After an error, discard must be called.
func (s *stdio) open() (child childFiles, err error) {
	r := s.hold.rec.Start
	if r.Stdin && r.Command.Console == "" {
		child[0], s.stdin, err = os.Pipe()
	} else {
		child[0], err = os.Open(os.DevNull)
	}
	for i, frame := range []byte{wire.FrameStdout, wire.FrameStderr} {
		if err != nil {
			return child, err
		}
		o := &output{frame: frame}
		o.fd, child[i+1], err = pipe()
		s.outputs = append(s.outputs, o)
	}
	if err == nil {
		err = s.hold.change(s.roles)
	}
	if err == nil {
		err = s.openLog()
	}
	return child, err
}

// openLog opens the log of a container that is being started. The start must already be
// recorded: whoever finds only a log takes the container for one that ran.
func (s *stdio) openLog() error {
	place := placeOf(&s.hold.rec.Start)
	if place.path == "" || s.log != nil {
		return nil
	}
	fd, err := place.open()
	if err != nil {
		return err
	}
	s.log = newLogFile(place, s.hold.rec.Key, fd)
	return s.hold.change(s.roles)
}

// pipe returns a pipe with a non-blocking read end.
func pipe() (r int, w *os.File, err error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return -1, nil, err
	}
	if err := unix.SetNonblock(p[0], true); err != nil {
		return -1, nil, errors.Join(err, closeBoth(p))
	}
	return p[0], os.NewFile(uintptr(p[1]), "pipe"), nil
}

// roles puts the open descriptors into the holding.
func (s *stdio) roles(h *content) {
	for _, o := range s.outputs {
		fd := o.fd
		if o.over {
			fd = -1
		}
		h.set(o.role(), fd)
	}
	h.set(roleTerminal, s.tty)
	h.set(roleStdin, -1)
	if s.stdin != nil && s.stdin != s.terminal {
		fds, err := wire.Descriptors([]*os.File{s.stdin})
		if err == nil {
			h.set(roleStdin, fds[0])
		}
	}
	if s.log != nil {
		h.set(roleLog, s.log.fd)
	}
}

// complaint returns what the runtime wrote before it failed, and keeps it out of the
// container's log. The other ends must be closed.
func (s *stdio) complaint() string {
	var text []byte
	for _, o := range s.outputs {
		buf := make([]byte, 4096)
		for deadline := time.Now().Add(100 * time.Millisecond); ; time.Sleep(time.Millisecond) {
			n, err := readAgain(o.fd, buf)
			if n > 0 && len(text) < 2*len(buf) {
				text = append(text, buf[:n]...)
			}
			if n == 0 || err != nil && !errors.Is(err, unix.EAGAIN) || time.Now().After(deadline) {
				break
			}
		}
	}
	return string(text)
}

// useTerminal replaces the pipes with the container's terminal, whose output goes through
// a pipe of the keeper's own: see tap.
func (s *stdio) useTerminal(tty *os.File) error {
	fds, err := wire.Descriptors([]*os.File{tty})
	if err != nil {
		return err
	}
	r, w, err := pipe()
	if err != nil {
		return err
	}
	before := s.outputs
	s.outputs = []*output{{fd: r, frame: wire.FrameStdout, tap: &tap{tty: fds[0], into: w}}}
	s.mu.Lock()
	s.terminal, s.tty = tty, fds[0]
	if s.hold.rec.Start.Stdin {
		s.stdin = tty
	}
	s.mu.Unlock()
	err = s.hold.change(func(h *content) {
		h.set(roleStderr, -1)
		s.roles(h)
	})
	if err != nil { // then the pipes are still held
		s.outputs = before
		return errors.Join(err, unix.Close(r), w.Close())
	}
	for _, o := range before {
		_ = unix.Close(o.fd) // the runtime's own output is not needed
	}
	return nil
}

// pump starts copying the outputs until they end. The worker must not run before all
// outputs are watched: for a container that has already ended, it would close them.
func (s *stdio) pump() error {
	s.setWorking(true)
	err := s.watchOutputs()
	s.setWorking(false)
	if err != nil {
		return err
	}
	s.wake()
	return nil
}

func (s *stdio) setWorking(working bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.working = working
}

func (s *stdio) watchOutputs() error {
	for _, o := range s.outputs {
		if err := s.poller.add(o.source(), s.wake); err != nil {
			return err
		}
	}
	return nil
}

// complain reports only the first log error; the thousands that may follow say the same.
func (s *stdio) complain(err error) {
	if err != nil {
		s.failed.Do(func() { s.report.Error("writing a container's log", "err", err) })
	}
}

// dismiss is close for a container that is removed; its holding is dropped when
// everything is in the log. If this keeper dies before that, the next one continues.
func (s *stdio) dismiss() {
	s.close()
	go func() {
		<-s.drained
		s.hold.drop()
	}()
}

// close gives up what is still open, once everything written so far is in the log. A
// later write by the container gets EPIPE, so the container's processes must have ended.
// close does not wait for a worker that waits for its disk.
func (s *stdio) close() { s.end(false) }

// discard is close for a container that did not start: its output need not be read.
func (s *stdio) discard() { s.end(true) }

func (s *stdio) end(useless bool) {
	s.closeStdin()
	s.mu.Lock()
	s.closing, s.useless = true, useless
	s.mu.Unlock()
	s.wake()
}

// closeStdin closes the container's standard input, here and in the holding.
func (s *stdio) closeStdin() {
	s.mu.Lock()
	in := s.stdin
	s.stdin = nil
	own := in != nil && in != s.terminal
	s.mu.Unlock()
	if !own {
		return
	}
	if err := s.hold.change(func(h *content) { h.set(roleStdin, -1) }); err != nil {
		s.complain(err)
		return
	}
	_ = in.Close() // the container closed its end, or sees the end now
}

func (s *stdio) input() *os.File {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stdin
}

func (s *stdio) resize(columns, rows uint16) error {
	s.mu.Lock()
	tty := s.terminal
	s.mu.Unlock()
	if tty == nil {
		return nil
	}
	return wire.ResizeTerminal(tty, columns, rows)
}

func (s *stdio) reopen() error {
	if s.log == nil {
		return nil
	}
	keep := func(fd int) error {
		return s.hold.change(func(h *content) { h.set(roleLog, fd) })
	}
	return s.log.reopen(func(fd int) error {
		before := s.log.fd
		err := keep(fd)
		if err == nil {
			err = s.hold.kept()
		}
		if err != nil {
			err = errors.Join(err, keep(before))
		}
		return err
	})
}
