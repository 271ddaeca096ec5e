package crisuite

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/stub"
)

const (
	// listenTime is how long a runtime that answers may take to listen for plugins.
	listenTime = 3 * time.Second
	// joinTime bounds the registration of a plugin, up to its Synchronize.
	joinTime = 10 * time.Second
	// tellTime is how late a plugin may be told of what has happened.
	tellTime = 5 * time.Second
)

// wishes are what a rule's plugin does. Nil functions do nothing. The functions are
// called only for the rule's own Pods, because other rules run at the same time.
type wishes struct {
	index       string // "50" if empty
	synchronize func([]*api.Container) []*api.ContainerUpdate
	runPod      func(*api.PodSandbox) error
	create      func(*api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error)
	start       func(*api.Container) error
	update      func(*api.Container, *api.LinuxResources) []*api.ContainerUpdate
	stop        func(*api.Container) []*api.ContainerUpdate
}

// adjusting returns the wishes of a plugin that changes all containers.
func adjusting(change func(*api.ContainerAdjustment)) wishes {
	return wishes{create: func(*api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
		a := &api.ContainerAdjustment{}
		change(a)
		return a, nil, nil
	}}
}

// occasion is one event that a plugin received.
type occasion struct {
	event     string
	turn      int64 // increases over all plugins of the rule
	pod       *api.PodSandbox
	container *api.Container // nil for a Pod event
	limits    *api.LinuxResources
}

// id is the id of the container or Pod that the event is about.
func (o occasion) id() string {
	if o.container != nil {
		return o.container.GetId()
	}
	return o.pod.GetId()
}

// plugin is an NRI plugin of a rule. It records what it is told about the rule's Pods.
type plugin struct {
	s      *subject
	wishes wishes
	conn   net.Conn
	stub   stub.Stub
	ready  bool        // the stub has started
	lost   atomic.Bool // the runtime has closed the connection
	synced chan struct{}
	first  sync.Once // guards the first Synchronize

	mu   sync.Mutex
	told []occasion
	pods []*api.PodSandbox // as Synchronize reported them
	all  []*api.Container
}

// plugin connects a plugin, and returns once Synchronize has told it what exists.
func (s *subject) plugin(ctx context.Context, a wishes) (*plugin, error) {
	p, err := s.dialPlugin(ctx, a)
	if err != nil {
		return nil, err
	}
	s.plugins = append(s.plugins, p)
	if err := p.register(ctx); err != nil {
		return nil, err
	}
	select {
	case <-p.synced:
		return p, nil
	case <-time.After(joinTime):
		return nil, fmt.Errorf("%v after its registration the plugin has not been told what is there (Synchronize)", joinTime)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (s *subject) dialPlugin(ctx context.Context, a wishes) (*plugin, error) {
	socket := s.nriSocket()
	p := &plugin{s: s, wishes: a, synced: make(chan struct{})}
	err := until(ctx, listenTime, func() (err error) {
		p.conn, err = net.DialTimeout("unix", socket, time.Second)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("nobody listens for NRI plugins at %q, which the author names (fact nri): %w", socket, err)
	}
	if p.wishes.index == "" {
		p.wishes.index = "50"
	}
	p.stub, err = stub.New(handler{p}, stub.WithPluginName(s.mark), stub.WithPluginIdx(p.wishes.index), stub.WithConnection(p.conn),
		stub.WithLogger(silent{}), stub.WithOnClose(func() { p.lost.Store(true) }),
		// It is not the runtime's fault if the machine is too busy for an answer in time.
		stub.WithFailurePolicy(&api.FailurePolicy{KeepConnected: true}))
	if err != nil {
		return nil, errors.Join(err, p.conn.Close())
	}
	return p, nil
}

// register bounds the stub's Start, which waits for a runtime that hangs.
func (p *plugin) register(ctx context.Context) error {
	started := make(chan error, 1)
	go func() { started <- p.stub.Start(ctx) }()
	select {
	case err := <-started:
		if err != nil {
			return fmt.Errorf("registering an NRI plugin: %w", err)
		}
		p.ready = true
		return nil
	case <-time.After(joinTime):
		return fmt.Errorf("registering an NRI plugin: the runtime has not configured it within %v", joinTime)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// close disconnects the plugin. Stop is for a started stub alone: until then Start holds
// the lock that Stop needs.
func (p *plugin) close() {
	if p.ready {
		p.stub.Stop()
	}
	_ = p.conn.Close() // usually it is closed by then
}

// mine reports whether a Pod belongs to the rule.
func (p *plugin) mine(pod *api.PodSandbox) bool { return strings.HasPrefix(pod.GetUid(), p.s.mark+"-") }

func (p *plugin) note(o occasion) {
	p.mu.Lock()
	defer p.mu.Unlock()
	o.turn = p.s.turns.Add(1)
	p.told = append(p.told, o)
}

// about returns what the plugin was told about a Pod itself, or about a container.
func (p *plugin) about(id string) []occasion {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(p.told), func(o occasion) bool { return o.id() != id })
}

// events returns the names of the events in told.
func events(told []occasion) []string {
	var names []string
	for _, o := range told {
		names = append(names, o.event)
	}
	return names
}

// hears waits until the plugin has received an event, and returns it.
func (p *plugin) hears(ctx context.Context, event, id string) (o occasion, err error) {
	err = until(ctx, tellTime, func() error {
		told := p.about(id)
		i := slices.Index(events(told), event)
		if i < 0 {
			return p.missed("%v later the plugin has not been told %s of %q, but %q", tellTime, event, id, events(told))
		}
		o = told[i]
		return nil
	})
	return o, err
}

// hearsAll waits until the plugin has received exactly these events, in this order.
func (p *plugin) hearsAll(ctx context.Context, id string, want ...string) error {
	return until(ctx, tellTime, func() error {
		if got := events(p.about(id)); !slices.Equal(got, want) {
			return p.missed("the plugin was told %q of %q, want %q", got, id, want)
		}
		return nil
	})
}

// missed returns an error that also says when the runtime has closed the connection.
func (p *plugin) missed(format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	if p.lost.Load() {
		err = fmt.Errorf("%w; and the runtime has closed its connection", err)
	}
	return err
}

// known returns the container as Synchronize reported it, or nil.
func (p *plugin) known(id string) *api.Container {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.all {
		if c.GetId() == id {
			return c
		}
	}
	return nil
}

// knownPod is known for a Pod.
func (p *plugin) knownPod(id string) *api.PodSandbox {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, pod := range p.pods {
		if pod.GetId() == id {
			return pod
		}
	}
	return nil
}

// silent is the stub's logger, which discards all: what matters is in the errors.
type silent struct{}

func (silent) Debugf(context.Context, string, ...any) {}
func (silent) Infof(context.Context, string, ...any)  {}
func (silent) Warnf(context.Context, string, ...any)  {}
func (silent) Errorf(context.Context, string, ...any) {}
