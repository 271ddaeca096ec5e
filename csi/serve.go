package csi

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/flock"
	"github.com/nodekit-project/nodekit/internal/registration"
	"github.com/nodekit-project/nodekit/internal/rpc"
)

// grace is how long calls in flight may take when the server stops.
const grace = 5 * time.Second

// Options configures Serve. Nil means the defaults.
type Options struct {
	// Registry is a kubelet's plugins_registry directory, in which the driver registers
	// while it is served. Empty means no registration, for example because a registrar
	// sidecar does it.
	Registry string
	// Logger receives one debug line per call, without secrets. Nil discards them.
	Logger *slog.Logger
}

// Serve serves the driver on a unix socket ("unix:///run/x.sock") until ctx ends. Then
// it gives the calls in flight 5 seconds to finish, and returns nil. Only the socket's
// owner can access it. Serve removes the socket at the end, and replaces one left by a
// killed process.
//
// It returns ErrInvalid at once if the driver contradicts itself, and ErrAlreadyExists
// if another process serves the socket or uses Driver.StateDir.
func Serve(ctx context.Context, endpoint string, d *Driver, o *Options) error {
	if o == nil {
		o = &Options{}
	}
	log := o.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if err := d.Validate(); err != nil {
		return err
	}
	core, unlock, err := newCore(ctx, d)
	if err != nil {
		return fmt.Errorf("serving driver %q: %w", d.Name, err)
	}
	defer unlock()
	defer core.abandon()
	l, err := rpc.Listen(endpoint)
	if err != nil {
		return err
	}
	server := newServer(core, log)
	log.InfoContext(ctx, "serving a CSI driver", "driver", d.Name, "version", d.Version, "endpoint", endpoint,
		"controller", d.controllerTypes(), "node", d.nodeTypes())
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return rpc.Serve(ctx, server, l, grace) })
	if o.Registry != "" {
		group.Go(func() error { return register(ctx, l.Addr().String(), d, o) })
	}
	return group.Wait()
}

func register(ctx context.Context, socket string, d *Driver, o *Options) error {
	return registration.Serve(ctx, o.Registry, registration.Plugin{
		Kind: registration.CSIPlugin, Name: d.Name, Endpoint: socket, Versions: []string{"1.0.0"},
	}, &registration.Options{Logger: o.Logger})
}

func newServer(c *core, log *slog.Logger) *grpc.Server {
	s := grpc.NewServer(append(rpc.ServerOptions("csi", log), grpc.ChainUnaryInterceptor(logRequests(log)))...)
	spec.RegisterIdentityServer(s, &identityServer{driver: c.driver})
	if c.driver.hasController() {
		spec.RegisterControllerServer(s, &controllerServer{core: c})
	}
	if c.driver.hasNode() {
		spec.RegisterNodeServer(s, &nodeServer{core: c})
	}
	return s
}

// core is the state that the services of one driver share.
type core struct {
	driver  *Driver
	locks   *locks
	uses    *uses
	life    context.Context // of the server: see change
	abandon context.CancelFunc
}

// newCore locks the state directory and recovers what is in it.
func newCore(ctx context.Context, d *Driver) (c *core, unlock func(), err error) {
	c = &core{driver: d, locks: &locks{}}
	published, unlock := "", func() {}
	if d.StateDir != "" {
		if unlock, err = lockDir(d.StateDir); err != nil {
			return nil, nil, err
		}
		published = filepath.Join(d.StateDir, "published")
	}
	c.uses, err = openUses(published, c.locks)
	if err == nil && d.Recover != nil {
		err = d.Recover(ctx)
	}
	if err != nil {
		unlock()
		return nil, nil, err
	}
	c.life, c.abandon = context.WithCancel(context.Background())
	return c, unlock, nil
}

// lockDir locks dir for this process. The kernel releases the lock however the process
// dies.
func lockDir(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the state directory: %w", err)
	}
	lock, err := flock.TryAcquire(filepath.Join(dir, "lock"), flock.Exclusive)
	if err != nil {
		return nil, err
	}
	if lock == nil {
		return nil, fault.AlreadyExists.Errorf("another process uses the state directory %q", dir)
	}
	return lock.Release, nil
}

// change runs an operation that changes something, under its claims. If the caller
// gives up, the operation continues and keeps its claims: the caller's retries return
// ABORTED until the operation has ended.
func (c *core) change(ctx context.Context, operation func(context.Context) error, claims ...claim) error {
	release, err := c.locks.acquire(claims...)
	if err != nil {
		return err
	}
	defer release()
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(c.life, cancel)()
	return operation(ctx)
}
