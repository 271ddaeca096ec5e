package criclientsuite_test

import (
	"context"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/conformance/criclientsuite"
	"github.com/nodekit-project/nodekit/internal/relay"
)

// fault is what a mutant does on the way between our kubelet and the recording
// runtime: it makes another client of it. Its functions may be nil.
type fault struct {
	// ask edits a request. With an error, or with an answer, the runtime is not asked.
	ask func(c *exchange) (answer proto.Message, err error)
	// told edits what the kubelet is told.
	told func(c *exchange, resp proto.Message, err error) (proto.Message, error)
	// within makes the context of the call.
	within func(c *exchange, ctx context.Context) (context.Context, context.CancelFunc)
	// revived is called when the kubelet was killed, before it is started again.
	revived func(p *proxy)
}

// exchange is one call through the proxy.
type exchange struct {
	*relay.Call
	*proxy
	ctx       context.Context
	pod       string
	container string
	n         int // of this method for this container, or for this Pod
}

// proxy passes the calls of a kubelet on and lets faults see them: that of the rule
// whose Pod a call is about, or the one of all.
type proxy struct {
	*relay.Relay
	rt     runtimeapi.RuntimeServiceClient
	im     runtimeapi.ImageServiceClient
	faults func(pod string) *fault

	off    atomic.Bool // at the end, when the kubelet cleans up
	mu     sync.Mutex
	owners map[string][2]string // Pod and container by the id of a sandbox or a container, and by a Pod's UID
	counts map[string]int
	notes  map[string]bool
	asked  map[string]proto.Message // the last request of a method, by Pod and container
}

// through starts a kubelet behind a proxy that outlives it.
func through(start func(context.Context, criclientsuite.Place) (*criclientsuite.Kubelet, error), faults func(pod string) *fault) func(context.Context, criclientsuite.Place) (*criclientsuite.Kubelet, error) {
	return func(ctx context.Context, place criclientsuite.Place) (*criclientsuite.Kubelet, error) {
		p := &proxy{faults: faults, owners: map[string][2]string{}, counts: map[string]int{}, notes: map[string]bool{}, asked: map[string]proto.Message{}}
		var err error
		if p.Relay, err = relay.New(place.Endpoint, relay.Hooks{Unary: p.unary}); err != nil {
			return nil, err
		}
		p.rt, p.im = runtimeapi.NewRuntimeServiceClient(p.Conn()), runtimeapi.NewImageServiceClient(p.Conn())
		place.Endpoint = "unix://" + filepath.Join(filepath.Dir(place.State), "p.sock")
		stop, err := p.Serve(place.Endpoint)
		if err != nil {
			return nil, err
		}
		k, err := start(ctx, place)
		if err != nil {
			_ = stop()
			return nil, err
		}
		end, revive := k.Close, k.Revive
		k.Close = func(ctx context.Context) error {
			p.off.Store(true)
			err := end(ctx)
			_ = stop()
			_ = p.Close()
			return err
		}
		k.Revive = func(ctx context.Context) error {
			if f := p.faults(""); f != nil && f.revived != nil {
				f.revived(p)
			}
			return revive(ctx)
		}
		return k, nil
	}
}

func (p *proxy) unary(ctx context.Context, call *relay.Call, _ relay.Next) (proto.Message, error) {
	c := &exchange{Call: call, proxy: p, ctx: ctx}
	p.attribute(c)
	f := p.faults(c.pod)
	if f == nil || p.off.Load() {
		f = &fault{}
	}
	if f.ask != nil {
		if answer, err := f.ask(c); answer != nil || err != nil {
			return answer, err
		}
	}
	if f.within != nil {
		var cancel context.CancelFunc
		ctx, cancel = f.within(c, ctx)
		defer cancel()
	}
	resp, err := p.Invoke(ctx, call)
	if err == nil {
		p.own(c, resp)
	}
	if f.told != nil {
		return f.told(c, resp, err)
	}
	return resp, err
}

const podLabel = "cri-client-suite/pod"

