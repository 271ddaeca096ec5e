package nri_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/stub"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri"
	"github.com/nodekit-project/nodekit/cri/nri"
)

// author is a runtime that makes nothing and notes what it is asked for.
type author struct {
	plugins *nri.Plugins
	rt      *cri.Runtime
	exits   chan string // ids of containers that end by themselves

	mu     sync.Mutex
	specs  map[string]*specs.Spec
	limits map[string]*runtimeapi.LinuxContainerResources
	refuse error           // of UpdateContainer
	fail   error           // of the next CreateContainer or StartContainer
	looked func()          // is called for each look at a spec, if it is set
	ran    func(id string) // is called by StartContainer, if it is set
	made   func(id string) // is called by CreateContainer, if it is set, behind Adjust
}

func (a *author) locked(f func()) { a.mu.Lock(); defer a.mu.Unlock(); f() }

// newAuthor returns a runtime whose plugins connect to socket, not yet recovered.
func newAuthor(t *testing.T, cfg nri.Config, tune ...func(*nri.Methods)) *author {
	a := &author{exits: make(chan string), specs: map[string]*specs.Spec{}, limits: map[string]*runtimeapi.LinuxContainerResources{}}
	sandbox := func(context.Context, *cri.Sandbox) error { return nil }
	a.plugins = nri.New(cfg)
	a.rt = &cri.Runtime{
		Name: "test", Version: "1",
		RunSandbox: sandbox, StopSandbox: sandbox, RemoveSandbox: sandbox,
		UpdateSandbox: func(context.Context, *cri.Sandbox, *runtimeapi.LinuxContainerResources, *runtimeapi.LinuxContainerResources) error {
			return nil
		},
		CreateContainer: a.create,
		StartContainer: func(_ context.Context, c *cri.Container) error {
			if a.ran != nil {
				a.ran(c.ID)
			}
			return a.failure()
		},
		StopContainer: func(context.Context, *cri.Container, time.Duration) error { return nil },
		RemoveContainer: func(_ context.Context, c *cri.Container) error {
			a.locked(func() { delete(a.specs, c.ID) })
			return nil
		},
		UpdateContainer: func(_ context.Context, c *cri.Container, l *runtimeapi.LinuxContainerResources) error {
			a.mu.Lock()
			defer a.mu.Unlock()
			if a.refuse == nil {
				a.limits[c.ID] = l
			}
			return a.refuse
		},
		Watch: func(ctx context.Context, ended func(string, cri.Exit)) error {
			for {
				select {
				case <-ctx.Done():
					return nil
				case id := <-a.exits:
					ended(id, cri.Exit{Code: 3, At: time.Now()})
				}
			}
		},
	}
	m := nri.Methods{
		Spec: func(c *cri.Container) (*specs.Spec, error) {
			var looked func()
			a.locked(func() { looked = a.looked })
			if looked != nil {
				looked()
			}
			a.mu.Lock()
			defer a.mu.Unlock()
			if a.specs[c.ID] == nil {
				return nil, errors.New("it has no spec")
			}
			return a.specs[c.ID], nil
		},
		InjectCDI: func(doc *specs.Spec, names []string) error {
			doc.Process.Env = append(doc.Process.Env, "CDI="+strings.Join(names, ","))
			return nil
		},
	}
	for _, f := range tune {
		f(&m)
	}
	do(t, a.plugins.Extend(a.rt, m))
	a.rt.Limits(func(ctx context.Context, c *cri.Container, _ *runtimeapi.LinuxContainerResources, apply func(context.Context, *cri.Container) error) error {
		return apply(ctx, c)
	})
	t.Cleanup(a.plugins.Close)
	return a
}

func (a *author) failure() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	err := a.fail
	a.fail = nil
	return err
}

// limitsOf are those that the author was told to apply.
func (a *author) limitsOf(id string) (limits *runtimeapi.LinuxContainerResources) {
	a.locked(func() { limits = a.limits[id] })
	return limits
}

func (a *author) create(ctx context.Context, c *cri.Container) error {
	score := int(c.Config.GetLinux().GetResources().GetOomScoreAdj())
	doc := &specs.Spec{
		Process: &specs.Process{Args: []string{"program"}, Env: []string{"A=1"}, OOMScoreAdj: &score},
		Linux:   &specs.Linux{CgroupsPath: "/its/own", Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace}}},
	}
	if err := a.plugins.Adjust(ctx, c, doc); err != nil {
		return err
	}
	if a.made != nil {
		a.made(c.ID)
	}
	if err := a.failure(); err != nil {
		return err
	}
	a.locked(func() { a.specs[c.ID] = doc })
	return nil
}

// served returns an author that has recovered, and where its plugins connect.
func served(t *testing.T, tune ...func(*nri.Methods)) (*author, string) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "nri.sock")
	a := newAuthor(t, nri.Config{Socket: socket}, tune...)
	if err := a.rt.Recover(t.Context(), nil, nil); err != nil {
		t.Fatal(err)
	}
	return a, socket
}

