package crisuite

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func concurrencyRules() []rule {
	return []rule{
		heavy(facto("CRI-CONC-001", "makes one sandbox of requests for one that come together",
			"SyncPod", "A kubelet that gave up on a request tries it again while the runtime is still at work on the first.", checkRunTogether)),
		heavy(facto("CRI-CONC-002", "makes one container of requests for one that come together",
			"SyncPod", "A kubelet that gave up on a request tries it again while the runtime is still at work on the first.", checkCreateTogether, Containers)),
		heavy(facto("CRI-CONC-003", "comes to one sandbox when RunPodSandbox is cancelled and tried again",
			"SyncPod", "A kubelet whose deadline is over tries again with the same metadata.", checkCancelRun)),
		heavy(facto("CRI-CONC-004", "comes to one container when CreateContainer is cancelled and tried again",
			"SyncPod", "A kubelet whose deadline is over tries again with the same metadata.", checkCancelCreate, Containers)),
		heavy(must("CRI-CONC-005", "takes stops and removals of one sandbox at the same time",
			"StopPodSandbox", stopSentence, checkRemoveTogether, Containers)),
		heavy(facto("CRI-CONC-006", "starts many Pods at once",
			"node start", "After a reboot the kubelet starts all Pods of the node together.", checkManyPods, Containers)),
		heavy(facto("CRI-CONC-007", "answers lists while Pods come and go, each whole",
			"PLEG", "The kubelet lists every second, whatever else goes on.", checkListsMeanwhile, Containers)),
		heavy(facto("CRI-CONC-008", "stops a container whose StopContainer was cancelled and tried again",
			"killPod", "A kubelet that restarts stops its Pods again.", checkCancelStop, Containers)),
		heavy(facto("CRI-CONC-009", "runs a container's program once when StartContainer is cancelled and tried again",
			"SyncPod", "A kubelet whose deadline is over finds the container as it is, and starts another one in its place if it has ended.", checkCancelStart, Containers)),
		heavy(facto("CRI-CONC-010", "removes a container and a sandbox when that is cancelled and tried again",
			"container GC", "The kubelet's garbage collection repeats the calls until they succeed.", checkCancelRemove, Containers)),
		heavy(facto("CRI-CONC-011", "pulls an image when PullImage is cancelled and tried again",
			"EnsureImageExists", "A pull that was cut off is repeated, and the image is whole then.", checkCancelPull, Pull, Isolation)),
		heavy(facto("CRI-CONC-012", "removes an image when RemoveImage is cancelled and tried again",
			"image GC", "The kubelet removes images again and again until there is enough room.", checkCancelRemoveImage, Pull)),
	}
}

// together calls f n times at once.
func together(n int, f func(i int) error) error {
	errs := make([]error, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { errs[i] = f(i) })
	}
	all.Wait()
	return errors.Join(errs...)
}

// oneReady returns nil when exactly one of the rule's sandboxes is ready.
func (s *subject) oneReady(ctx context.Context) error {
	items, err := s.list(ctx)
	if err != nil {
		return err
	}
	ready := 0
	for _, item := range items {
		if item.GetState() == runtimeapi.PodSandboxState_SANDBOX_READY {
			ready++
		}
	}
	if ready != 1 {
		return fmt.Errorf("%d sandboxes are ready, want one: %v", ready, items)
	}
	return nil
}

func checkRunTogether(ctx context.Context, s *subject) error {
	config := s.sandbox("together")
	err := together(5, func(int) error {
		_, err := s.run(ctx, config)
		return err
	})
	s.in.Log.Debug("RunPodSandbox together", "err", err) // some may be refused
	return s.oneReady(ctx)
}

func checkCreateTogether(ctx context.Context, s *subject) error {
	p, err := s.pod(ctx)
	if err != nil {
		return err
	}
	config, err := p.describe(ctx, forever)
	if err != nil {
		return err
	}
	err = together(5, func(int) error {
		_, err := p.createAs(ctx, config)
		return err
	})
	s.in.Log.Debug("CreateContainer together", "err", err)
	all, err := s.containers(ctx, &runtimeapi.ContainerFilter{PodSandboxId: p.id})
	if err == nil && len(all) != 1 {
		return fmt.Errorf("requests for one container that came together made %d", len(all))
	}
	return err
}

// retry calls f until it succeeds, as the kubelet does.
func retry(ctx context.Context, f func() error) error {
	const patience = 5 * time.Second
	return until(ctx, patience, f)
}

// cutShort gives a call a deadline of some milliseconds.
func (s *subject) cutShort(ctx context.Context, call func(context.Context) error) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(s.in.Rand.Int64N(int64(20*time.Millisecond))))
	defer cancel()
	s.in.Log.Debug("cut short", "err", call(ctx)) // the result depends on the deadline
}

