package simulation_test

import (
	"context"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// container is one instance of a container, and what is true of it. It stays in
// runtime.all when its record is removed. life.mu guards it.
type container struct {
	life                *life
	id, name            string
	sandbox             *sandbox
	attempt             uint32
	labels, annotations map[string]string
	image               string

	state                      runtimeapi.ContainerState
	unknown                    bool // the runtime says that it does not know the state
	created, started, finished time.Time
	code                       int32
	reason                     string
	ended                      chan struct{} // closed when it ended, or was removed before it ran
	reacts                     *time.Timer   // to the stop signal

	startedUp, sickFrom time.Time // by its startup and liveness probes; zero is never
	// What the kubelet may know, and act on.
	failedProbes map[string]int // in a row, by probe
	failedHook   bool
	doomed       bool // its image was changed, or the runtime lost track of it
	// delay is the restart delay that a rule expects after it.
	delay time.Duration
	// stopped is when it was first asked to stop.
	stopped time.Time
	// stray: a call made or started it that nobody waited for.
	stray bool
	// removed: the runtime has no record of it any more. lost: that was not the
	// kubelet's doing.
	removed, lost bool
}

func (c *container) running() bool {
	return c.state == runtimeapi.ContainerState_CONTAINER_RUNNING
}

func (c *container) exited() bool { return c.state == runtimeapi.ContainerState_CONTAINER_EXITED }

// ran reports whether it ever ran, or counts as one that did.
func (c *container) ran() bool { return !c.started.IsZero() || c.exited() }

// start starts the container, whose ways follow from its name. The caller holds
// life.mu.
func (c *container) start() error {
	l := c.life
	c.life.rules.starts(c)
	if !l.quiet.Load() && l.dice.chance("start fails "+c.id, l.temper.startFails) {
		if l.temper.recorded {
			c.exit(128, "StartError")
		}
		return fault.Internal.Errorf("container %q: no such program", c.id)
	}
	w := l.ways[c.name]
	c.state, c.started = runtimeapi.ContainerState_CONTAINER_RUNNING, time.Now()
	l.note("  %s runs", c.id)
	if l.dice.chance("ends "+c.id, w.ends) {
		code := int32(0)
		if l.dice.chance("code "+c.id, w.fails) {
			code = int32(1 + l.dice.upTo("code "+c.id, 3))
		}
		time.AfterFunc(l.dice.spread("ends "+c.id, w.least, w.most), func() { c.locked(func() { c.exit(code, "") }) })
	}
	if l.probeOf(c, "startup") == nil {
		c.sandbox.started[c.name] = true
	} else if l.dice.chance("starts up "+c.id, 0.9) {
		c.startedUp = time.Now().Add(l.dice.spread("starts up "+c.id, time.Millisecond, 20*time.Second))
	}
	if l.dice.chance("sick "+c.id, w.sick) {
		c.sickFrom = time.Now().Add(l.dice.spread("sick "+c.id, time.Second, 5*time.Minute))
	}
	l.runtime.tell(c.sandbox, c.id)
	return nil
}

func (c *container) locked(do func()) {
	c.life.mu.Lock()
	defer c.life.mu.Unlock()
	do()
}

// exit ends the container, once. The caller holds life.mu.
func (c *container) exit(code int32, reason string) {
	if c.exited() || !c.running() && reason != "StartError" {
		return
	}
	c.state, c.code, c.reason, c.finished, c.unknown = runtimeapi.ContainerState_CONTAINER_EXITED, code, reason, time.Now(), false
	c.life.note("  %s ends with code %d %s", c.id, code, reason)
	if code == 0 && c.life.isPlainInit(c.sandbox.uid, c.name) {
		c.sandbox.done[c.name] = true
	}
	close(c.ended)
	c.life.runtime.tell(c.sandbox, c.id)
}

// remove removes the record, and ends what runs. The caller holds life.mu.
func (c *container) remove() {
	c.exit(137, "SIGKILL")
	r := c.life.runtime
	r.containers = slices.DeleteFunc(r.containers, func(o *container) bool { return o == c })
	if !c.exited() && !c.removed { // it never ran
		close(c.ended)
	}
	c.removed = true
	r.tell(c.sandbox, c.id)
}

// StopContainer sends the stop signal and waits for the end. The container reacts
// to it in its way, and is killed when the timeout is over.
func (c client) StopContainer(ctx context.Context, in *runtimeapi.StopContainerRequest, _ ...grpc.CallOption) (*runtimeapi.StopContainerResponse, error) {
	l, id, timeout := c.life, in.ContainerId, time.Duration(in.Timeout)*time.Second
	resp := &runtimeapi.StopContainerResponse{}
	var have *container
	var kill *time.Timer
	err := c.call(ctx, request{
		what: "stop", about: id, with: " with " + timeout.String(), most: 5 * time.Millisecond,
		check: func() {
			if have := l.runtime.container(id); have != nil {
				l.rules.stops(have, timeout)
			}
		},
		effect: func(bool) error {
			if have = l.runtime.container(id); have == nil {
				return fault.NotFound.Errorf("there is no container %q", id)
			}
			stopping := have
			kill = stopping.stop(timeout)
			return nil
		},
	})
	if err != nil || kill == nil {
		return resp, err
	}
	select {
	case <-have.ended:
		return resp, nil
	case <-ctx.Done():
		if !l.dice.chance("kills "+id, l.temper.goesOn) {
			kill.Stop() // a runtime whose caller goes may not kill in the end
		}
		return resp, ended(ctx)
	}
}

// stop makes the container end: when it reacts to the signal, or when the returned
// timer goes off, whatever its caller does. The caller holds life.mu.
func (c *container) stop(timeout time.Duration) *time.Timer {
	l := c.life
	if !c.running() {
		return nil
	}
	if c.reacts == nil {
		w := l.ways[c.name]
		c.reacts = time.NewTimer(0)
		c.reacts.Stop()
		if !l.dice.chance("deaf "+c.id, w.deaf) {
			code := pick(l.dice, "stop code "+c.id, int32(0), 143, 143)
			c.reacts = time.AfterFunc(l.dice.spread("reacts "+c.id, time.Millisecond, 20*time.Second), func() { c.locked(func() { c.exit(code, "") }) })
		}
	}
	return time.AfterFunc(timeout, func() { c.locked(func() { c.exit(137, "SIGKILL") }) })
}

// ExecSync runs a probe or a hook, told apart by its first word.
func (c client) ExecSync(ctx context.Context, in *runtimeapi.ExecSyncRequest, _ ...grpc.CallOption) (*runtimeapi.ExecSyncResponse, error) {
	l, id, word := c.life, in.ContainerId, in.Cmd[0]
	resp := &runtimeapi.ExecSyncResponse{}
	hook := word == "postStart" || word == "preStop"
	most := 10 * time.Millisecond
	if hook {
		most = l.slow("hook "+id, time.Second, 20*time.Second)
	}
	err := c.call(ctx, request{
		what: word, about: id, most: most, reads: !hook,
		effect: func(bool) error {
			have := l.runtime.container(id)
			if have == nil || !have.running() {
				return fault.FailedPrecondition.Errorf("container %q does not run", id)
			}
			resp.ExitCode = have.exec(word)
			return nil
		},
	})
	if err != nil && word == "postStart" {
		l.mu.Lock()
		defer l.mu.Unlock()
		if have := l.runtime.container(id); have != nil {
			have.failedHook = true
		}
	}
	return resp, err
}

// exec returns the exit code of a probe or a hook. The caller holds life.mu.
func (c *container) exec(word string) (code int32) {
	now, bad := time.Now(), false
	switch word {
	case "startup":
		bad = c.startedUp.IsZero() || now.Before(c.startedUp)
	case "liveness":
		bad = !c.sickFrom.IsZero() && now.After(c.sickFrom)
	case "readiness":
		bad = c.life.dice.chance("ready "+c.id, 0.1)
	case "postStart":
		bad = c.life.dice.chance("postStart "+c.id, 0.15)
		c.failedHook = c.failedHook || bad
	}
	if bad {
		c.fails(word)
		return 1
	}
	if !c.unhealthy(word) {
		delete(c.failedProbes, word)
	}
	c.sandbox.started[c.name] = c.sandbox.started[c.name] || word == "startup"
	return 0
}

// fails notes that a probe has failed once more. The caller holds life.mu.
func (c *container) fails(word string) {
	if c.failedProbes == nil {
		c.failedProbes = map[string]int{}
	}
	c.failedProbes[word]++
}

// unhealthy reports whether a probe has failed so often that the container must be
// replaced. The caller holds life.mu.
func (c *container) unhealthy(word string) bool {
	probe := c.life.probeOf(c, word)
	return probe != nil && c.failedProbes[word] >= int(probe.FailureThreshold)
}

func (c *container) String() string { return fmt.Sprintf("%s of %s", c.id, c.sandbox.uid) }
