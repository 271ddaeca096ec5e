package daemon

import (
	"encoding/binary"
	"errors"
	"net"
	"os"
	"time"

	"github.com/nodekit-project/nodekit/cri/oci/keeper/internal/wire"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// attachment is one client that receives a container's output. It never slows the
// container down: a client that falls too far behind is disconnected.
type attachment struct {
	queue chan chunk
	slow  bool // set before queue is closed
}

type chunk struct {
	frame byte
	data  []byte
}

// attachQueue is how many chunks a client may lag behind.
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

// deliver passes output on to the attached clients.
func (s *stdio) deliver(frame byte, data []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for a := range s.attached {
		a.offer(frame, data)
	}
}

// feed processes the client's frames until its connection ends.
func (s *stdio) feed(conn *net.UnixConn) {
	buf := make([]byte, wire.MaxFrame)
	for {
		kind, data, err := wire.ReadFrame(conn, buf)
		if err != nil {
			return
		}
		switch kind {
		case wire.FrameStdin:
			if in := s.input(); in != nil && !write(in, data, conn) {
				return
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

// A write that the container does not read checks from time to time whether the client is
// still connected. The input of a client that has gone is still passed to a container
// that reads, however slowly, but is not kept forever for one that does not.
const (
	feedLook  = 200 * time.Millisecond
	feedLimit = 5 * time.Second
)

// write writes input to the container and reports whether to continue. A container that
// has closed its end does so by choice, which is no failure.
func write(in *os.File, data []byte, conn *net.UnixConn) bool {
	for idle := time.Duration(0); idle < feedLimit; {
		_ = in.SetWriteDeadline(time.Now().Add(feedLook)) // without deadline support, Write blocks
		n, err := in.Write(data)
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return true
		}
		if data = data[n:]; n > 0 || !clientGone(conn) {
			idle = 0
		} else {
			idle += feedLook
		}
	}
	return false
}

// clientGone reports whether the client has closed its connection.
func clientGone(conn *net.UnixConn) bool {
	raw, err := conn.SyscallConn()
	gone := true
	if err == nil {
		err = raw.Control(func(fd uintptr) { gone = hungUp(int(fd)) })
	}
	return err != nil || gone
}
