package criclientsuite

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"google.golang.org/protobuf/proto"
	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri"
)

func connectRules() []rule {
	network := new(networkGate)
	return []rule{
		facto("CRIC-CONN-001", "asks for the runtime's version before it makes a Pod",
			"connecting", "The kubelet validates a runtime by its answer to Version before it works with it.", before("Version")),
		facto("CRIC-CONN-002", "asks for the runtime's status before it makes a Pod",
			"syncLoop", "The kubelet starts no Pod before the runtime has said that it is ready.", before("Status")),
		should("CRIC-CONN-003", "asks for the runtime's configuration before it makes a Pod",
			"RuntimeConfig", "The former is for having runtime tell Kubelet what to do, the latter vice versa.", before("RuntimeConfig")),
		own(relied("CRIC-CONN-004", "works with a runtime that has neither RuntimeConfig nor events",
			"connecting", "A runtime may answer Unimplemented to RuntimeConfig and to GetContainerEvents.", nil), checkBareRuntime, bareRuntime),
		own(facto("CRIC-CONN-005", "asks for no sandbox with a network while the runtime says that there is none",
			"syncPod", "A Pod that is not on the host's network waits until NetworkReady is true.", nil), network.check, network.faults),
		facto("CRIC-CONN-006", "gives each call a deadline, pulls and commands without a limit excepted",
			"cri-client", "Calls of the kubelet end after runtimeRequestTimeout, so that a runtime which hangs holds nothing for ever.", checkDeadlines),
	}
}

// before returns a check that a method is called before the very first RunPodSandbox.
func before(method string) look {
	return func(ctx context.Context, l *lab) error {
		s, err := l.pod()
		if err != nil {
			return err
		}
		if _, err := s.sandbox(ctx); err != nil {
			return err
		}
		all, _ := l.rec.seen(func(*call) bool { return true })
		sandbox := all.of("RunPodSandbox").first()
		asked := all.of(method).first()
		if asked == nil || asked.ended.IsZero() || asked.ended.After(sandbox.begun) {
			return fmt.Errorf("RunPodSandbox was called, and %s had not been answered", method)
		}
		return nil
	}
}

// bareRuntime returns faults for a runtime without the calls that the CRI got late.
func bareRuntime() []*fault {
	no := func(context.Context, *call) error {
		return cri.ErrUnimplemented.Errorf("this runtime is an old one")
	}
	return []*fault{{method: "RuntimeConfig", before: no}, {method: "GetContainerEvents", before: no}}
}

func checkBareRuntime(ctx context.Context, l *lab) error {
	s, err := l.running(ctx)
	if err != nil {
		return err
	}
	s.finish(1) // without an event
	return s.again(ctx, mainName, 2)
}

// networkGate makes NetworkReady false until it is opened.
type networkGate struct{ open atomic.Bool }

func (g *networkGate) faults() []*fault {
	g.open.Store(false)
	return []*fault{{method: "Status", after: func(resp proto.Message, err error) (proto.Message, error) {
		status, ok := resp.(*runtimeapi.StatusResponse)
		if !ok || err != nil || g.open.Load() {
			return resp, err
		}
		for _, c := range status.GetStatus().GetConditions() {
			if c.Type == runtimeapi.NetworkReady {
				c.Status, c.Reason, c.Message = false, "Suite", "the suite keeps the network away"
			}
		}
		return status, nil
	}}}
}

func (g *networkGate) check(ctx context.Context, l *lab) error {
	s, err := l.pod()
	if err != nil {
		return err
	}
	// A Pod that needs no network shows that the kubelet is working.
	if _, err := l.running(ctx, func(p *v1.Pod) { p.Spec.HostNetwork = true }); err != nil {
		return fmt.Errorf("while NetworkReady is false: %w", err)
	}
	l.calm(ctx)
	early := s.calls().of("RunPodSandbox")
	g.open.Store(true)
	if len(early) > 0 {
		return errors.New("RunPodSandbox was called while NetworkReady was false")
	}
	return s.started(ctx)
}

// checkDeadlines checks the life of a Pod, and all calls of its kubelet so far.
func checkDeadlines(ctx context.Context, l *lab) error {
	s, err := l.running(ctx, probed(exitProbe(0)))
	if err != nil {
		return err
	}
	if err := s.await(ctx, func(cs calls) error { return called(cs, "ExecSync") }); err != nil {
		return err
	}
	if err := s.take(); err != nil {
		return err
	}
	if err := s.await(ctx, func(cs calls) error { return called(cs, "StopPodSandbox") }); err != nil {
		return err
	}
	endless, _ := l.rec.seen(func(c *call) bool { return c.deadline.IsZero() && !mayLast(c) })
	if c := endless.first(); c != nil {
		return fmt.Errorf("%s has no deadline (one of %d calls without)", c.method, len(endless))
	}
	return nil
}

// mayLast reports whether a call may lack a deadline.
func mayLast(c *call) bool {
	switch req := c.req.(type) {
	case *runtimeapi.PullImageRequest, *runtimeapi.GetEventsRequest:
		return true
	case *runtimeapi.ExecSyncRequest:
		return req.GetTimeout() == 0
	}
	return false
}

// called returns an error unless a method was called.
func called(cs calls, method string) error {
	if len(cs.of(method)) == 0 {
		return fmt.Errorf("%s was not called", method)
	}
	return nil
}