func checkCancelRun(ctx context.Context, s *subject) error {
	for round := range 5 {
		config := s.sandbox(fmt.Sprintf("cancelled%d", round))
		s.cutShort(ctx, func(short context.Context) error { _, err := s.run(short, config); return err })
		var id string
		err := retry(ctx, func() (err error) {
			id, err = s.converge(ctx, config)
			return err
		})
		if err == nil {
			err = s.oneReady(ctx)
		}
		if err == nil {
			err = s.remove(ctx, id)
		}
		if err == nil {
			err = s.removeAll(ctx)
		}
		if err != nil {
			return fmt.Errorf("round %d: %w", round+1, err)
		}
	}
	return nil
}

func checkCancelCreate(ctx context.Context, s *subject) error {
	p, err := s.pod(ctx)
	if err != nil {
		return err
	}
	for round := range 5 {
		config, err := p.describe(ctx, forever)
		if err != nil {
			return err
		}
		s.cutShort(ctx, func(short context.Context) error { _, err := p.createAs(short, config); return err })
		if err := p.cameToOne(ctx, config); err != nil {
			return fmt.Errorf("round %d: %w", round+1, err)
		}
	}
	return nil
}

// cameToOne retries a CreateContainer that was cut off, and returns nil when that ends
// in one container that can be started. The only other one allowed is one that was
// created before and is now refused; both are removed.
func (p *pod) cameToOne(ctx context.Context, config *runtimeapi.ContainerConfig) error {
	var b *box
	err := retry(ctx, func() (err error) {
		b, err = p.again(ctx, config)
		return err
	})
	if err != nil {
		return err
	}
	all, err := p.s.containers(ctx, &runtimeapi.ContainerFilter{PodSandboxId: p.id})
	if err != nil {
		return err
	}
	if want := 1 + int(config.GetMetadata().GetAttempt()); len(all) != want {
		return fmt.Errorf("at attempt %d there are %d containers, want %d", config.GetMetadata().GetAttempt(), len(all), want)
	}
	if err := b.start(ctx); err != nil {
		return err
	}
	for _, c := range all {
		if err := (&box{pod: p, id: c.GetId()}).remove(ctx); err != nil {
			return err
		}
	}
	return nil
}

func checkRemoveTogether(ctx context.Context, s *subject) error {
	b, err := s.watched(ctx, "ignore-term")
	if err != nil {
		return err
	}
	err = together(6, func(i int) error {
		if i%2 == 0 {
			return s.stop(ctx, b.pod.id)
		}
		return b.stop(ctx, 0)
	})
	if err != nil {
		return err
	}
	if err := together(4, func(int) error { return s.remove(ctx, b.pod.id) }); err != nil {
		return err
	}
	return errors.Join(s.absent(ctx, b.pod.id), b.ended())
}

func checkManyPods(ctx context.Context, s *subject) error {
	const many = 10
	boxes := make([]*box, many)
	err := together(many, func(i int) (err error) {
		boxes[i], err = s.box(ctx, forever)
		return err
	})
	if err != nil {
		return err
	}
	for _, b := range boxes {
		if err := b.alive(ctx); err != nil {
			return err
		}
	}
	return together(many, func(i int) error { return s.remove(ctx, boxes[i].pod.id) })
}

func checkListsMeanwhile(ctx context.Context, s *subject) error {
	stays, err := s.box(ctx, forever)
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() {
		done <- together(3, func(int) error {
			for range 3 {
				b, err := s.box(ctx, forever)
				if err != nil {
					return err
				}
				if err := s.remove(ctx, b.pod.id); err != nil {
					return err
				}
			}
			return nil
		})
	}()
	for {
		select {
		case err := <-done:
			return err
		case <-time.After(poll):
		}
		all, err := s.containers(ctx, &runtimeapi.ContainerFilter{PodSandboxId: stays.pod.id})
		if err == nil {
			err = exactly(all, stays.id)
		}
		if err != nil {
			return errors.Join(fmt.Errorf("while other Pods come and go: %w", err), <-done)
		}
	}
}

func checkCancelStop(ctx context.Context, s *subject) error {
	b, err := s.trapping(ctx, "ignore-term")
	if err != nil {
		return err
	}
	short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	_ = b.stop(short, 30)
	cancel()
	begin := time.Now()
	if err := b.stop(ctx, 1); err != nil {
		return fmt.Errorf("tried again: %w", err)
	}
	if took := time.Since(begin); took > execPatience {
		return fmt.Errorf("a second StopContainer with 1 s took %v", took.Round(time.Millisecond))
	}
	return b.in(ctx, runtimeapi.ContainerState_CONTAINER_EXITED)
}
