package crisuite

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/conformance"
	"github.com/nodekit-project/nodekit/internal/leak"
	"github.com/nodekit-project/nodekit/internal/netns"
)

// settleTime is how long the kernel and the runtime may take to clean up after
// RemovePodSandbox.
const settleTime = 3 * time.Second

const reclaimSentence = "StopPodSandbox stops any running process that is part of the sandbox and reclaims network resources (e.g., IP addresses) allocated to the sandbox."

func leakRules() []rule {
	whole := alone(must("CRI-LEAK-001", "leaves nothing of a removed sandbox on the machine", "StopPodSandbox", reclaimSentence, nil))
	whole.Check = checkNothingLeft
	return []rule{
		whole,
		heavy(facto("CRI-LEAK-002", "leaves no descriptor of its own open behind Pods that came and went",
			"long life", "A runtime runs for months.", checkDescriptors, Containers)),
		facto("CRI-LEAK-003", "leaves nothing of a container that could not be made",
			"SyncPod", "The kubelet tries again, for days if need be.", checkFailedLeavesNothing, Isolation),
		soak(facto("CRI-LEAK-004", "has an address for a thousand Pods one after the other",
			"cluster networking", "An address that is not given back is lost to the node.", onNetwork(checkAddresses))),
		alone(must("CRI-LEAK-005", "leaves nothing of what all rules of the run made", "RemovePodSandbox",
			"RemovePodSandbox removes the sandbox. If there are any running containers in the sandbox, they must be forcibly terminated and removed.", checkLedger)),
	}
}

