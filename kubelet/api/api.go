// Package api serves a node's objects as a Kubernetes API: kubectl, client-go,
// controllers and CSI sidecars work with it, and the kubelet itself reads and writes
// all its objects through it.
//
// It implements the protocol of a Kubernetes API server (API conventions and concepts
// of kubernetes.io/docs/reference/using-api): get, list, watch with resumption and
// bookmarks, create, update, the four kinds of patch with server-side apply, dry run,
// strict field validation, delete with grace period, finalizers and propagation,
// tables, discovery and OpenAPI. It is for a single node: it has no scheduler, no
// controllers except the garbage collector, and no authorization beyond "root on this
// machine". docs/api.md has the list.
//
// All state is in the store (kubelet/api/store), so a Server may be killed at any
// instruction. Everything in it is safe for concurrent use.
package api

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/kubelet/api/store"
)

// Config configures a Server.
type Config struct {
	Store *store.Store // required
	// NodeName is the node that every Pod belongs to. Required.
	NodeName string
	// Kubelet sends requests to the kubelet's HTTP API, for logs, exec, attach,
	// port-forward and statistics; their host does not matter. Required.
	Kubelet http.RoundTripper
	// TLS contains the server's certificate and requires those of clients. Required:
	// whoever has a certificate that it accepts may do everything.
	TLS    *tls.Config
	Logger *slog.Logger // nil discards
}

// Server is a Kubernetes API over a store.
type Server struct {
	config   Config
	log      *slog.Logger
	codecs   *codecs
	managers *managers
	openapi  documents
	handler  http.Handler
}

// New returns a server that does not serve yet.
func New(c Config) (*Server, error) {
	if c.Store == nil || c.NodeName == "" || c.Kubelet == nil || c.TLS == nil {
		return nil, fault.Invalid.Errorf("API server: Store, NodeName, Kubelet and TLS are required")
	}
	s := &Server{config: c, log: c.Logger, codecs: newCodecs()}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.managers = newManagers()
	s.openapi = documents{made: map[string]*document{}}
	s.handler = s.routes()
	return s, nil
}

// Handler returns the API without its listener and without authentication, for
// tests.
func (s *Server) Handler() http.Handler { return s.handler }

// Serve serves on the listener, which it closes, and deletes objects whose owners are
// gone, until ctx ends; then it returns nil. Watches end with it.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.collect(ctx) })
	group.Go(func() error { return s.forgetEvents(ctx) })
	group.Go(func() error { return s.serveHTTP(ctx, l) })
	return group.Wait()
}

func (s *Server) serveHTTP(ctx context.Context, l net.Listener) error {
	server := &http.Server{
		Handler: s.handler, TLSConfig: s.config.TLS, ReadHeaderTimeout: 10 * time.Second,
		BaseContext: func(net.Listener) context.Context { return ctx },
		ErrorLog:    slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	var closing sync.WaitGroup
	stop := context.AfterFunc(ctx, func() { closing.Go(func() { shut(server) }) })
	defer closing.Wait()
	defer stop()
	if err := server.ServeTLS(l, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// finishWithin is how long requests in flight may take when the server ends. Idle
// connections that clients keep open use up all of it.
const finishWithin = 100 * time.Millisecond

// shut lets requests in flight finish. Watches end at once, by the context that all
// requests share.
func shut(server *http.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), finishWithin)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		server.Close()
	}
}
