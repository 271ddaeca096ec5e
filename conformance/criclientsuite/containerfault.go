package criclientsuite

import (
	"context"
	"errors"
	"fmt"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri"
)

func containerFaultRules() []rule {
	return []rule{
		slow(relied("CRIC-FLT-001", "creates a container again when that failed",
			"SyncPod", "A container that could not be created is tried again.", checkCreateAgain("CreateContainer"))),
		slow(relied("CRIC-FLT-002", "runs one instance of a container also when the answer to the first got lost",
			"SyncPod", "A container that was created although CreateContainer failed does not run beside another.", checkCreateLost)),
		slow(relied("CRIC-FLT-003", "starts a container, or its successor, when StartContainer failed",
			"SyncPod", "A container that could not be started is tried again, as its restart policy says.", checkCreateAgain("StartContainer"))),
		relied("CRIC-FLT-004", "backs off from a container that cannot be created",
			"CrashLoopBackOff", "A container whose start fails waits before the next try.", checkCreateHurry),
		relied("CRIC-FLT-005", "takes NotFound for the end of a container",
			"PLEG", "What the runtime has listed may be gone when it is asked for.", checkContainerGone),
		relied("CRIC-FLT-006", "works on other Pods while the runtime keeps one waiting",
			"podWorkers", "Each Pod has a worker of its own.", checkHangs),
		slow(relied("CRIC-FLT-007", "notices the end of a container of which no event tells",
			"PLEG", "Events may get lost: the kubelet lists what the runtime has from time to time.", checkSilentEnd)),
	}
}

func checkCreateAgain(method string) look {
	return func(ctx context.Context, l *lab) error {
		s := l.draft()
		l.inject(&fault{method: method, pod: s.name, times: 1, before: internal})
		if err := s.give(); err != nil {
			return err
		}
		if err := s.awaitSuch(ctx, backOffTime, s.mine, func(cs calls) error { return called(cs.good(), "StartContainer") }); err != nil {
			return err
		}
		return s.single(ctx)
	}
}

func checkCreateLost(ctx context.Context, l *lab) error {
	s := l.draft()
	l.inject(&fault{method: "CreateContainer", pod: s.name, times: 1, after: lost})
	if err := s.give(); err != nil {
		return err
	}
	if err := s.awaitSuch(ctx, backOffTime, s.mine, func(cs calls) error { return called(cs.good(), "StartContainer") }); err != nil {
		return err
	}
	return s.awaitSingle(ctx)
}

func checkCreateHurry(ctx context.Context, l *lab) error {
	s := l.draft()
	remove := l.inject(&fault{method: "CreateContainer", pod: s.name, before: internal})
	if err := s.give(); err != nil {
		return err
	}
	if err := s.await(ctx, func(cs calls) error { return called(cs.over(), "CreateContainer") }); err != nil {
		return err
	}
	l.calm(ctx)
	n := len(s.calls().of("CreateContainer"))
	remove()
	if n > hurry(l.target.calm()) {
		return fmt.Errorf("CreateContainer was called %d times within %v, each time in vain", n, l.target.calm())
	}
	return nil
}

// checkContainerGone has a third party remove an ended container after it was listed.
func checkContainerGone(ctx context.Context, l *lab) error {
	s, err := l.running(ctx, twoContainers)
	if err != nil {
		return err
	}
	l.inject(&fault{method: "ContainerStatus", pod: s.name, container: mainName, times: 1, before: func(ctx context.Context, c *call) error {
		_, err := l.runtime().Runtime.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: c.containerID})
		return errors.Join(err, cri.ErrNotFound.Errorf("it is gone"))
	}})
	s.finish(1)
	if err := s.again(ctx, mainName, 2); err != nil {
		return err
	}
	return s.awaitSingle(ctx)
}

// checkHangs holds RunPodSandbox of one Pod until another runs.
func checkHangs(ctx context.Context, l *lab) error {
	held := l.draft()
	release := make(chan struct{})
	defer close(release)
	l.inject(&fault{method: "RunPodSandbox", pod: held.name, before: func(ctx context.Context, _ *call) error {
		select {
		case <-release:
		case <-ctx.Done():
		}
		return ctx.Err()
	}})
	if err := held.give(); err != nil {
		return err
	}
	if err := held.await(ctx, func(cs calls) error { return called(cs, "RunPodSandbox") }); err != nil {
		return err
	}
	s, err := l.running(ctx)
	if err != nil {
		return fmt.Errorf("while RunPodSandbox of another Pod is not answered: %w", err)
	}
	return s.single(ctx)
}

// noticeTime is how long the end of a container may go unnoticed without an event.
const noticeTime = 25 * time.Second

func checkSilentEnd(ctx context.Context, l *lab) error {
	s, err := l.running(ctx)
	if err != nil {
		return err
	}
	l.calm(ctx) // so that the kubelet no longer works on the Pod
	l.inject(&fault{pod: s.name, silent: true})
	id := s.id()
	s.finish(1)
	if err := s.hasEnded(ctx, id); err != nil {
		return err
	}
	return s.awaitSuch(ctx, noticeTime, s.mine, func(cs calls) error {
		if n := len(cs.of("StartContainer").named(mainName).good()); n < 2 {
			return fmt.Errorf("the container ended and was not started again")
		}
		return nil
	})
}

// hasEnded waits until the runtime has noticed the end of a container.
func (s *subject) hasEnded(ctx context.Context, id string) error {
	for ctx.Err() == nil {
		if state, err := s.stateOf(ctx, id); err != nil || state == runtimeapi.ContainerState_CONTAINER_EXITED {
			return err
		}
		time.Sleep(pause)
	}
	return ctx.Err()
}
