// Package api serves a node's objects as a Kubernetes API: kubectl, client-go,
// controllers and CSI sidecars work against it, and the kubelet itself reads
// and writes its world through it.
//
// It speaks the wire of a Kubernetes API server (API conventions and concepts
// of kubernetes.io/docs/reference/using-api): get, list, watch with resumption
// and bookmarks, create, update, the four kinds of patch with server-side
// apply, dry run, strict field validation, delete with grace, finalizers and
// propagation, tables, discovery and OpenAPI. It stands for one node: no
// scheduler, no controllers but the collector of what lost its owner, no
// authorization beyond "root on this machine". docs/api.md has the list.
//
// State lives in the store (kubelet/api/store) alone, so a Server may be killed
// at any instruction. All of it is safe for concurrent use.
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

// Config is what a Server works with.
type Config struct {
	Store *store.Store // required
	// NodeName is the node to which every Pod belongs. Required.
	NodeName string
	// Kubelet reaches the kubelet's HTTP API, for logs, exec, attach,
	// port-forward and statistics; the host of its requests does not matter.
	// Required.
	Kubelet http.RoundTripper
	// TLS has the server's certificate and asks for the clients'. Required: who
	// has a certificate that it accepts may do everything.
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

// New returns a server that serves nobody yet.
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

// Serve serves on the listener, which it closes, and collects objects whose
// owners are gone, until ctx ends; it returns nil then. Watches end with it.
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

// finishWithin is how long requests that are under way may take when the server
// ends. Connections that are idle but open, as clients keep them, take all of it.
const finishWithin = 100 * time.Millisecond

// shut lets requests that are under way finish. Watches end at once, by the
// context that all requests have.
func shut(server *http.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), finishWithin)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		server.Close()
	}
}