func (p *proxy) attribute(c *exchange) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var of [2]string
	switch r := c.Request.(type) {
	case *runtimeapi.RunPodSandboxRequest:
		of[0] = r.GetConfig().GetLabels()[podLabel]
		p.owners[r.GetConfig().GetMetadata().GetUid()] = of
	case *runtimeapi.CreateContainerRequest:
		of = p.owners[r.GetPodSandboxId()]
		of[1] = r.GetConfig().GetMetadata().GetName()
	case *runtimeapi.ListPodSandboxRequest:
		of = p.owners[r.GetFilter().GetLabelSelector()["io.kubernetes.pod.uid"]]
	case *runtimeapi.ListContainersRequest:
		of = p.owners[r.GetFilter().GetLabelSelector()["io.kubernetes.pod.uid"]]
	case *runtimeapi.PullImageRequest:
		of = imageOwner(r.GetImage())
	case *runtimeapi.ImageStatusRequest:
		of = imageOwner(r.GetImage())
	case interface{ GetContainerId() string }:
		of = p.owners[r.GetContainerId()]
	case interface{ GetPodSandboxId() string }:
		of = p.owners[r.GetPodSandboxId()]
	}
	c.pod, c.container = of[0], of[1]
	key := c.Method + "/" + c.pod + "/" + c.container
	p.counts[key]++
	c.n = p.counts[key]
	p.asked[key] = proto.Clone(c.Request)
}

func imageOwner(spec *runtimeapi.ImageSpec) (of [2]string) {
	if parts := strings.Split(spec.GetImage(), "/"); len(parts) == 3 {
		of[0], of[1] = parts[1], strings.TrimSuffix(parts[2], ":v1")
	}
	return of
}

func (p *proxy) own(c *exchange, resp proto.Message) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch r := resp.(type) {
	case *runtimeapi.RunPodSandboxResponse:
		p.owners[r.GetPodSandboxId()] = [2]string{c.pod}
	case *runtimeapi.CreateContainerResponse:
		p.owners[r.GetContainerId()] = [2]string{c.pod, c.container}
	}
}

// first notes something and reports whether it is the first time.
func (p *proxy) first(note string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	before := p.notes[note]
	p.notes[note] = true
	return !before
}

func (p *proxy) noted(note string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.notes[note]
}

// creation is the last request for a container.
func (p *proxy) creation(pod, container string) *runtimeapi.CreateContainerRequest {
	p.mu.Lock()
	defer p.mu.Unlock()
	r, _ := p.asked["CreateContainer/"+pod+"/"+container].(*runtimeapi.CreateContainerRequest)
	return proto.CloneOf(r)
}

// stage is a kubelet behind a proxy that many mutants share: each is what the calls
// about the Pods of its rule show.
type stage struct {
	target criclientsuite.Target

	mu     sync.Mutex
	faults map[string]*fault
	turns  map[string]*sync.Mutex // of a rule's mutants
}

func newStage(t *testing.T) *stage {
	t.Helper()
	s := &stage{faults: map[string]*fault{}, turns: map[string]*sync.Mutex{}}
	target := ours(t)
	target.Start, target.Patience = through(target.Start, s.fault), paced(t, mutantPatience)
	opened, end, err := criclientsuite.Open(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(end)
	s.target = opened
	return s
}

func (s *stage) fault(pod string) *fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := strings.LastIndex(pod, "-"); i > 0 {
		return s.faults[pod[:i]]
	}
	return nil
}

// enter puts a mutant on the stage for the time of a test.
func (s *stage) enter(t testing.TB, rule string, f fault) criclientsuite.Target {
	t.Helper()
	rule = strings.ToLower(rule)
	s.mu.Lock()
	if s.turns[rule] == nil {
		s.turns[rule] = &sync.Mutex{}
	}
	turn := s.turns[rule]
	s.mu.Unlock()
	turn.Lock()
	s.set(rule, &f)
	t.Cleanup(func() {
		s.set(rule, nil)
		turn.Unlock()
	})
	return s.target
}

func (s *stage) set(rule string, f *fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults[rule] = f
}

// alone is a mutant with a kubelet of its own: all calls are the fault's.
func alone(t testing.TB, f fault) criclientsuite.Target {
	t.Helper()
	target := ours(t)
	target.Start, target.Patience = through(target.Start, func(string) *fault { return &f }), paced(t, mutantPatience)
	return target
}
