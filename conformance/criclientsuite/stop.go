package criclientsuite

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri"
)

// leastGrace is the shortest grace period that a kubelet gives a container, in seconds.
const leastGrace = 2

// longGrace is so long that a busy kubelet, which subtracts the time already passed,
// still differs from one that ignores the grace period.
const longGrace = 80

func stopRules() []rule {
	return []rule{
		must("CRIC-STP-001", "stops a container with the Pod's grace period",
			"StopContainerRequest.timeout", "Timeout in seconds to wait for the container to stop before forcibly terminating it.", checkGrace(func(p *v1.Pod) {
				long := int64(longGrace)
				p.Spec.TerminationGracePeriodSeconds = &long
			}, longGrace-longGrace/4, longGrace)),
		relied("CRIC-STP-002", "gives a container two seconds for its stop signal, also where the Pod asks for less",
			"minimumGracePeriodInSeconds", "A container has at least two seconds, unless it is to be killed at once.", checkGrace(func(p *v1.Pod) {
				one := int64(1)
				p.Spec.TerminationGracePeriodSeconds = &one
			}, leastGrace, leastGrace)),
		relied("CRIC-STP-003", "stops the containers of a Pod, side by side, and then its sandbox",
			"killPod", "All containers of a Pod are asked to end at the same time; the network is theirs until then.", checkStopsBeside),
		slow(must("CRIC-STP-004", "stops a sandbox before it removes it",
			"StopPodSandbox", "kubelet will call StopPodSandbox at least once before calling RemovePodSandbox.", checkStopsFirst)),
		slow(relied("CRIC-STP-005", "leaves nothing of a Pod that was taken away",
			"garbage collection", "Containers and sandboxes of a deleted Pod are removed, the containers before the sandbox or with it.", checkLeavesNothing)),
		must("CRIC-STP-006", "stops a sandbox again when that failed",
			"StopPodSandbox", "Hence, multiple StopPodSandbox calls are expected.", checkStopsAgain("StopPodSandbox", func(cs calls) error {
				return called(cs.good(), "StopPodSandbox")
			})),
		relied("CRIC-STP-007", "ends a container, or its sandbox with it, when the container could not be stopped",
			"killPod", "A Pod is taken away when all of its containers have ended.", checkStopsAgain("StopContainer", func(cs calls) error {
				if len(cs.of("StopContainer", "StopPodSandbox").good()) == 0 {
					return errors.New("neither the container nor its sandbox was stopped")
				}
				return nil
			})),
		relied("CRIC-STP-008", "waits longer for the end of a container than the container may take",
			"cri-client", "The runtime waits for the grace period; a call that ends at the same time or before loses the answer.", checkStopDeadline),
		relied("CRIC-STP-009", "takes NotFound for the end of a container that is to be stopped",
			"killPod", "What the runtime does not know any more has ended.", checkStopsGone),
	}
}

// comesAndGoes gives the kubelet the Pod, removes it once its containers were started,
// and waits until missing returns nil.
func (s *subject) comesAndGoes(ctx context.Context, missing func(calls) error) error {
	if err := s.give(); err != nil {
		return err
	}
	if err := s.started(ctx); err != nil {
		return err
	}
	if err := s.take(); err != nil {
		return err
	}
	return s.await(ctx, missing)
}

// takenAway is comesAndGoes for a Pod with the changes, until method was called.
func (l *lab) takenAway(ctx context.Context, method string, changes ...change) (*subject, error) {
	s := l.draft(changes...)
	return s, s.comesAndGoes(ctx, func(cs calls) error { return called(cs, method) })
}

// checkGrace returns a check of the timeout of a container's first StopContainer.
func checkGrace(change change, least, most int64) look {
	return func(ctx context.Context, l *lab) error {
		s, err := l.takenAway(ctx, "StopContainer", some(change)...)
		if err != nil {
			return err
		}
		req, _ := s.calls().of("StopContainer").first().req.(*runtimeapi.StopContainerRequest)
		if got := req.GetTimeout(); got < least || got > most {
			return fmt.Errorf("timeout of StopContainer is %d, want %d to %d", got, least, most)
		}
		return nil
	}
}

