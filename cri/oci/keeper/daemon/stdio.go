package daemon

import (
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cri/oci/keeper/internal/wire"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// stdio is the keeper's side of a container's standard streams. Its output is
// read for as long as any process holds the other end, written to the log and
// then to those who are attached.
type stdio struct {
	buffers *buffers
	report  *slog.Logger
	failed  sync.Once
	log     *logFile
	stdin   *os.File // write end of the pipe, or the terminal, or nil
	once    bool     // close stdin after the first attach
	outputs []output
	drained chan struct{} // closed when every output has ended

	mu       sync.Mutex
	attached map[*attachment]struct{}
	terminal *os.File // nil without one
}

type output struct {
	file  *os.File
	frame byte
}

// childFiles are the standard streams that the runtime's process is started
// with; the container inherits them when it has no terminal.
type childFiles [3]*os.File

// newStdio opens the streams of a container. Nothing is read before pump.
func newStdio(r *wire.StartRequest, b *buffers, report *slog.Logger) (s *stdio, child childFiles, err error) {
	s = &stdio{buffers: b, report: report, once: r.StdinOnce, attached: map[*attachment]struct{}{}, drained: make(chan struct{})}
	defer func() {
		if err != nil {
			wire.CloseAll(child[:])
			s.close()
		}
	}()
	if r.Log != "" {
		if s.log, err = openLog(r.Log); err != nil {
			return nil, child, err
		}
	}
	if r.Stdin && r.Command.Console == "" {
		child[0], s.stdin, err = os.Pipe()
	} else {
		child[0], err = os.Open(os.DevNull)
	}
	for i, frame := range []byte{wire.FrameStdout, wire.FrameStderr} {
		if err != nil {
			return nil, child, err
		}
		var r *os.File
		r, child[i+1], err = os.Pipe()
		s.outputs = append(s.outputs, output{r, frame})
	}
	return s, child, err
}

// complaint returns what the runtime wrote before it failed, and keeps it out
// of the container's log. The other ends must be closed.
func (s *stdio) complaint() string {
	var text []byte
	for _, o := range s.outputs {
		_ = o.file.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		b, _ := io.ReadAll(io.LimitReader(o.file, 4096))
		text = append(text, b...)
	}
	return string(text)
}

// useTerminal replaces the pipes by the container's terminal.
func (s *stdio) useTerminal(tty *os.File, stdin bool) {
	for _, o := range s.outputs {
		_ = o.file.Close()
	}
	s.terminal = tty
	s.outputs = []output{{tty, wire.FrameStdout}}
	if stdin {
		s.stdin = tty
	}
}

// pump copies the outputs until they end.
func (s *stdio) pump() {
	var all sync.WaitGroup
	for _, o := range s.outputs {
		all.Go(func() { s.copy(o) })
	}
	go func() {
		all.Wait()
		s.finish()
		close(s.drained)
	}()
}

// buffers are shared by all outputs: one is borrowed while there is something
// to read, so an idle container costs none.
type buffers struct{ pool sync.Pool }

const bufferSize = 32 << 10

func (b *buffers) get() *[bufferSize]byte {
	if p, ok := b.pool.Get().(*[bufferSize]byte); ok {
		return p
	}
	return new([bufferSize]byte)
}

// copy reads an output to its end and closes it.
func (s *stdio) copy(o output) {
	defer o.file.Close()
	conn, err := o.file.SyscallConn()
	if err != nil {
		return
	}
	for {
		var buf *[bufferSize]byte
		var n int
		// The function runs when there may be something to read, and again after
		// waiting when it returned false.
		err := conn.Read(func(fd uintptr) bool {
			buf = s.buffers.get()
			n, err = readAgain(int(fd), buf[:])
			if errors.Is(err, unix.EAGAIN) {
				s.buffers.pool.Put(buf)
				return false
			}
			return true
		})
		if err != nil {
			return // closed here
		}
		if n > 0 {
			s.deliver(o.frame, buf[:n])
		}
		s.buffers.pool.Put(buf)
		if n <= 0 {
			return // a pipe ends with 0, a terminal with EIO
		}
	}
}

func readAgain(fd int, buf []byte) (n int, err error) {
	for {
		n, err = unix.Read(fd, buf)
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

func (s *stdio) deliver(frame byte, data []byte) {
	if s.log != nil {
		s.complain(s.log.write(frame, data))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for a := range s.attached {
		a.offer(frame, data)
	}
}

// complain reports the first error of the log; the thousands that may follow
// say the same.
func (s *stdio) complain(err error) {
	if err != nil {
		s.failed.Do(func() { s.report.Error("writing a container's log", "err", err) })
	}
}

func (s *stdio) finish() {
	if s.log != nil {
		s.complain(s.log.close())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for a := range s.attached {
		if !a.slow {
			close(a.queue)
		}
	}
	s.attached = nil
}

// close gives up what is still open. Whoever writes to it afterwards gets
// EPIPE, so the container's processes must have ended.
func (s *stdio) close() {
	s.closeStdin()
	for _, o := range s.outputs {
		_ = o.file.Close()
	}
}

func (s *stdio) closeStdin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stdin != nil && s.stdin != s.terminal {
		_ = s.stdin.Close()
	}
	s.stdin = nil
}

func (s *stdio) input() *os.File {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stdin
}

func (s *stdio) resize(columns, rows uint16) error {
	if s.terminal == nil {
		return nil
	}
	return wire.ResizeTerminal(s.terminal, columns, rows)
}

// attachment is one client that sees a container's output. The container is
// never slowed down by it: a client that falls too far behind is let go.
type attachment struct {
	queue chan chunk
	slow  bool // set before queue is closed
}

type chunk struct {
	frame byte
	data  []byte
}

// attachQueue is how many chunks a client may be behind.
const attachQueue = 64

// offer is called with stdio.mu held.
func (a *attachment) offer(frame byte, data []byte) {
	if a.slow {
		return
	}
	select {
	case a.queue <- chunk{frame, append([]byte(nil), data...)}:
	default:
		a.slow = true
		close(a.queue)
	}
}

func (s *stdio) attach() (*attachment, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.attached == nil {
		return nil, fault.FailedPrecondition.Errorf("its output has ended")
	}
	a := &attachment{queue: make(chan chunk, attachQueue)}
	s.attached[a] = struct{}{}
	return a, nil
}

func (s *stdio) detach(a *attachment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.attached, a)
}

// feed passes the client's frames on until its connection ends.
func (s *stdio) feed(r io.Reader) {
	buf := make([]byte, wire.MaxFrame)
	for {
		kind, data, err := wire.ReadFrame(r, buf)
		if err != nil {
			return
		}
		switch kind {
		case wire.FrameStdin:
			if in := s.input(); in != nil {
				_, _ = in.Write(data) // the container closed its end: its choice
			}
		case wire.FrameStdinClose:
			if s.once {
				s.closeStdin()
			}
		case wire.FrameResize:
			if len(data) == 4 {
				_ = s.resize(binary.BigEndian.Uint16(data), binary.BigEndian.Uint16(data[2:]))
			}
		}
	}
}
