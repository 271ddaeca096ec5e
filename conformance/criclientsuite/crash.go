package criclientsuite

import (
	"context"
	"fmt"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	v1 "k8s.io/api/core/v1"
)

func crashRules() []rule {
	kubeletDies := func(id, title, sentence string, check look) rule {
		return own(relied(id, title, "restart", sentence, nil), func(ctx context.Context, l *lab) error {
			if err := l.killable(); err != nil {
				return err
			}
			return check(ctx, l)
		}, nil)
	}
	return []rule{
		own(relied("CRIC-CRASH-001", "works with a runtime again that restarted, and leaves its containers alone",
			"restart", "Containers outlive a restart of their runtime.", nil), checkRuntimeRestarts, nil),
		own(relied("CRIC-CRASH-002", "makes a Pod anew that a runtime has lost",
			"restart", "A Pod of which the runtime knows nothing is started again.", nil), checkRuntimeForgets, nil),
		own(relied("CRIC-CRASH-003", "notices what ended while the runtime was away",
			"restart", "After a restart of the runtime its containers are listed.", nil), checkEndsMeanwhile, nil),
		kubeletDies("CRIC-CRASH-004", "adopts its containers after its own death",
			"A kubelet that restarts finds its Pods by what the runtime lists, and restarts nothing.", checkAdopts),
		kubeletDies("CRIC-CRASH-005", "makes no second sandbox after its death in RunPodSandbox",
			"A sandbox that a kubelet did not live to see is found by the next.", checkDiesIn("RunPodSandbox")),
		kubeletDies("CRIC-CRASH-006", "runs no second container after its death in CreateContainer",
			"A container that a kubelet did not live to see is found by the next.", checkDiesIn("CreateContainer")),
		kubeletDies("CRIC-CRASH-007", "runs no second container after its death in StartContainer",
			"A container that a kubelet did not live to see started is found by the next.", checkDiesIn("StartContainer")),
		kubeletDies("CRIC-CRASH-008", "ends a Pod that was taken away while it was dead",
			"A Pod that the runtime has and no source names is ended.", checkOrphan),
		kubeletDies("CRIC-CRASH-009", "counts attempts on after its death",
			"The attempt of an instance follows that of the last one on record.", checkCountsOn),
	}
}

// outage ends the runtime, does something and starts it again.
func (l *lab) outage(ctx context.Context, meanwhile func() error) error {
	if err := l.down(); err != nil {
		return err
	}
	l.calm(ctx)
	if err := meanwhile(); err != nil {
		return err
	}
	return l.up(ctx)
}

func nothing() error { return nil }

func checkRuntimeRestarts(ctx context.Context, l *lab) error {
	s, err := l.running(ctx, twoContainers)
	if err != nil {
		return err
	}
	if err := l.outage(ctx, nothing); err != nil {
		return err
	}
	// A new Pod shows that the kubelet has found the runtime again.
	if _, err := l.running(ctx); err != nil {
		return fmt.Errorf("after the runtime restarted: %w", err)
	}
	l.calm(ctx)
	return s.untouched(ctx)
}

// untouched returns an error if any part of a running Pod was recreated or ended.
func (s *subject) untouched(ctx context.Context) error {
	cs := s.calls()
	if n, wanted := len(cs.of("CreateContainer").good()), len(s.spec.Spec.Containers); n != wanted || len(cs.of("RunPodSandbox").good()) != 1 {
		return fmt.Errorf("the Pod was made again: %s", cs)
	}
	if ended := cs.of("StopContainer", "RemoveContainer", "StopPodSandbox", "RemovePodSandbox"); len(ended) > 0 {
		return fmt.Errorf("%s was called for a Pod that runs", ended[0].method)
	}
	return s.single(ctx)
}

