package criclientsuite

import (
	"context"
	"fmt"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func restartRules() []rule {
	onFailure := func(p *v1.Pod) { p.Spec.RestartPolicy = v1.RestartPolicyOnFailure }
	return []rule{
		relied("CRIC-RST-001", "starts a container again that ended, whatever its code, where the Pod says Always",
			"Pod", "With restartPolicy Always a container that ends is started again.", checkRestarts(nil, 0, true)),
		relied("CRIC-RST-002", "starts a container again that failed, where the Pod says OnFailure",
			"Pod", "With restartPolicy OnFailure a container that fails is started again.", checkRestarts(onFailure, 3, true)),
		relied("CRIC-RST-003", "leaves a container alone that succeeded, where the Pod says OnFailure",
			"Pod", "With restartPolicy OnFailure a container that succeeds is not started again.", checkRestarts(onFailure, 0, false)),
		relied("CRIC-RST-004", "leaves a container alone that ended, where the Pod says Never",
			"Pod", "With restartPolicy Never no container is started again.", checkRestarts(never, 3, false)),
		relied("CRIC-RST-005", "backs off from a container that goes on failing",
			"Pod", "The kubelet starts a container again after delays that grow, from 10 s to 5 minutes.", checkCrashLoop),
		facto("CRIC-RST-006", "keeps the sandbox, and the ended instance before the last, when a container starts again",
			"MaxPerPodContainerCount", "The log and the state of the last dead instance can be asked for.", checkKeepsLast),
	}
}

// checkRestarts returns a check of what follows the end of a container. A second
// container keeps running, so that the Pod has not finished.
func checkRestarts(policy change, code int32, wanted bool) look {
	return func(ctx context.Context, l *lab) error {
		s, err := l.running(ctx, append(some(policy), twoContainers)...)
		if err != nil {
			return err
		}
		id := s.id()
		s.finish(code)
		if wanted {
			if err := s.again(ctx, mainName, 2); err != nil {
				return err
			}
			return want("how often the container beside it was created", len(s.calls().of("CreateContainer").named("second")), 1)
		}
		if err := s.noticed(ctx, id); err != nil {
			return err
		}
		l.calm(ctx)
		return want("how often the container was created", len(s.calls().of("CreateContainer").named(mainName)), 1)
	}
}

// noticed waits until a ContainerStatus has told the kubelet that a container ended.
func (s *subject) noticed(ctx context.Context, id string) error {
	return s.await(ctx, func(cs calls) error {
		seen := cs.of("ContainerStatus").good().such(func(c *call) bool {
			resp, ok := c.resp.(*runtimeapi.ContainerStatusResponse)
			return ok && c.containerID == id && resp.GetStatus().GetState() == runtimeapi.ContainerState_CONTAINER_EXITED
		})
		if len(seen) == 0 {
			return fmt.Errorf("the kubelet has not asked for the container that ended")
		}
		return nil
	})
}

func checkCrashLoop(ctx context.Context, l *lab) error {
	s, err := l.running(ctx, func(p *v1.Pod) { p.Spec.Containers[0] = ending(p.Spec.Containers[0], 1) })
	if err != nil {
		return err
	}
	if err := s.again(ctx, mainName, 2); err != nil {
		return err
	}
	l.calm(ctx)
	// Two restarts may follow without a pause.
	if n := len(s.calls().of("StartContainer").named(mainName)); n > 3 {
		return fmt.Errorf("a container that fails at once was started %d times within %v", n, l.target.calm())
	}
	return nil
}

func checkKeepsLast(ctx context.Context, l *lab) error {
	s, err := l.running(ctx)
	if err != nil {
		return err
	}
	first := s.id()
	s.finish(1)
	if err := s.again(ctx, mainName, 2); err != nil {
		return err
	}
	l.calm(ctx)
	if len(s.calls().of("RemoveContainer").about(first)) > 0 {
		return fmt.Errorf("RemoveContainer was called for the instance before the one that runs")
	}
	return want("how often RunPodSandbox was called", len(s.calls().of("RunPodSandbox")), 1)
}
