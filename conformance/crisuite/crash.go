package crisuite

import (
	"context"
	"fmt"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/conformance"
)

// crashRounds is how often a rule kills the runtime at a moment of its choice.
const crashRounds = 5

func crashRules() []conformance.Rule[Target] {
	return []conformance.Rule[Target]{{
		ID: "CRI-CRASH-001", Level: conformance.Must, Tier: conformance.Crash,
		Title: "knows a sandbox after a SIGKILL as the one that it was",
		Spec: spec("RunPodSandbox, PodSandboxMetadata", "This information will uniquely identify the sandbox, and the runtime should leverage "+
			"this to ensure correct operation."),
		Check: withExec(checkKilledAfterRun),
	}, {
		ID: "CRI-CRASH-002", Level: conformance.Must, Tier: conformance.Crash,
		Title: "comes to one ready sandbox when RunPodSandbox is killed half way and tried again",
		Spec: spec("RunPodSandbox, PodSandboxMetadata", "This information will uniquely identify the sandbox, and the runtime should leverage "+
			"this to ensure correct operation."),
		Check: withExec(checkKilledDuringRun),
	}}
}

// checkKilledAfterRun allows a runtime whose sandboxes end with it to show
// them as not ready, or to have none left; not one that is half known.
func checkKilledAfterRun(ctx context.Context, s *subject) error {
	config := s.sandbox("after")
	id, err := s.run(ctx, config)
	if err != nil {
		return err
	}
	if err := s.crash(ctx); err != nil {
		return err
	}
	items, err := s.list(ctx)
	if err != nil {
		return err
	}
	switch {
	case len(items) == 0:
		return s.gone(ctx, id)
	case len(items) > 1 || items[0].GetId() != id:
		return fmt.Errorf("after the SIGKILL ListPodSandbox shows %v, want sandbox %q", items, id)
	}
	resp, err := s.Runtime.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: id})
	if err != nil {
		return fmt.Errorf("after the SIGKILL sandbox %q is listed, and PodSandboxStatus: %w", id, err)
	}
	st := resp.GetStatus()
	if st.GetState() != items[0].GetState() {
		return fmt.Errorf("after the SIGKILL sandbox %q is %v in the list and %v in its status", id, items[0].GetState(), st.GetState())
	}
	if err := sameSandbox(config, st.GetMetadata(), st.GetLabels(), st.GetAnnotations()); err != nil {
		return fmt.Errorf("after the SIGKILL: %w", err)
	}
	if err := s.remove(ctx, id); err != nil {
		return fmt.Errorf("after the SIGKILL: %w", err)
	}
	return s.absent(ctx, id)
}

// gone checks that a sandbox that is not listed any more is not known either,
// and that removing it succeeds.
func (s *subject) gone(ctx context.Context, id string) error {
	if err := s.absent(ctx, id); err != nil {
		return fmt.Errorf("after the SIGKILL: %w", err)
	}
	if _, err := s.Runtime.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: id}); err != nil {
		return fmt.Errorf("after the SIGKILL sandbox %q is gone, and RemovePodSandbox: %w", id, err)
	}
	return nil
}

func checkKilledDuringRun(ctx context.Context, s *subject) error {
	took, err := s.timeRun(ctx)
	if err != nil {
		return err
	}
	for round := range crashRounds {
		delay := time.Duration(s.in.Rand.Int64N(int64(took) + 1))
		if err := s.killedDuringRun(ctx, fmt.Sprintf("during%d", round), delay); err != nil {
			return fmt.Errorf("killed %v after the call of RunPodSandbox: %w", delay.Round(time.Microsecond), err)
		}
	}
	return nil
}

// timeRun returns how long RunPodSandbox takes, to know when to kill.
func (s *subject) timeRun(ctx context.Context) (time.Duration, error) {
	begin := time.Now()
	id, err := s.run(ctx, s.sandbox("timed"))
	if err != nil {
		return 0, err
	}
	return time.Since(begin), s.remove(ctx, id)
}

func (s *subject) killedDuringRun(ctx context.Context, name string, delay time.Duration) error {
	config := s.sandbox(name)
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		_, _ = s.run(ctx, config) // the kill decides what it answers
	}()
	time.Sleep(delay)
	s.process.Kill()
	<-answered
	if err := s.restart(ctx); err != nil {
		return err
	}
	id, err := s.converge(ctx, config)
	if err != nil {
		return err
	}
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
		return fmt.Errorf("after the second try %d sandboxes are ready, want the one: %v", ready, items)
	}
	for _, item := range items {
		if err := s.remove(ctx, item.GetId()); err != nil {
			return err
		}
	}
	return s.absent(ctx, id)
}

// converge does what the kubelet does after a failed RunPodSandbox: it uses a
// ready sandbox that it finds; it stops one that is not ready and counts the
// attempt up; else it tries again with the same metadata.
func (s *subject) converge(ctx context.Context, config *runtimeapi.PodSandboxConfig) (id string, err error) {
	items, err := s.list(ctx)
	if err != nil {
		return "", err
	}
	for _, item := range items {
		if item.GetState() == runtimeapi.PodSandboxState_SANDBOX_READY {
			return item.GetId(), nil
		}
		if err := s.stop(ctx, item.GetId()); err != nil {
			return "", err
		}
		config.Metadata.Attempt = max(config.Metadata.Attempt, item.GetMetadata().GetAttempt()+1)
	}
	id, err = s.run(ctx, config)
	if err != nil {
		return "", fmt.Errorf("the second try: %w", err)
	}
	return id, nil
}
