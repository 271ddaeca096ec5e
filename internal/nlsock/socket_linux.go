package nlsock

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// receiveSize is more than the kernel puts into one part of a dump.
const receiveSize = 32 << 10

// Socket is a netlink socket. It belongs to the network namespace of the thread that
// opened it and keeps that alive. It is safe for concurrent use: exchanges run one
// after the other.
type Socket struct {
	fd int

	mu  sync.Mutex
	seq uint32
}

// buffers are for receiving: only a running exchange holds one, an idle socket does
// not.
var buffers = sync.Pool{New: func() any { return new([receiveSize]byte) }}

// Open opens a socket of the protocol, such as NETLINK_ROUTE, in the network
// namespace of the calling thread.
func Open(protocol int) (*Socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return nil, fmt.Errorf("opening netlink: %w", err)
	}
	// Errors then include the kernel's text but not the request, and dumps are
	// filtered. Kernels before 4.20 lack the last option and filter nothing.
	for _, option := range []int{unix.NETLINK_EXT_ACK, unix.NETLINK_CAP_ACK, unix.NETLINK_GET_STRICT_CHK} {
		err := unix.SetsockoptInt(fd, unix.SOL_NETLINK, option, 1)
		if err != nil && !errors.Is(err, unix.ENOPROTOOPT) {
			unix.Close(fd)
			return nil, fmt.Errorf("preparing netlink: %w", err)
		}
	}
	return &Socket{fd: fd}, nil
}

// Close closes the socket.
func (s *Socket) Close() error { return unix.Close(s.fd) }

// Error is the kernel's refusal of a message.
type Error struct {
	What  string // of the message
	Text  string // the kernel's text, if any
	Errno unix.Errno
}

// Error returns what was requested and why the kernel refused it.
func (e *Error) Error() string {
	if e.Text == "" {
		return e.What + ": " + e.Errno.Error()
	}
	return e.What + ": " + e.Errno.Error() + ": " + e.Text
}

// Unwrap returns the errno.
func (e *Error) Unwrap() error { return e.Errno }

// Answer is the answer to a message.
type Answer struct {
	Err     error    // an *Error, or nil
	Replies [][]byte // the payloads of what the kernel sent besides the acknowledgement
}

// ErrInterrupted is the error of a dump during which something changed.
var ErrInterrupted = errors.New("the dump was interrupted")

// Exchange sends the messages in one write and waits for the answers, one for each.
// The kernel processes all of them, even if one fails. The error is that of the
// exchange itself: a message that cannot be sent, in which case none is, or an answer
// that cannot be read, after which the socket remains usable. Without messages it
// does nothing.
func (s *Socket) Exchange(messages ...*Message) ([]Answer, error) {
	if len(messages) == 0 {
		return nil, nil
	}
	buf := buffers.Get().(*[receiveSize]byte)
	defer buffers.Put(buf)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.exchange(buf[:], messages)
}

// exchange implements Exchange, and receives with buf.
func (s *Socket) exchange(buf []byte, messages []*Message) ([]Answer, error) {
	first := s.seq + 1
	out, waiting, err := s.frame(messages)
	if err != nil {
		return nil, err
	}
	if err := unix.Sendto(s.fd, out, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, fmt.Errorf("%s: asking the kernel: %w", messages[0].What, err)
	}
	x := exchange{messages: messages, answers: make([]Answer, len(messages)), first: first, waiting: waiting}
	for x.waiting > 0 {
		part, err := s.receive(buf)
		if err == nil {
			err = x.read(part)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: the kernel's answer: %w", messages[0].What, err)
		}
	}
	return x.answers, nil
}

