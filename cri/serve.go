package cri

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri/internal/metrics"
	"github.com/nodekit-project/nodekit/cri/internal/record"
	"github.com/nodekit-project/nodekit/internal/rpc"
)

// Options configures Serve. Nil means the defaults.
type Options struct {
	// StateDir holds the records and the Dir of every object. It should survive
	// whatever the containers survive. Only one server can use it; a second one is
	// refused. "" means /var/lib/NAME, where NAME is the runtime's name.
	StateDir string
	// Logger receives state changes (Info), one line per call (Debug), and errors that
	// no caller sees (Error). Nil discards them.
	Logger *slog.Logger
	// Ready is called once, after the state of an earlier server has been recovered and
	// calls are accepted: the moment to notify a service manager. It must return
	// quickly. Nil is not called.
	Ready func()
}

// drain is how long a stopping server waits for calls in flight before it cancels them,
// and then for them to return.
const drain = 5 * time.Second

// Serve serves the CRI, RuntimeService and ImageService, on a unix endpoint
// ("unix:///run/x.sock" or an absolute path). It first recovers what an earlier server
// left in Options.StateDir: Runtime.Recover corrects the records, then interrupted
// creations are undone and interrupted removals finished. Only then does it listen, so
// that even a client's first call sees the actual state.
//
// It blocks until ctx ends, then answers the calls in flight and returns nil. Sandboxes
// and containers keep running. It returns an error if it cannot start, if the endpoint
// fails, or if Runtime.Watch does.
func Serve(ctx context.Context, endpoint string, rt *Runtime, o *Options) error {
	var opts Options
	if o != nil {
		opts = *o
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if err := rt.validate(); err != nil {
		return err
	}
	if opts.StateDir == "" {
		opts.StateDir = filepath.Join("/var/lib", rt.Name)
	}
	records, err := record.Open(opts.StateDir, opts.Logger)
	if err != nil {
		return err
	}
	defer records.Close()

	base, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	s := newServer(base, rt, records, opts.Logger)
	if err := s.recover(ctx); ctx.Err() != nil {
		return s.wind(cancel, unwatched()) // what was not recovered is still recorded
	} else if err != nil {
		return errors.Join(fmt.Errorf("recovering the records in %q: %w", opts.StateDir, err), s.wind(cancel, unwatched()))
	}
	if err := s.Server.Start(); err != nil {
		return errors.Join(err, s.wind(cancel, unwatched()))
	}
	defer s.Server.Close()
	return s.run(ctx, base, cancel, endpoint, opts.Ready)
}

// run serves until ctx ends or Watch fails. cancel ends base, the context of detached
// calls and of Watch, for those that do not finish in time.
func (s *server) run(ctx, base context.Context, cancel context.CancelFunc, endpoint string, ready func()) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	l, err := rpc.Listen(endpoint)
	if err != nil {
		return errors.Join(err, s.wind(cancel, unwatched()))
	}
	watched := s.startWatch(base, stop)

	g := grpc.NewServer(rpc.ServerOptions("cri", s.log)...)
	runtimeapi.RegisterRuntimeServiceServer(g, s)
	runtimeapi.RegisterImageServiceServer(g, s.images)
	defer context.AfterFunc(ctx, s.events.Close)()
	s.log.InfoContext(ctx, "serving the cri", "runtime", s.rt.Name, "endpoint", endpoint, "unsupported", s.rt.unsupported())
	if ready != nil { // calls wait at the socket, if not yet in the server
		ready()
	}
	err = rpc.Serve(ctx, g, l, drain)
	s.Server.Close()
	return errors.Join(err, s.wind(cancel, watched))
}

// wind ends what outlives the last response, detached calls and Watch, and returns
// Watch's error.
func (s *server) wind(cancel context.CancelFunc, watched <-chan error) error {
	s.hurry()
	idle := make(chan error, 1)
	go func() {
		s.calls.Close()
		cancel()
		idle <- <-watched
	}()
	select {
	case err := <-idle:
		return err
	case <-time.After(drain):
		cancel()
	}
	select {
	case err := <-idle:
		return err
	case <-time.After(drain):
		return fmt.Errorf("stopping: a function of runtime %q ignored the end of its context for %v", s.rt.Name, drain)
	}
}

// unwatched is what startWatch returns if there is no Watch.
func unwatched() <-chan error {
	done := make(chan error, 1)
	done <- nil
	return done
}

// startWatch runs Watch until base ends. The channel receives its error, nil if it ended
// as it should.
func (s *server) startWatch(base context.Context, stop context.CancelFunc) <-chan error {
	if s.rt.Watch == nil {
		return unwatched()
	}
	done := make(chan error, 1)
	ended := func(id string, e Exit) { s.table.Report(id, record.Exit(e)) }
	go func() {
		err := s.guard("Watch", func() error { return s.rt.Watch(base, ended) })
		if err == nil || base.Err() != nil {
			done <- nil
			return
		}
		done <- fmt.Errorf("watching for exits: %w", err)
		stop()
	}()
	return done
}

// validate refuses a Runtime that could create what it cannot remove.
func (rt *Runtime) validate() error {
	var missing []string
	need := func(ok bool, what string) {
		if !ok {
			missing = append(missing, what)
		}
	}
	need(rt.Name != "", "Name")
	need(rt.Version != "", "Version")
	if rt.RunSandbox != nil || rt.CreateContainer != nil {
		need(rt.RunSandbox != nil, "RunSandbox")
		need(rt.StopSandbox != nil, "StopSandbox")
		need(rt.RemoveSandbox != nil, "RemoveSandbox")
	}
	if rt.CreateContainer != nil || rt.StartContainer != nil {
		need(rt.CreateContainer != nil, "CreateContainer")
		need(rt.StartContainer != nil, "StartContainer")
		need(rt.StopContainer != nil, "StopContainer")
		need(rt.RemoveContainer != nil, "RemoveContainer")
	}
	if c := rt.Checkpoints; c != nil && (c.Pause != nil || c.Dump != nil) {
		need(c.Pause != nil, "Checkpoints.Pause")
		need(c.Resume != nil, "Checkpoints.Resume")
		need(c.Dump != nil, "Checkpoints.Dump")
	}
	if len(missing) > 0 {
		return ErrInvalid.Errorf("serving runtime %q: the Runtime lacks %s", rt.Name, strings.Join(missing, ", "))
	}
	return rt.validateData()
}

// validateData refuses data that no client could make sense of.
func (rt *Runtime) validateData() error {
	names := map[string]bool{}
	for _, h := range rt.Handlers {
		if names[h.Name] {
			return ErrInvalid.Errorf("serving runtime %q: two handlers have the name %q", rt.Name, h.Name)
		}
		names[h.Name] = true
	}
	if rt.Metrics == nil {
		return nil
	}
	if err := metrics.Check(rt.Metrics.Descriptors); err != nil {
		return fmt.Errorf("serving runtime %q: %w", rt.Name, err)
	}
	return nil
}
