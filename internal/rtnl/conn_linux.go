package rtnl

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/nlsock"
)

// Conn is a route netlink socket. It is safe for concurrent use.
type Conn struct {
	socket *nlsock.Socket
}

// Open opens a connection to the network namespace of the calling thread.
func Open() (*Conn, error) {
	s, err := nlsock.Open(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	return &Conn{s}, nil
}

// Close closes the connection.
func (c *Conn) Close() error { return c.socket.Close() }

// Do sends the messages in one write and returns the first error. The kernel
// processes all of them: messages after one that may fail must be harmless without
// it.
func (c *Conn) Do(messages ...*nlsock.Message) error {
	if len(messages) == 0 {
		return nil
	}
	answers, err := c.socket.Exchange(messages...)
	if err != nil {
		return err
	}
	for _, a := range answers {
		if a.Err != nil {
			return a.Err
		}
	}
	return nil
}

// dump sends a dump request and calls fn with each entry. It starts over if a change
// interrupted the dump.
func (c *Conn) dump(m *nlsock.Message, fn func(entry []byte)) error {
	const tries = 10
	var answers []nlsock.Answer
	var err error
	for range tries {
		if answers, err = c.socket.Exchange(m); err != nil {
			return err
		}
		if err = answers[0].Err; !errors.Is(err, nlsock.ErrInterrupted) {
			break
		}
	}
	if err != nil {
		return err
	}
	for _, entry := range answers[0].Replies {
		fn(entry)
	}
	return nil
}

// ask sends requests that are answered by one object each, and returns the objects.
// If an object does not exist or there is no route, the error is fault.NotFound.
func (c *Conn) ask(requests ...*nlsock.Message) (replies [][]byte, err error) {
	answers, err := c.socket.Exchange(requests...)
	if err != nil {
		return nil, err
	}
	for i, a := range answers {
		switch {
		case IsNotFound(a.Err), errors.Is(a.Err, unix.ENETUNREACH), errors.Is(a.Err, unix.EHOSTUNREACH):
			return nil, fault.NotFound.Wrap(a.Err)
		case a.Err != nil:
			return nil, a.Err
		case len(a.Replies) == 0:
			return nil, fault.Internal.Errorf("%s: the kernel answered nothing", requests[i].What)
		}
		replies = append(replies, a.Replies[0])
	}
	return replies, nil
}

// linkHeader is struct ifinfomsg.
func linkHeader(family uint8, index int, flags, change uint32) []byte {
	b := make([]byte, unix.SizeofIfInfomsg)
	b[0] = family
	binary.NativeEndian.PutUint32(b[4:], uint32(index))
	binary.NativeEndian.PutUint32(b[8:], flags)
	binary.NativeEndian.PutUint32(b[12:], change)
	return b
}

func familyOf(ip []byte) uint8 {
	if len(ip) == 4 {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// IsNotFound reports whether the kernel answered that there is no such link, address
// or route.
func IsNotFound(err error) bool {
	return errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOENT) ||
		errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EADDRNOTAVAIL)
}

func named(what, name string) string { return fmt.Sprintf("%s %q", what, name) }
