package criclientsuite

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"
	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// probeTimeout is the timeout of probes in seconds.
const probeTimeout = 3

func execRules() []rule {
	return []rule{
		must("CRIC-EXE-001", "runs the command of a probe with the probe's timeout",
			"ExecSyncRequest.timeout", "Timeout in seconds to stop the command.", checkProbeTimeout),
		relied("CRIC-EXE-002", "waits longer for the answer to a command than the command may take",
			"cri-client", "The runtime ends a command at its timeout; a call that ends at the same time or before loses the answer.", checkProbeDeadline),
		relied("CRIC-EXE-003", "stops a container whose liveness probe fails, and starts another",
			"probes", "A container whose liveness probe fails failureThreshold times is ended, and follows its restart policy.", checkLiveness(nil)),
		relied("CRIC-EXE-004", "takes DeadlineExceeded for a probe that has failed",
			"ExecSync", "A command that does not end in time is answered with DeadlineExceeded, and has failed.", checkLiveness(tooLate)),
		relied("CRIC-EXE-005", "runs no probe before the container was started",
			"probes", "A probe looks at a container that runs.", checkProbeAfterStart),
		relied("CRIC-EXE-006", "runs the postStart hook when the container was started, once",
			"lifecycle", "postStart runs immediately after a container is created.", checkPostStart),
		relied("CRIC-EXE-007", "stops a container whose postStart hook fails",
			"lifecycle", "If postStart fails, the container is terminated and restarted according to its restart policy.", checkPostStartFails),
		relied("CRIC-EXE-008", "runs the preStop hook before it stops the container, and waits for it",
			"lifecycle", "preStop is called before the container is sent the stop signal, and must complete before that.", checkPreStop),
	}
}

// exitProbe returns a probe whose command exits with the code.
func exitProbe(code int) *v1.Probe {
	return &v1.Probe{
		ProbeHandler: v1.ProbeHandler{Exec: command(code)}, TimeoutSeconds: probeTimeout, PeriodSeconds: 1, FailureThreshold: 1, SuccessThreshold: 1,
	}
}

func command(code int, more ...string) *v1.ExecAction {
	return &v1.ExecAction{Command: append([]string{exitWord, strconv.Itoa(code)}, more...)}
}

// probed gives the container a liveness probe.
func probed(probe *v1.Probe) change {
	return func(p *v1.Pod) { p.Spec.Containers[0].LivenessProbe = probe }
}

