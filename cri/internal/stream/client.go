package stream

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
)

// clients detects when a client is gone. The streaming server does not report that, and
// an idle stream of a killed client would be served until there is output for it. The
// zero clients is ready to use.
type clients struct {
	mu   sync.Mutex
	here map[string]context.Context // by address
}

// listener returns connections that notice when the client closes its end.
type listener struct {
	net.Listener
	clients *clients
}

func (l listener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &client{Conn: conn, clients: l.clients, gone: func() {}}, nil
}

// client is a connection. Nothing served here lets a client half-close it.
type client struct {
	net.Conn
	clients *clients
	gone    context.CancelFunc
}

// join returns the context of the client's requests, like http.Server.ConnContext.
func (c *clients) join(base context.Context, conn net.Conn) context.Context {
	ctx, gone := context.WithCancel(base)
	conn.(*client).gone = gone // the listener returns no others
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.here == nil {
		c.here = map[string]context.Context{}
	}
	c.here[conn.RemoteAddr().String()] = ctx
	return ctx
}

func (c *client) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		c.gone()
	}
	return n, err
}

func (c *client) Close() error {
	c.gone()
	c.clients.mu.Lock()
	delete(c.clients.here, c.RemoteAddr().String())
	c.clients.mu.Unlock()
	return c.Conn.Close()
}

// of returns the context of the client of a stream. A stream without a remote address is
// a WebSocket's, which ends with the client; the same applies if the client is no longer
// known.
func (c *clients) of(stream io.Reader) context.Context {
	if from, ok := stream.(interface{ RemoteAddr() net.Addr }); ok {
		c.mu.Lock()
		defer c.mu.Unlock()
		if ctx := c.here[from.RemoteAddr().String()]; ctx != nil {
			return ctx
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// upload calls over, once, when the client sends no more.
type upload struct {
	io.ReadWriteCloser
	over func()
}

func (u *upload) Read(p []byte) (int, error) {
	n, err := u.ReadWriteCloser.Read(p)
	if err != nil {
		u.over()
	}
	return n, err
}
