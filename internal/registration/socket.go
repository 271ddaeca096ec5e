package registration

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/rpc"
	"github.com/nodekit-project/nodekit/internal/sockfile"
)

const (
	firstRetry  = 10 * time.Millisecond
	lastRetry   = 30 * time.Second
	callTimeout = 5 * time.Second // of GetInfo and of NotifyRegistrationStatus each

	// wellKnownRoot is where plugins assume the kubelet's root to be.
	wellKnownRoot = "/var/lib/kubelet/"
)

// socket is one path of the registry. Instances come and go there; each is served by
// a goroutine that starts only when its predecessor's has ended. So the handler's
// calls for one path never overlap, and none for an instance comes after the first
// for its successor.
type socket struct {
	w      *watcher
	path   string
	id     *sockfile.ID       // of the current instance; only the loop's goroutine uses it
	cancel context.CancelFunc // ends the current instance
	ended  chan struct{}      // closed when the latest instance has ended
}

func (w *watcher) newSocket(path string) *socket {
	none := make(chan struct{})
	close(none)
	return &socket{w: w, path: path, cancel: func() {}, ended: none}
}

// idle reports whether there is no instance and the last one has ended.
func (s *socket) idle() bool {
	select {
	case <-s.ended:
		return s.id == nil
	default:
		return false
	}
}

// replace ends the current instance if it is not id, and starts one for id if that is
// not nil. It does not wait for either.
func (s *socket) replace(id *sockfile.ID) {
	if s.id.Same(id) {
		return
	}
	s.cancel()
	s.id = id
	if id == nil {
		return
	}
	ctx, cancel := context.WithCancel(s.w.ctx)
	before, mine := s.ended, make(chan struct{})
	s.cancel, s.ended = cancel, mine
	s.w.running.Go(func() {
		defer close(mine)
		defer cancel()
		<-before
		s.serve(ctx)
	})
}

// look checks whether the current instance still exists or was replaced: an event
// about a file can be older than what was found there. The path stays known if
// nothing is there, because a successor must wait for the end.
func (s *socket) look() {
	id, err := sockfile.Identify(s.path)
	if err != nil {
		id = nil
	}
	s.replace(id)
}

// serve registers one instance and waits for its end.
func (s *socket) serve(ctx context.Context) {
	log := s.w.opts.Logger.With("socket", s.path)
	for wait := firstRetry; ctx.Err() == nil; wait = min(2*wait, lastRetry) {
		p, err := s.register(ctx)
		if err == nil {
			log.Info("plugin registered", "kind", p.Kind, "plugin", p.Name, "endpoint", p.Endpoint)
			<-ctx.Done()
			if s.w.ctx.Err() == nil {
				log.Info("plugin deregistered", "kind", p.Kind, "plugin", p.Name)
				s.w.handlers[p.Kind].Deregister(p)
			}
			return
		}
		if ctx.Err() != nil {
			return // the plugin or the watch went away in the meantime: nobody is to blame
		}
		log.Warn("registering a plugin", "plugin", p.Name, "err", err, "retry", wait)
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

// register makes one attempt. If Register accepted the plugin and only the
// notification was lost, the plugin is registered nevertheless.
func (s *socket) register(ctx context.Context) (Plugin, error) {
	conn, err := rpc.Dial(s.path, "registration", nil)
	if err != nil {
		return Plugin{}, err
	}
	defer conn.Close()
	client := registerapi.NewRegistrationClient(conn)

	p, err := s.info(ctx, client)
	if err != nil {
		return p, err
	}
	refused := s.accept(ctx, p)
	if refused != nil && ctx.Err() != nil {
		return p, refused
	}
	status := &registerapi.RegistrationStatus{PluginRegistered: refused == nil}
	if refused != nil {
		status.Error = refused.Error()
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if _, err := client.NotifyRegistrationStatus(ctx, status); err != nil {
		s.w.opts.Logger.Warn("telling a plugin its registration status", "socket", s.path, "plugin", p.Name, "err", err)
	}
	return p, refused
}

func (s *socket) info(ctx context.Context, client registerapi.RegistrationClient) (Plugin, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	info, err := client.GetInfo(ctx, &registerapi.InfoRequest{})
	if err != nil {
		return Plugin{}, fmt.Errorf("GetInfo: %w", err)
	}
	return Plugin{
		Kind:     info.GetType(),
		Name:     info.GetName(),
		Endpoint: s.endpoint(info.GetEndpoint()),
		Versions: info.GetSupportedVersions(),
		Socket:   s.path,
	}, nil
}

// endpoint returns the endpoint that a plugin named as a path in this process's view.
// An empty one means the registration socket itself.
func (s *socket) endpoint(named string) string {
	named = strings.TrimPrefix(named, "unix://")
	if named == "" {
		return s.path
	}
	if rest, ok := strings.CutPrefix(named, wellKnownRoot); ok {
		here := filepath.Join(filepath.Dir(s.w.dir), rest)
		if _, err := os.Stat(here); err == nil {
			return here
		}
	}
	return named
}

func (s *socket) accept(ctx context.Context, p Plugin) error {
	h, ok := s.w.handlers[p.Kind]
	switch {
	case !ok:
		return fault.Unimplemented.Errorf("plugin %q is of kind %q, which this node does not take", p.Name, p.Kind)
	case p.Name == "":
		return fault.Invalid.Errorf("the plugin has no name")
	}
	if err := h.Register(ctx, p); err != nil {
		return fmt.Errorf("registering %s %q: %w", p.Kind, p.Name, err)
	}
	return nil
}