func (s *subject) firstExec(ctx context.Context) (c *call, req *runtimeapi.ExecSyncRequest, err error) {
	err = s.await(ctx, func(cs calls) error {
		if c = cs.of("ExecSync").first(); c == nil {
			return errors.New("ExecSync was not called")
		}
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	req, _ = c.req.(*runtimeapi.ExecSyncRequest)
	return c, req, nil
}

func checkProbeTimeout(ctx context.Context, l *lab) error {
	s, err := l.running(ctx, probed(exitProbe(0)))
	if err != nil {
		return err
	}
	_, req, err := s.firstExec(ctx)
	if err != nil {
		return err
	}
	return errors.Join(words("cmd", req.GetCmd(), []string{exitWord, "0"}), want("timeout", req.GetTimeout(), probeTimeout))
}

func checkProbeDeadline(ctx context.Context, l *lab) error {
	s, err := l.running(ctx, probed(exitProbe(0)))
	if err != nil {
		return err
	}
	c, req, err := s.firstExec(ctx)
	if err != nil {
		return err
	}
	const slack = 500 * time.Millisecond
	limit := time.Duration(req.GetTimeout()) * time.Second
	if left := c.deadline.Sub(c.begun); !c.deadline.IsZero() && left < limit+slack {
		return fmt.Errorf("the command has %v, and the call ends after %v", limit, left.Round(time.Millisecond))
	}
	return nil
}

// tooLate answers as a runtime does when the command did not end in time.
func tooLate(s *subject) *fault {
	return &fault{method: "ExecSync", pod: s.name, times: 1, after: func(proto.Message, error) (proto.Message, error) {
		return nil, context.DeadlineExceeded
	}}
}

// checkLiveness returns a check of a probe that fails: by its exit code, or by a fault.
func checkLiveness(how func(*subject) *fault) look {
	return func(ctx context.Context, l *lab) error {
		code := 1
		if how != nil {
			code = 0
		}
		s := l.draft(probed(exitProbe(code)))
		if how != nil {
			l.inject(how(s))
		}
		if err := s.give(); err != nil {
			return err
		}
		if err := s.again(ctx, mainName, 2); err != nil {
			return err
		}
		first := s.calls().of("StartContainer").named(mainName).good().first().containerID
		if len(s.calls().of("StopContainer").about(first)) == 0 {
			return errors.New("the container whose probe failed was not stopped")
		}
		return nil
	}
}

func checkProbeAfterStart(ctx context.Context, l *lab) error {
	s, err := l.running(ctx, probed(exitProbe(0)))
	if err != nil {
		return err
	}
	c, _, err := s.firstExec(ctx)
	if err != nil {
		return err
	}
	if started := s.calls().of("StartContainer").good().first(); c.begun.Before(started.ended) || c.containerID != started.containerID {
		return errors.New("ExecSync was called before StartContainer had answered, or for another container")
	}
	return nil
}

func checkPostStart(ctx context.Context, l *lab) error {
	s, err := l.running(ctx, func(p *v1.Pod) {
		p.Spec.Containers[0].Lifecycle = &v1.Lifecycle{PostStart: &v1.LifecycleHandler{Exec: command(0, "hook")}}
	})
	if err != nil {
		return err
	}
	c, req, err := s.firstExec(ctx)
	if err != nil {
		return err
	}
	l.calm(ctx)
	if started := s.calls().of("StartContainer").good().first(); c.begun.Before(started.ended) {
		return errors.New("the hook was run before StartContainer had answered")
	}
	return errors.Join(words("the hook", req.GetCmd(), []string{exitWord, "0", "hook"}), want("how often it was run", len(s.calls().of("ExecSync")), 1))
}

func checkPostStartFails(ctx context.Context, l *lab) error {
	s, err := l.running(ctx, func(p *v1.Pod) {
		p.Spec.Containers[0].Lifecycle = &v1.Lifecycle{PostStart: &v1.LifecycleHandler{Exec: command(1, "hook")}}
	})
	if err != nil {
		return err
	}
	first := s.calls().of("StartContainer").good().first().containerID
	return s.await(ctx, func(cs calls) error {
		if len(cs.of("StopContainer", "RemoveContainer").about(first)) == 0 {
			return errors.New("the container whose postStart hook failed was not stopped")
		}
		return nil
	})
}

func checkPreStop(ctx context.Context, l *lab) error {
	s := l.draft(func(p *v1.Pod) {
		p.Spec.Containers[0].Lifecycle = &v1.Lifecycle{PreStop: &v1.LifecycleHandler{Exec: command(0, "hook")}}
	})
	const takes = 200 * time.Millisecond
	l.inject(&fault{method: "ExecSync", pod: s.name, before: func(ctx context.Context, _ *call) error {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(takes):
			return nil
		}
	}})
	if err := s.comesAndGoes(ctx, func(cs calls) error { return called(cs, "StopContainer") }); err != nil {
		return err
	}
	hook, stop := s.calls().of("ExecSync").first(), s.calls().of("StopContainer").first()
	if hook == nil { // it may still come, too late
		l.calm(ctx)
		hook = s.calls().of("ExecSync").first()
	}
	switch {
	case hook == nil:
		return errors.New("the preStop hook was not run")
	case hook.ended.IsZero() || stop.begun.Before(hook.ended):
		return errors.New("StopContainer was called before the preStop hook had ended")
	}
	req, ok := hook.req.(*runtimeapi.ExecSyncRequest)
	if !ok || !slices.Contains(req.GetCmd(), "hook") {
		return fmt.Errorf("the hook that was run is %q", req.GetCmd())
	}
	return nil
}