// checkNothingLeft compares the machine after one sandbox with its state after
// some more, so that what a runtime creates once (a bridge, a table, a monitor)
// is not a leak. A runtime that the suite starts as root has a network namespace
// of its own, where everything new is its doing; elsewhere only what bears a
// name of the sandboxes counts.
func checkNothingLeft(ctx context.Context, in *input) error {
	a := &audit{in: in}
	h := in.Target.house
	images := h.images
	if len(in.Target.Exec) > 0 && os.Geteuid() == 0 {
		h.evict(in.Log)
		if err := a.isolate(); err != nil {
			return err
		}
		defer func() { a.forget() }()
		if images != nil {
			var err error
			if images, err = newRegistry(h.program, a.listen); err != nil {
				return err
			}
			defer images.close()
		}
	}
	rt, err := a.start(ctx, images)
	if err != nil {
		return err
	}
	defer a.end(rt)
	s, err := newSubject(ctx, "CRI-LEAK-001", in, rt)
	if err != nil {
		return err
	}
	defer s.close(ctx)
	if err := a.comeAndGo(ctx, s); err != nil {
		return err
	}
	if err := a.before(s); err != nil {
		return err
	}
	for range 3 {
		if err := a.comeAndGo(ctx, s); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	if left := a.settled(ctx); len(left) > 0 {
		return fmt.Errorf("three sandboxes came and went, and left %d things: %s", len(left), tell(left))
	}
	return nil
}

// audit is what the leak rule knows about the machine.
type audit struct {
	in    *input
	netns string // the runtime's own, "" for none
	enter func() error
	names []string // by which a sandbox's things are known
	host  *leak.Snapshot
	net   *leak.Snapshot
}

func (a *audit) isolate() error {
	path := filepath.Join(a.in.TempDir, "netns")
	if err := netns.Create(path); err != nil {
		return fmt.Errorf("making a network namespace for the runtime: %w", err)
	}
	a.netns, a.enter = path, enterNetNS(path)
	return nil
}

// listen listens in the runtime's network namespace.
func (a *audit) listen() (l net.Listener, err error) {
	err = netns.Do(a.netns, func() (err error) {
		l, err = listenOnLoopback()
		return err
	})
	return l, err
}

// start starts a runtime in the namespace, or takes the shared one.
func (a *audit) start(ctx context.Context, images *registry) (*runtime, error) {
	if a.netns == "" {
		return a.in.Target.house.shared(ctx, a.in)
	}
	dir := filepath.Join(a.in.TempDir, "r")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	return startRuntime(ctx, a.in.Target.house, dir, images, a.enter)
}

func (a *audit) end(rt *runtime) {
	if a.netns != "" {
		rt.end(a.in.Log)
	}
}

func (a *audit) forget() {
	if err := netns.Remove(a.netns); err != nil {
		a.in.Log.Warn("removing the runtime's network namespace", "err", err)
	}
}

// comeAndGo creates a Pod, with a container if the runtime has them, and removes it.
func (a *audit) comeAndGo(ctx context.Context, s *subject) error {
	p, err := s.pod(ctx)
	if err != nil {
		return err
	}
	a.names = append(a.names, short(p.id), p.config.GetMetadata().GetUid())
	if a.in.Target.missing([]Feature{Containers}) == nil {
		b, err := p.start(ctx, forever)
		if err != nil {
			return err
		}
		a.names = append(a.names, short(b.id))
	}
	return s.remove(ctx, p.id)
}

func (a *audit) before(s *subject) (err error) {
	marker := s.root
	if marker == "" {
		marker = s.mark
	}
	a.host, err = leak.Take(leak.Scope{
		Kinds:  []leak.Kind{leak.Mount, leak.Namespace, leak.Cgroup, leak.Process, leak.Loop, leak.Link, leak.Address, leak.NFT},
		Marker: marker,
	})
	if err != nil || a.netns == "" {
		return err
	}
	return netns.Do(a.netns, func() (err error) {
		a.net, err = leak.Take(leak.Scope{Kinds: []leak.Kind{leak.Link, leak.Address, leak.NFT}})
		return err
	})
}

// settled looks repeatedly until nothing of the runtime's is left or ctx ends.
func (a *audit) settled(ctx context.Context) []leak.Leak {
	for {
		left := a.look()
		if len(left) == 0 || ctx.Err() != nil {
			return left
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (a *audit) look() []leak.Leak {
	now, cancel := context.WithCancel(context.Background())
	cancel() // Settled looks once
	left := slices.DeleteFunc(leak.Settled(now, a.host), a.foreign)
	if a.net == nil {
		return left
	}
	err := netns.Do(a.netns, func() error {
		left = append(left, leak.Settled(now, a.net)...)
		return nil
	})
	if err != nil {
		left = append(left, leak.Leak{Kind: leak.Audit, Name: err.Error()})
	}
	return left
}

// foreign reports whether a thing may be somebody else's: the runtime's
// directory already restricts the audit of processes, and everything below that
// directory is the runtime's.
func (a *audit) foreign(l leak.Leak) bool {
	if l.Kind == leak.Audit || (l.Kind == leak.Process && len(a.in.Target.Exec) > 0) {
		return false
	}
	return !slices.ContainsFunc(append(a.names, a.in.TempDir), func(name string) bool {
		return strings.Contains(l.Name, name)
	})
}

func tell(left []leak.Leak) string {
	words := make([]string, len(left))
	for i, l := range left {
		words[i] = l.String()
	}
	return strings.Join(words, "; ")
}

// descriptors counts the open files of the runtime's processes.
func (r *runtime) descriptors() (n int, err error) {
	pids, err := r.markedPIDs()
	if err != nil {
		return 0, err
	}
	for _, pid := range append(pids, r.process.PID()) {
		entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		if errors.Is(err, os.ErrNotExist) {
			continue // the process has ended
		}
		if err != nil {
			return 0, err
		}
		n += len(entries)
	}
	return n, nil
}

func checkDescriptors(ctx context.Context, s *subject) error {
	if s.process == nil {
		return conformance.NotApplicable("the target is an endpoint: its processes are not known")
	}
	const pods, slack = 10, 5
	if err := s.comeAndGoPods(ctx, pods); err != nil {
		return err
	}
	time.Sleep(100 * time.Millisecond)
	before, err := s.descriptors()
	if err != nil {
		return err
	}
	if err := s.comeAndGoPods(ctx, pods); err != nil {
		return err
	}
	return until(ctx, settleTime, func() error {
		after, err := s.descriptors()
		if err == nil && after > before+slack {
			return fmt.Errorf("behind %d Pods that came and went the runtime has %d open files, and had %d", pods, after, before)
		}
		return err
	})
}

func (s *subject) comeAndGoPods(ctx context.Context, n int) error {
	for range n {
		b, err := s.box(ctx, forever)
		if err != nil {
			return err
		}
		if err := s.remove(ctx, b.pod.id); err != nil {
			return err
		}
	}
	return nil
}

func checkFailedLeavesNothing(ctx context.Context, s *subject) error {
	p, err := s.pod(ctx)
	if err != nil {
		return err
	}
	for i := range 3 {
		config, err := p.describe(ctx, forever, mounts(&runtimeapi.Mount{HostPath: "/dev/null/x", ContainerPath: "/mnt"}))
		if err != nil {
			return err
		}
		b, err := p.createAs(ctx, config)
		if err != nil {
			continue
		}
		if err := b.start(ctx); err == nil {
			return fmt.Errorf("try %d: a container with a mount that cannot be is started", i+1)
		}
		if err := b.remove(ctx); err != nil {
			return err
		}
	}
	all, err := s.containers(ctx, &runtimeapi.ContainerFilter{PodSandboxId: p.id})
	if err != nil {
		return err
	}
	if err := exactly(all); err != nil {
		return fmt.Errorf("of containers that could not be made: %w", err)
	}
	return s.remove(ctx, p.id)
}

func checkAddresses(ctx context.Context, s *subject) error {
	const pods = 1000
	for i := range pods {
		p, err := s.pod(ctx)
		if err == nil {
			err = s.remove(ctx, p.id)
		}
		if err != nil {
			return fmt.Errorf("Pod %d of %d: %w", i+1, pods, err)
		}
	}
	return nil
}

// checkLedger creates and removes a Pod, and then looks for everything that any rule of
// the run has created.
func checkLedger(ctx context.Context, s *subject) error {
	p, err := s.pod(ctx)
	if err != nil {
		return err
	}
	if s.in.Target.missing([]Feature{Containers}) == nil {
		b, err := p.start(ctx, forever)
		if err == nil {
			err = b.witness(ctx) // otherwise no process that a rule left could be seen either
		}
		if err != nil {
			return err
		}
	}
	if err := s.remove(ctx, p.id); err != nil {
		return err
	}
	return s.nothingLeft(ctx, s.in.Target.house.made())
}

// nothingLeft returns nil when the machine has no mount, namespace, cgroup, link or
// process with one of the names.
func (s *subject) nothingLeft(ctx context.Context, made []entry) error {
	return until(ctx, settleTime, func() error {
		now, err := leak.Take(leak.Scope{
			Kinds:      []leak.Kind{leak.Mount, leak.Namespace, leak.Cgroup, leak.Process, leak.Link, leak.NFT},
			Marker:     "SUITE_MARK=nk",
			MarkedOnly: true,
		})
		if err != nil {
			return err
		}
		var errs []error
		for _, l := range (&leak.Snapshot{}).Diff(now) {
			if rule := owner(l, made); rule != "" {
				errs = append(errs, fmt.Errorf("%s left %v", rule, l))
			}
		}
		return errors.Join(errs...)
	})
}

// owner returns the rule to which the thing belongs, "" for none. A container's process
// bears a name of the rule's only in its environment, which has the Pod's uid.
func owner(l leak.Leak, made []entry) string {
	name := l.Name
	if pid, _, _ := strings.Cut(l.Name, " "); l.Kind == leak.Process {
		env, _ := os.ReadFile(filepath.Join("/proc", pid, "environ")) // the process may have ended
		name += string(env)
	}
	for _, e := range made {
		if strings.Contains(name, e.name) {
			return e.rule
		}
	}
	return ""
}
