package probe

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// firstRetry is the first of the short intervals, which double.
const firstRetry = 5 * time.Millisecond

// instance probes one container instance.
type instance struct {
	ctx      context.Context // of all probes
	cancel   context.CancelFunc
	early    context.Context // of startup and liveness: ends when the Pod is to terminate
	endEarly context.CancelFunc
	spec     *v1.Container
	check    checker
	changed  func()
	event    func(reason, message string) // a warning
	log      *slog.Logger

	mu     sync.Mutex
	result pod.Probed
}

func (i *instance) verdict() pod.Probed {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.result
}

// run runs the startup probe until it succeeds or fails, and then the others.
func (i *instance) run() {
	if p := i.spec.StartupProbe; p != nil && i.verdict().Startup != pod.Success {
		i.loop(i.early, p, &i.result.Startup, true)
		if i.verdict().Startup != pod.Success {
			return
		}
	}
	var group sync.WaitGroup
	if p := i.spec.LivenessProbe; p != nil {
		group.Go(func() { i.loop(i.early, p, &i.result.Liveness, true) })
	}
	if p := i.spec.ReadinessProbe; p != nil {
		group.Go(func() { i.loop(i.ctx, p, &i.result.Readiness, false) })
	}
	group.Wait()
}

// loop probes until ctx ends. With hold it returns at the first Failure; a startup
// probe also returns at Success.
func (i *instance) loop(ctx context.Context, p *v1.Probe, verdict *pod.Outcome, hold bool) {
	if !sleep(ctx, time.Duration(p.InitialDelaySeconds)*time.Second) {
		return
	}
	period := time.Duration(max(p.PeriodSeconds, 1)) * time.Second
	counter := counter{success: max(p.SuccessThreshold, 1), failure: max(p.FailureThreshold, 1)}
	wait := firstRetry
	if verdict == &i.result.Liveness || i.read(verdict) == pod.Success {
		wait = period // no extra tries: a failure kills the container, or the result is known already
	}
	for {
		outcome, message := i.try(ctx, p)
		if ctx.Err() != nil {
			return
		}
		if outcome == pod.Success {
			wait = period
		}
		if extra := wait < period; !extra {
			i.tell(verdict, outcome, message)
			if now := counter.count(outcome); now != pod.Pending {
				i.set(verdict, now, message)
			}
		}
		if now := i.read(verdict); hold && now == pod.Failure || verdict == &i.result.Startup && now == pod.Success {
			return
		}
		if !sleep(ctx, wait) {
			return
		}
		if wait < period {
			wait = min(2*wait, period)
		}
	}
}

// try probes once. It retries after errors of the probing itself, which say nothing
// about the container. If all tries fail, the result is Pending.
func (i *instance) try(ctx context.Context, p *v1.Probe) (pod.Outcome, string) {
	timeout := time.Duration(max(p.TimeoutSeconds, 1)) * time.Second
	last := ""
	for range 3 {
		outcome, message, err := i.check.run(ctx, &p.ProbeHandler, timeout)
		if err == nil {
			return outcome, message
		}
		last = err.Error()
		i.log.Debug("probing", "err", err)
	}
	return pod.Pending, last
}

// tell reports a probe that failed, could not run, or has a doubtful answer.
func (i *instance) tell(verdict *pod.Outcome, outcome pod.Outcome, message string) {
	kind := "Readiness"
	switch verdict {
	case &i.result.Startup:
		kind = "Startup"
	case &i.result.Liveness:
		kind = "Liveness"
	}
	switch {
	case outcome == pod.Failure:
		i.event(pod.EventUnhealthy, kind+" probe failed: "+message)
	case outcome == pod.Pending:
		i.event(pod.EventUnhealthy, kind+" probe could not be made: "+message)
	case strings.HasPrefix(message, redirected):
		i.event(pod.EventProbeWarning, kind+" probe: "+message)
	}
}

func (i *instance) read(verdict *pod.Outcome) pod.Outcome {
	i.mu.Lock()
	defer i.mu.Unlock()
	return *verdict
}

func (i *instance) set(verdict *pod.Outcome, now pod.Outcome, message string) {
	i.mu.Lock()
	same := *verdict == now
	*verdict = now
	if now == pod.Failure {
		i.result.Message = message
	}
	i.mu.Unlock()
	if !same {
		i.changed()
	}
}

// counter turns outcomes into results, according to the probe's thresholds.
type counter struct {
	success, failure int32
	last             pod.Outcome
	n                int32
}

// count returns the result after one more outcome; Pending means no result yet.
func (c *counter) count(o pod.Outcome) pod.Outcome {
	if o == pod.Pending {
		return pod.Pending
	}
	if o != c.last {
		c.last, c.n = o, 0
	}
	c.n++
	switch {
	case o == pod.Success && c.n >= c.success:
		return pod.Success
	case o == pod.Failure && c.n >= c.failure:
		return pod.Failure
	}
	return pod.Pending
}

// sleep sleeps for d. It returns false if ctx has ended.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