func checkRuntimeForgets(ctx context.Context, l *lab) error {
	s, err := l.running(ctx)
	if err != nil {
		return err
	}
	if err := l.outage(ctx, l.forget); err != nil {
		return err
	}
	// A kubelet that had not listed the runtime since notices when it looks at the Pod
	// again.
	err = s.awaitSuch(ctx, seldom*l.target.patience(), s.mine, func(cs calls) error {
		if n := len(cs.of("StartContainer").named(mainName).good()); n < 2 {
			return fmt.Errorf("the container was started %d times, want 2", n)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return s.awaitSingle(ctx)
}

// checkEndsMeanwhile lets a container end at the same moment as its runtime, so that
// no event reports it.
func checkEndsMeanwhile(ctx context.Context, l *lab) error {
	s, err := l.running(ctx)
	if err != nil {
		return err
	}
	l.calm(ctx)
	l.inject(&fault{pod: s.name, silent: true})
	id := s.id()
	s.finish(1)
	if err := s.hasEnded(ctx, id); err != nil {
		return err
	}
	if err := l.outage(ctx, nothing); err != nil {
		return err
	}
	return s.again(ctx, mainName, 2)
}

// reborn kills the kubelet, does something and starts it again.
func (l *lab) reborn(ctx context.Context, meanwhile func() error) error {
	if err := l.kubelet.Kill(); err != nil {
		return err
	}
	if err := meanwhile(); err != nil {
		return err
	}
	return l.kubelet.Revive(ctx)
}

func checkAdopts(ctx context.Context, l *lab) error {
	s, err := l.running(ctx, twoContainers, func(p *v1.Pod) {
		p.Spec.InitContainers = []v1.Container{ending(v1.Container{Name: "init"}, 0)}
	})
	if err != nil {
		return err
	}
	if err := l.reborn(ctx, nothing); err != nil {
		return err
	}
	if _, err := l.running(ctx); err != nil {
		return fmt.Errorf("after the kubelet was killed and started again: %w", err)
	}
	l.calm(ctx)
	cs := s.calls()
	if n := len(cs.of("CreateContainer").good()); n != len(s.spec.Spec.Containers)+1 || len(cs.of("RunPodSandbox").good()) != 1 {
		return fmt.Errorf("the Pod was made again: %s", cs)
	}
	if ended := cs.of("StopContainer", "StopPodSandbox", "RemovePodSandbox"); len(ended) > 0 {
		return fmt.Errorf("%s was called for a Pod that runs", ended[0].method)
	}
	return s.single(ctx)
}

// checkDiesIn returns a check of a kubelet's death between a call and its answer.
func checkDiesIn(method string) look {
	return func(ctx context.Context, l *lab) error {
		s := l.draft()
		carriedOut, dead := make(chan struct{}), make(chan struct{})
		l.inject(&fault{method: method, pod: s.name, times: 1, after: func(resp proto.Message, err error) (proto.Message, error) {
			close(carriedOut)
			<-dead
			return resp, err
		}})
		bury := sync.OnceFunc(func() { close(dead) })
		defer bury()
		if err := s.give(); err != nil {
			return err
		}
		select {
		case <-carriedOut:
		case <-time.After(l.target.patience()):
			return fmt.Errorf("%s was not called; seen: %s%s", method, s.calls(), l.printed())
		}
		if err := l.reborn(ctx, func() error { bury(); return nil }); err != nil {
			return err
		}
		// A new Pod shows that the kubelet is working again.
		if _, err := l.running(ctx); err != nil {
			return fmt.Errorf("after the kubelet was killed and started again: %w", err)
		}
		return s.awaitSingle(ctx)
	}
}

func checkOrphan(ctx context.Context, l *lab) error {
	s, err := l.running(ctx)
	if err != nil {
		return err
	}
	other, err := l.running(ctx)
	if err != nil {
		return err
	}
	if err := l.reborn(ctx, s.take); err != nil {
		return err
	}
	if err := s.await(ctx, func(cs calls) error { return called(cs.good(), "StopPodSandbox") }); err != nil {
		return err
	}
	if left, err := s.runningNow(ctx); err != nil {
		return err
	} else if len(left) > 0 {
		return fmt.Errorf("containers of the Pod run on: %v", left)
	}
	return other.untouched(ctx)
}

func checkCountsOn(ctx context.Context, l *lab) error {
	s, err := l.running(ctx)
	if err != nil {
		return err
	}
	if err := l.reborn(ctx, nothing); err != nil {
		return err
	}
	if _, err := l.running(ctx); err != nil { // the kubelet works again
		return err
	}
	s.finish(1)
	if err := s.again(ctx, mainName, 2); err != nil {
		return err
	}
	list := s.calls().of("CreateContainer").good().creates()
	return want("the attempt of the second instance", list[len(list)-1].GetConfig().GetMetadata().GetAttempt(), uint32(1))
}
