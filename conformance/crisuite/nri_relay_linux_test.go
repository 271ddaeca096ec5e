package crisuite_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path"
	"sync"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/net/multiplex"
	"github.com/containerd/ttrpc"
)

// plugged is one call between a runtime and an NRI plugin, on its way through a mutant.
type plugged struct {
	*proxy
	ctx    context.Context
	method string // "CreateContainer"
	// next asks the other side, with the request as edit leaves it. It may be called
	// again, or not at all.
	next func(edit func(req any)) (any, error)
	// read reads the request, and plugin is asked, for mutants that ask by themselves.
	read   func(req any) error
	plugin api.PluginService
}

// nothing is an answer to any call.
func nothing() (any, error) { return &api.Empty{}, nil }

// serveNRI lets plugins connect at a socket, and connects each to that of the runtime,
// until ctx ends.
func (p *proxy) serveNRI(ctx context.Context, inner, socket string) error {
	_ = os.Remove(socket) // a killed one's
	l, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	var relays sync.WaitGroup
	defer relays.Wait()
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		relays.Go(func() {
			if err := p.relayPlugin(ctx, inner, conn); err != nil {
				_ = conn.Close() // as a runtime does that does not want it
			}
		})
	}
}

// side is one end of the connection between a runtime and a plugin.
type side struct {
	trunk net.Conn
	mux   multiplex.Mux
	calls *ttrpc.Client
}

// newSide has calls go out by one of the connection's channels.
func newSide(conn net.Conn, out multiplex.ConnID, closed func()) (*side, error) {
	mux := multiplex.Multiplex(conn, multiplex.WithBlockedRead())
	c, err := mux.Open(out)
	if err != nil {
		return nil, err
	}
	return &side{trunk: conn, mux: mux, calls: ttrpc.NewClient(c, ttrpc.WithOnClose(closed))}, nil
}

// serve answers what comes in by the other channel, until the connection ends.
func (s *side) serve(ctx context.Context, in multiplex.ConnID, srv *ttrpc.Server) error {
	l, err := s.mux.Listen(in)
	if err != nil {
		return err
	}
	s.mux.Unblock()
	if err := srv.Serve(ctx, l); !errors.Is(err, ttrpc.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// relayPlugin passes calls on both ways until one side, or ctx, ends.
func (p *proxy) relayPlugin(ctx context.Context, inner string, conn net.Conn) error {
	ctx, end := context.WithCancel(ctx)
	defer end()
	up, err := net.Dial("unix", inner)
	if err != nil {
		return err
	}
	runtime, err := newSide(up, multiplex.RuntimeServiceConn, end)
	if err != nil {
		return err
	}
	plugin, err := newSide(conn, multiplex.PluginServiceConn, end)
	if err != nil {
		return err
	}
	asks := api.NewPluginClient(plugin.calls)
	intercept := ttrpc.WithUnaryServerInterceptor(p.intercept(asks, func() { _, _ = up.Close(), conn.Close() }))
	toPlugin, err := ttrpc.NewServer(intercept)
	if err != nil {
		return err
	}
	toRuntime, err := ttrpc.NewServer(intercept)
	if err != nil {
		return err
	}
	api.RegisterPluginService(toPlugin, asks)
	api.RegisterRuntimeService(toRuntime, api.NewRuntimeClient(runtime.calls))
	var serving sync.WaitGroup
	serving.Go(func() { _ = runtime.serve(ctx, multiplex.PluginServiceConn, toPlugin); end() })
	serving.Go(func() { _ = plugin.serve(ctx, multiplex.RuntimeServiceConn, toRuntime); end() })
	<-ctx.Done()
	for _, s := range []*side{runtime, plugin} {
		_, _ = s.trunk.Close(), s.mux.Close()
	}
	_, _ = toPlugin.Close(), toRuntime.Close()
	serving.Wait()
	return nil
}

// intercept lets the fault see a call. Where one side has gone the other one must see
// that, and no error that would be an answer.
func (p *proxy) intercept(plugin api.PluginService, hangUp func()) ttrpc.UnaryServerInterceptor {
	return func(ctx context.Context, unmarshal ttrpc.Unmarshaler, info *ttrpc.UnaryServerInfo, method ttrpc.Method) (any, error) {
		c := &plugged{proxy: p, ctx: ctx, method: path.Base(info.FullMethod), read: unmarshal, plugin: plugin}
		c.next = func(edit func(any)) (any, error) {
			return method(ctx, func(req any) error {
				err := unmarshal(req)
				if err == nil && edit != nil {
					edit(req)
				}
				return err
			})
		}
		answer, err := p.passOn(c)
		if errors.Is(err, ttrpc.ErrClosed) {
			hangUp()
		}
		return answer, err
	}
}

func (p *proxy) passOn(c *plugged) (any, error) {
	if p.plugged == nil {
		return c.next(nil)
	}
	return p.plugged(c)
}
