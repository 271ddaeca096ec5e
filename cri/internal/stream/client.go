package stream

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
)

// clients knows when a client has gone: the streaming server tells nobody, and something
// that is quiet would be served to a client that was killed until it says something. The
// zero clients is ready to use.
type clients struct {
	mu   sync.Mutex
	here map[string]context.Context // by the address
}

// listener hands out connections that notice the end of what the client sends.
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

// client is a connection. Nothing that is served here lets a client half-close it.
type client struct {
	net.Conn
	clients *clients
	gone    context.CancelFunc
}

// join returns the context of what the client asks for, as http.Server.ConnContext does.
func (c *clients) join(base context.Context, conn net.Conn) context.Context {
	ctx, gone := context.WithCancel(base)
	conn.(*client).gone = gone // the listener hands out no other
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

// of returns the context of the client that a stream belongs to. One that does not say
// where it comes from is a WebSocket's, whose end is the client's; and so it is when the
// client is not known any more.
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

// upload is a stream of which is told, once, when the client sends no more.
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
