package criclientsuite

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/conformance"
	"github.com/nodekit-project/nodekit/internal/mount"
	"github.com/nodekit-project/nodekit/internal/relay"
	"github.com/nodekit-project/nodekit/internal/scratch"
)

// house is what the rules of one run share: a kubelet with its runtime, for rules
// that harm neither.
type house struct {
	scratch *scratch.Dir
	target  Target // without the house
	pods    atomic.Int64

	mu     sync.Mutex
	shared *site
	failed error // of the start of shared
}

// Open creates what the rules of one run share and returns the target with it;
// closeHouse takes it down. A run opens a target that is not open yet: only callers
// that run the suite many times on one kubelet need to open it first.
func Open(_ context.Context, target Target) (opened Target, closeHouse func(), err error) {
	if target.house != nil {
		return target, func() {}, nil
	}
	if err := target.validate(); err != nil {
		return target, nil, err
	}
	dir, err := scratch.New()
	if err != nil {
		return target, nil, err
	}
	h := &house{scratch: dir, target: target}
	target.house = h
	return target, h.close, nil
}

func (h *house) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.shared != nil {
		h.shared.close(context.Background(), slog.New(slog.DiscardHandler))
	}
	// What a kubelet left mounted there is unmounted, and not removed: it may be a
	// directory of the machine.
	if err := mount.DetachTree(h.scratch.Path()); err == nil || errors.Is(err, mount.ErrUnsupported) {
		_ = h.scratch.Remove()
	}
}

// common returns the site that rules share, opened for the first of them.
func (h *house) common(ctx context.Context) (*site, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.shared == nil && h.failed == nil {
		dir, err := os.MkdirTemp(h.scratch.Path(), "s")
		if err == nil {
			h.shared, err = openSite(ctx, h, dir)
		}
		if ctx.Err() != nil {
			return nil, err
		}
		h.failed = err
	}
	return h.shared, h.failed
}

// site is one kubelet with a recording runtime of its own.
type site struct {
	house     *house
	target    *Target
	dir       string
	manifests string
	images    *imageStore
	rec       *recorder
	relay     *relay.Relay
	kubelet   *Kubelet

	mu     sync.Mutex
	engine *engine
	hangUp func() error // ends serving
}

// openSite starts a runtime and then the kubelet. Faults apply from the first call on.
func openSite(ctx context.Context, h *house, dir string, faults ...*fault) (*site, error) {
	s := &site{house: h, target: &h.target, dir: dir, manifests: filepath.Join(dir, "m"), images: &imageStore{}, rec: newRecorder()}
	for _, f := range faults {
		s.rec.inject(f)
	}
	state := filepath.Join(dir, "k")
	for _, d := range []string{s.manifests, state} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return nil, err
		}
	}
	var err error
	if s.relay, err = relay.New(engineEndpoint(dir), s.rec.hooks()); err != nil {
		return nil, err
	}
	if err := s.up(ctx); err != nil {
		return nil, errors.Join(err, s.relay.Close())
	}
	s.kubelet, err = h.target.Start(ctx, Place{Endpoint: s.endpoint(), Manifests: s.manifests, State: state})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("starting the kubelet: %w", err), s.down(), s.relay.Close())
	}
	return s, nil
}

func (s *site) endpoint() string { return "unix://" + filepath.Join(s.dir, "r.sock") }

// up starts the runtime on its existing records.
func (s *site) up(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, err := startEngine(ctx, s.dir, s.images)
	if err != nil {
		return err
	}
	hangUp, err := s.relay.Serve(s.endpoint())
	if err != nil {
		return errors.Join(err, e.end())
	}
	s.engine, s.hangUp = e, hangUp
	return nil
}

// down ends the runtime as its death would: calls break off and the socket disappears.
func (s *site) down() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.engine == nil {
		return nil
	}
	err := errors.Join(s.hangUp(), s.engine.end())
	s.engine = nil
	return err
}

// forget removes the records of a runtime that is down: it will know nothing.
func (s *site) forget() error { return os.RemoveAll(filepath.Join(s.dir, "state")) }

// runtime returns the running runtime. Calls to it bypass the recorder.
func (s *site) runtime() *engine {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.engine
}

// close removes the Pods, as far as that is quick, and ends everything.
func (s *site) close(ctx context.Context, log *slog.Logger) {
	if ctx.Err() == nil {
		if err := s.empty(ctx); err != nil {
			log.Warn("taking the Pods away", "err", err)
		}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTime)
	defer cancel()
	if err := s.kubelet.Close(ctx); err != nil {
		log.Warn("ending the kubelet", "err", err, "printed", s.said())
	}
	if err := errors.Join(s.down(), s.relay.Close()); err != nil {
		log.Warn("ending the suite's runtime", "err", err)
	}
}

// closeTime is how long ending a kubelet may take, within the cleanup time that a check
// has after its own time is over.
const closeTime = 18 * time.Second

// empty removes all manifests and waits until no sandbox is ready any more.
func (s *site) empty(ctx context.Context) error {
	files, err := filepath.Glob(filepath.Join(s.manifests, "*"))
	for _, f := range files {
		err = errors.Join(err, os.Remove(f))
	}
	if err != nil {
		return err
	}
	const most = 8 * time.Second
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	for {
		left, err := s.ready(ctx, "")
		if err == nil && len(left) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("sandboxes %q are still ready: %w", left, errors.Join(err, ctx.Err()))
		case <-time.After(pause):
		}
	}
}

// pause is the interval at which the suite polls its runtime.
const pause = 10 * time.Millisecond

// ready returns the ids of a Pod's ready sandboxes, or of all Pods' for "".
func (s *site) ready(ctx context.Context, pod string) (ids []string, err error) {
	e := s.runtime()
	if e == nil {
		return nil, errors.New("the runtime is down")
	}
	resp, err := e.Runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return nil, err
	}
	pods := s.rec.podOfSandbox()
	for _, item := range resp.Items {
		if item.State == runtimeapi.PodSandboxState_SANDBOX_READY && (pod == "" || pods[item.Id] == pod) {
			ids = append(ids, item.Id)
		}
	}
	return ids, nil
}

// said returns the end of what the kubelet printed.
func (s *site) said() string {
	if s.kubelet == nil || s.kubelet.Said == nil {
		return ""
	}
	return s.kubelet.Said()
}

// look is a rule's check.
type look = func(context.Context, *lab) error

// with turns a look at the kubelet that rules share into a rule's check.
func with(id string, check look, needs []Feature) func(context.Context, *input) error {
	return func(ctx context.Context, in *input) (err error) {
		if err := in.Target.missing(needs); err != nil {
			return err
		}
		s, err := in.Target.house.common(ctx)
		if err != nil {
			return err
		}
		l := newLab(id, s, in)
		defer func() { err = errors.Join(err, l.close()) }()
		return check(ctx, l)
	}
}

// withOwn is like with, for rules that harm the kubelet or its runtime, or check how
// they connect: each gets its own pair, with the faults from the beginning.
func withOwn(id string, check look, faults func() []*fault) func(context.Context, *input) error {
	return func(ctx context.Context, in *input) error {
		s, err := openSite(ctx, in.Target.house, in.TempDir, faults()...)
		if err != nil {
			return err
		}
		defer s.close(ctx, in.Log)
		return check(ctx, newLab(id, s, in))
	}
}

// killable returns NotApplicable for a kubelet that cannot be killed.
func (s *site) killable() error {
	if s.kubelet.Kill == nil || s.kubelet.Revive == nil {
		return conformance.NotApplicable("the kubelet cannot be killed and started again")
	}
	return nil
}
