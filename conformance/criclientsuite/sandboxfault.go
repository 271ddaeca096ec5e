package criclientsuite

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri"
)

func sandboxFaultRules() []rule {
	return []rule{
		relied("CRIC-SBX-020", "asks for a sandbox again when that failed",
			"SyncPod", "A Pod whose sandbox could not be made is tried again until it is.", checkSandboxAgain),
		relied("CRIC-SBX-021", "backs off from a runtime that goes on failing",
			"podWorkers", "A Pod whose sync fails waits before the next.", checkSandboxHurry),
		relied("CRIC-SBX-022", "has one sandbox for a Pod also when the answer to the first got lost",
			"SyncPod", "A sandbox that was made although RunPodSandbox failed is used or taken away.", checkSandboxLost),
		relied("CRIC-SBX-023", "replaces a sandbox that ended, with its containers, and stops what is left of it",
			"podSandboxChanged", "A Pod whose sandbox is not ready gets another, after the first was stopped.", checkSandboxReplaced),
		relied("CRIC-SBX-024", "takes NotFound for the end of a sandbox",
			"PLEG", "What the runtime has listed may be gone when it is asked for.", checkSandboxGone),
	}
}

func internal(context.Context, *call) error { return errors.New("the suite does not want it yet") }

func checkSandboxAgain(ctx context.Context, l *lab) error {
	s := l.draft()
	l.inject(&fault{method: "RunPodSandbox", pod: s.name, times: 1, before: internal})
	if err := s.give(); err != nil {
		return err
	}
	if err := s.started(ctx); err != nil {
		return err
	}
	return s.single(ctx)
}

func checkSandboxHurry(ctx context.Context, l *lab) error {
	s := l.draft()
	remove := l.inject(&fault{method: "RunPodSandbox", pod: s.name, before: internal})
	if err := s.give(); err != nil {
		return err
	}
	if err := s.await(ctx, func(cs calls) error { return called(cs.over(), "RunPodSandbox") }); err != nil {
		return err
	}
	l.calm(ctx)
	n := len(s.calls().of("RunPodSandbox"))
	remove()
	if n > hurry(l.target.calm()) {
		return fmt.Errorf("RunPodSandbox was called %d times within %v, each time in vain", n, l.target.calm())
	}
	return nil
}

// lost replaces the answer to a call that the runtime has carried out.
func lost(proto.Message, error) (proto.Message, error) { return nil, context.DeadlineExceeded }

func checkSandboxLost(ctx context.Context, l *lab) error {
	s := l.draft()
	l.inject(&fault{method: "RunPodSandbox", pod: s.name, times: 1, after: lost})
	if err := s.give(); err != nil {
		return err
	}
	return s.awaitSingle(ctx)
}

func checkSandboxReplaced(ctx context.Context, l *lab) error {
	s, err := l.running(ctx, twoContainers)
	if err != nil {
		return err
	}
	old := s.calls().of("RunPodSandbox").good().first().sandboxID
	if err := s.breakSandbox(ctx); err != nil {
		return err
	}
	if err := s.awaitSingle(ctx); err != nil {
		return err
	}
	if len(s.calls().of("StopPodSandbox", "RemovePodSandbox").about(old)) == 0 {
		return errors.New("the sandbox that ended was neither stopped nor removed")
	}
	return nil
}

// checkSandboxGone has a third party remove the sandbox after it was listed.
func checkSandboxGone(ctx context.Context, l *lab) error {
	s, err := l.running(ctx)
	if err != nil {
		return err
	}
	l.inject(&fault{method: "PodSandboxStatus", pod: s.name, times: 1, before: func(ctx context.Context, c *call) error {
		_, err := l.runtime().Runtime.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: c.sandboxID})
		return errors.Join(err, cri.ErrNotFound.Errorf("it is gone"))
	}})
	s.finish(1)
	// The container may have been restarted while the sandbox still existed.
	err = s.again(ctx, mainName, 2)
	if err == nil {
		err = s.awaitSingle(ctx)
	}
	if err != nil {
		return fmt.Errorf("of a sandbox that went when it was asked for: %w", err)
	}
	return nil
}

// stateOf returns the state of a container as the runtime knows it.
func (s *subject) stateOf(ctx context.Context, id string) (runtimeapi.ContainerState, error) {
	resp, err := s.runtime().Runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id})
	return resp.GetStatus().GetState(), err
}
