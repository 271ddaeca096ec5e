package daemon

import (
	"encoding/binary"
	"io"

	"github.com/nodekit-project/nodekit/cri/oci/keeper/internal/wire"
)

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