// plugin is an NRI plugin that notes what it is told.
type plugin struct {
	stub stub.Stub

	mu     sync.Mutex
	lost   chan struct{} // closed when it is disconnected
	events []string
	synced chan struct{} // closed by Synchronize
	refuse string        // the event that is refused
	hang   string        // the event that is not answered before goOn is closed
	goOn   chan struct{}
	adjust *api.ContainerAdjustment
	update []*api.ContainerUpdate // the answer to CreateContainer, UpdateContainer and StopContainer
	block  chan struct{}          // Synchronize waits for it, if there is one
	posted *api.Container         // the last that PostCreateContainer told of
}

func (p *plugin) told(event, id string) error {
	if event == p.hang {
		<-p.goOn
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.events = append(p.events, event+" "+id)
	if event == p.refuse {
		return errors.New("not with me")
	}
	return nil
}

func (p *plugin) heard() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.events)
}

func (p *plugin) Synchronize(_ context.Context, pods []*api.PodSandbox, containers []*api.Container) ([]*api.ContainerUpdate, error) {
	var all []string
	for _, s := range pods {
		all = append(all, s.GetId())
	}
	for _, c := range containers {
		all = append(all, fmt.Sprintf("%s %s %s", c.GetId(), c.GetState(), strings.Join(c.GetArgs(), " ")))
	}
	slices.Sort(all)
	_ = p.told("Synchronize", strings.Join(all, ", "))
	close(p.synced)
	if p.block != nil {
		<-p.block
	}
	return nil, nil
}

func (p *plugin) RunPodSandbox(_ context.Context, s *api.PodSandbox) error {
	return p.told("RunPodSandbox", s.GetId())
}

func (p *plugin) UpdatePodSandbox(_ context.Context, s *api.PodSandbox, _, _ *api.LinuxResources) error {
	return p.told("UpdatePodSandbox", s.GetId())
}

func (p *plugin) PostUpdatePodSandbox(_ context.Context, s *api.PodSandbox) error {
	return p.told("PostUpdatePodSandbox", s.GetId())
}

func (p *plugin) StopPodSandbox(_ context.Context, s *api.PodSandbox) error {
	return p.told("StopPodSandbox", s.GetId())
}

func (p *plugin) RemovePodSandbox(_ context.Context, s *api.PodSandbox) error {
	return p.told("RemovePodSandbox", s.GetId())
}

func (p *plugin) CreateContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
	return p.adjust, p.update, p.told("CreateContainer", c.GetId())
}

func (p *plugin) PostCreateContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	p.posted = c
	return p.told("PostCreateContainer", c.GetId())
}

func (p *plugin) StartContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	return p.told("StartContainer", c.GetId())
}

func (p *plugin) PostStartContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	return p.told("PostStartContainer", c.GetId())
}

func (p *plugin) UpdateContainer(_ context.Context, _ *api.PodSandbox, c *api.Container, _ *api.LinuxResources) ([]*api.ContainerUpdate, error) {
	return p.update, p.told("UpdateContainer", c.GetId())
}

func (p *plugin) PostUpdateContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	return p.told("PostUpdateContainer", c.GetId())
}

func (p *plugin) StopContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) ([]*api.ContainerUpdate, error) {
	return p.update, p.told("StopContainer", c.GetId())
}

func (p *plugin) RemoveContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	return p.told("RemoveContainer", c.GetId())
}

// connect connects the plugin and waits until it is told what is there.
func (p *plugin) connect(t *testing.T, socket string) *plugin {
	t.Helper()
	p.dial(t, socket)
	<-p.synced
	return p
}

func (p *plugin) dial(t *testing.T, socket string) {
	t.Helper()
	p.synced, p.lost = make(chan struct{}), make(chan struct{})
	var err error
	p.stub, err = stub.New(p, stub.WithPluginName("test"), stub.WithPluginIdx("10"), stub.WithSocketPath(socket), stub.WithOnClose(func() { close(p.lost) }))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.stub.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.stub.Stop)
}

func newSandbox(id string) *cri.Sandbox {
	return &cri.Sandbox{ID: id, Config: &runtimeapi.PodSandboxConfig{Metadata: &runtimeapi.PodSandboxMetadata{Name: id, Uid: "uid-" + id}}, Ready: true}
}

func newContainer(s *cri.Sandbox, id string) *cri.Container {
	return &cri.Container{ID: id, Sandbox: s, Config: &runtimeapi.ContainerConfig{Metadata: &runtimeapi.ContainerMetadata{Name: id}}, CreatedAt: time.Now()}
}

// do fails the test for an error.
func do(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

func wantEvents(t *testing.T, p *plugin, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, p.heard()); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}