// frame completes the messages, and counts those that get an answer in any case.
func (s *Socket) frame(messages []*Message) (out []byte, waiting int, err error) {
	for _, m := range messages {
		if m.tooLong {
			return nil, 0, fmt.Errorf("%s: asking the kernel: %w", m.What, unix.EMSGSIZE)
		}
		s.seq++
		flags := binary.NativeEndian.Uint16(m.buf[6:]) | unix.NLM_F_REQUEST
		if !m.Silent {
			flags |= unix.NLM_F_ACK
			waiting++
		}
		binary.NativeEndian.PutUint16(m.buf[6:], flags)
		binary.NativeEndian.PutUint32(m.buf, uint32(len(m.buf)))
		binary.NativeEndian.PutUint32(m.buf[8:], s.seq)
		out = append(out, m.buf...)
	}
	return out, waiting, nil
}

// receive returns the next part of the kernel's answer.
func (s *Socket) receive(buf []byte) ([]byte, error) {
	for {
		n, _, err := unix.Recvfrom(s.fd, buf, unix.MSG_TRUNC) // with MSG_TRUNC n is the full length
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return nil, err
		case n > len(buf):
			return nil, fmt.Errorf("%w: %d bytes instead of at most %d", errTruncated, n, len(buf))
		}
		return buf[:n], nil
	}
}

// errTruncated is the error of an incomplete answer.
var errTruncated = errors.New("it is cut off")

// exchange is the state of one Exchange.
type exchange struct {
	messages []*Message
	answers  []Answer
	first    uint32 // the sequence number of the first message
	waiting  int    // messages whose answer is not complete
}

// read processes the messages of one part. A truncated one is an error: its end would
// be awaited in vain.
func (x *exchange) read(b []byte) error {
	for len(b) > 0 {
		if len(b) < headerLen {
			return errTruncated
		}
		size := int(binary.NativeEndian.Uint32(b))
		if size < headerLen || size > len(b) {
			return errTruncated
		}
		// An earlier exchange that ended early may have left answers behind.
		if i := binary.NativeEndian.Uint32(b[8:]) - x.first; i < uint32(len(x.messages)) {
			x.take(int(i), b[:size])
		}
		b = b[min(len(b), (size+align-1)&^(align-1)):]
	}
	return nil
}

func (x *exchange) take(i int, b []byte) {
	kind, flags := binary.NativeEndian.Uint16(b[4:]), binary.NativeEndian.Uint16(b[6:])
	payload := b[headerLen:]
	a := &x.answers[i]
	if flags&unix.NLM_F_DUMP_INTR != 0 {
		a.Err = fmt.Errorf("%s: %w", x.messages[i].What, ErrInterrupted)
	}
	switch kind {
	case unix.NLMSG_ERROR, unix.NLMSG_DONE:
		if err := readError(x.messages[i].What, kind, flags, payload); err != nil {
			a.Err = err
		}
		x.done(i, a.Err)
	default:
		a.Replies = append(a.Replies, append([]byte(nil), payload...))
	}
}

// done records the end of the answer to a message. An error for a message that frames
// a batch ends the whole batch.
func (x *exchange) done(i int, err error) {
	if !x.messages[i].Silent {
		x.waiting--
		return
	}
	if err == nil {
		return
	}
	for j := range x.answers {
		if x.answers[j].Err == nil {
			x.answers[j].Err = err
		}
	}
	x.waiting = 0
}

// readError decodes the end of an answer: the errno, followed by attributes with the
// kernel's text.
func readError(what string, kind, flags uint16, payload []byte) error {
	if len(payload) < 4 {
		return nil
	}
	errno := unix.Errno(-int32(binary.NativeEndian.Uint32(payload)))
	if errno == 0 {
		return nil
	}
	e := &Error{What: what, Errno: errno}
	const withAttrs, message = 0x200, 1 // NLM_F_ACK_TLVS, NLMSGERR_ATTR_MSG
	const request = 4 + headerLen       // the errno and the request's header
	if kind == unix.NLMSG_ERROR && flags&withAttrs != 0 && len(payload) > request {
		e.Text = String(Attr(payload[request:], message))
	}
	return e
}