// checkStopsBeside holds each StopContainer until the other one has come.
func checkStopsBeside(ctx context.Context, l *lab) error {
	s := l.draft(twoContainers)
	both := make(chan struct{})
	var mu sync.Mutex
	stopped := map[string]bool{}
	for _, name := range []string{mainName, "second"} {
		l.inject(&fault{method: "StopContainer", pod: s.name, container: name, before: func(ctx context.Context, _ *call) error {
			mu.Lock()
			stopped[name] = true
			if len(stopped) == len(s.spec.Spec.Containers) {
				select {
				case <-both:
				default:
					close(both)
				}
			}
			mu.Unlock()
			select {
			case <-both:
			case <-ctx.Done():
			case <-time.After(l.target.calm()):
			}
			return nil
		}})
	}
	if err := s.comesAndGoes(ctx, func(cs calls) error { return called(cs, "StopPodSandbox") }); err != nil {
		return err
	}
	stops, sandbox := s.calls().of("StopContainer"), s.calls().of("StopPodSandbox").first()
	for _, name := range []string{mainName, "second"} {
		c := stops.named(name).first()
		if c == nil || c.ended.IsZero() || sandbox.begun.Before(c.ended) {
			return fmt.Errorf("StopPodSandbox was called before StopContainer of %q had answered", name)
		}
	}
	if a, b := stops.named(mainName).first(), stops.named("second").first(); a.ended.Before(b.begun) || b.ended.Before(a.begun) {
		return errors.New("one container was stopped after the other had ended")
	}
	return nil
}

// seldom is how many times its patience a kubelet may take for what it does once a
// minute: remove what it has stopped, and look at a Pod that nothing reports on.
const seldom = 5

func (s *subject) removed(ctx context.Context) error {
	return s.awaitSuch(ctx, seldom*s.target.patience(), s.mine, func(cs calls) error { return called(cs.good(), "RemovePodSandbox") })
}

func checkStopsFirst(ctx context.Context, l *lab) error {
	s, err := l.running(ctx)
	if err != nil {
		return err
	}
	if err := s.take(); err != nil {
		return err
	}
	if err := s.removed(ctx); err != nil {
		return err
	}
	remove := s.calls().of("RemovePodSandbox").first()
	if stop := s.calls().of("StopPodSandbox").good().first(); stop == nil || remove.begun.Before(stop.ended) {
		return errors.New("RemovePodSandbox was called, and StopPodSandbox had not succeeded")
	}
	return nil
}

func checkLeavesNothing(ctx context.Context, l *lab) error {
	s, err := l.running(ctx, twoContainers)
	if err != nil {
		return err
	}
	s.finish(1)
	if err := s.again(ctx, mainName, 2); err != nil {
		return err
	}
	if err := s.take(); err != nil {
		return err
	}
	if err := s.removed(ctx); err != nil {
		return err
	}
	resp, err := l.runtime().Runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return err
	}
	pods := l.rec.podOfSandbox()
	for _, item := range resp.Items {
		if pods[item.Id] == s.name {
			return fmt.Errorf("sandbox %q of the Pod is left, in the state %v", item.Id, item.State)
		}
	}
	return nil
}

// checkStopsAgain returns a check of what follows a failed call.
func checkStopsAgain(method string, missing func(calls) error) look {
	return func(ctx context.Context, l *lab) error {
		s := l.draft()
		l.inject(&fault{method: method, pod: s.name, times: 1, before: func(context.Context, *call) error {
			return errors.New("the suite does not want it yet")
		}})
		return s.comesAndGoes(ctx, missing)
	}
}

func checkStopDeadline(ctx context.Context, l *lab) error {
	s, err := l.takenAway(ctx, "StopContainer")
	if err != nil {
		return err
	}
	c := s.calls().of("StopContainer").first()
	req, _ := c.req.(*runtimeapi.StopContainerRequest)
	const slack = 500 * time.Millisecond
	limit := time.Duration(req.GetTimeout()) * time.Second
	if left := c.deadline.Sub(c.begun); !c.deadline.IsZero() && left < limit+slack {
		return fmt.Errorf("the container has %v, and the call ends after %v", limit, left.Round(time.Millisecond))
	}
	return nil
}

// checkStopsGone has the runtime stop the container, but answer that it does not exist.
func checkStopsGone(ctx context.Context, l *lab) error {
	s := l.draft()
	l.inject(&fault{method: "StopContainer", pod: s.name, after: func(proto.Message, error) (proto.Message, error) {
		return nil, cri.ErrNotFound.Errorf("there is no such container")
	}})
	return s.comesAndGoes(ctx, func(cs calls) error { return called(cs.good(), "StopPodSandbox") })
}
