package keeper

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cri/oci/keeper/internal/wire"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// dial distinguishes a keeper that is gone from a caller that lacks, for example,
// descriptors: the former is replaced, and its containers are ended.
func (c *Client) dial() (*net.UnixConn, error) {
	conn, err := wire.Dial(c.run, wire.SocketName)
	switch {
	case err == nil:
		return conn, nil
	case errors.Is(err, unix.ENOENT):
		return nil, fault.Unavailable.Errorf("calling the keeper: %q: %w: one that runs serves in the run directory that it was started with: name that",
			filepath.Join(c.run, wire.SocketName), unix.ENOENT)
	case errors.Is(err, unix.ECONNREFUSED):
		return nil, fault.Unavailable.Errorf("calling the keeper: %w", err)
	}
	return nil, fault.Exhausted.Errorf("calling the keeper: %w", err)
}

// returnLimit is how long calls wait for a killed keeper to come back. A keeper with some
// hundred containers takes a few tens of milliseconds.
const returnLimit = 10 * time.Second

// call sends a request and reads the first reply. If the keeper is killed meanwhile and
// its anchor lives, the request goes to the next keeper: every call with a single reply
// may be repeated.
func (c *Client) call(ctx context.Context, req *wire.Request, files ...*os.File) (*session, error) {
	for deadline := time.Now().Add(returnLimit); ; {
		begun := time.Now()
		s, err := c.once(ctx, req, files...)
		if time.Since(begun) > returnLimit/10 { // a keeper was serving it for a while
			deadline = time.Now().Add(returnLimit)
		}
		if !errors.Is(err, fault.Unavailable) || len(files) > 0 || time.Now().After(deadline) {
			return s, err
		}
		if anchored, aerr := c.Anchored(); aerr != nil || !anchored {
			return nil, errors.Join(err, aerr)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(returnPause):
		}
	}
}

// returnPause is the pause between two attempts.
const returnPause = 5 * time.Millisecond

// once makes one attempt of a call. An idle connection of an earlier call may have been
// closed since.
func (c *Client) once(ctx context.Context, req *wire.Request, files ...*os.File) (*session, error) {
	req.Version = wire.Since(req.Op)
	if wire.InTurn(req.Op) && len(files) == 0 {
		if conn := c.idle.take(); conn != nil {
			s, err := ask(ctx, conn, req)
			if !errors.Is(err, fault.Unavailable) {
				return s, err
			}
		}
	}
	conn, err := c.dial()
	if err != nil {
		return nil, err
	}
	return ask(ctx, conn, req, files...)
}

// ask sends the request and reads the first reply. The connection is closed after an
// error.
func ask(ctx context.Context, conn *net.UnixConn, req *wire.Request, files ...*os.File) (*session, error) {
	s := &session{conn: conn, stop: context.AfterFunc(ctx, func() { _ = conn.Close() }), ctx: ctx}
	if err := wire.Send(conn, req, files...); err != nil {
		return nil, errors.Join(s.lost(err), s.close())
	}
	if err := s.next(); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

// session is a call in progress.
type session struct {
	conn  *net.UnixConn
	stop  func() bool
	ctx   context.Context
	reply wire.Reply
	files []*os.File
}

// next reads the next reply.
func (s *session) next() (err error) {
	s.reply = wire.Reply{}
	s.files, err = wire.Receive(s.conn, &s.reply)
	switch {
	case errors.Is(err, fault.Exhausted):
		return err
	case err != nil:
		return s.lost(err)
	}
	return s.reply.Err()
}

// lost returns the reason why a connection ended early.
func (s *session) lost(err error) error {
	if s.ctx.Err() != nil {
		return s.ctx.Err()
	}
	return fault.Unavailable.Errorf("the keeper went away: %w", err)
}

func (s *session) close() error {
	s.stop()
	if err := s.conn.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}
