// Package observer watches a CRI runtime for the kubelet. It returns what the runtime
// knows of one Pod (Observe), and reports when that may have changed (Run): at once by
// the runtime's events, and by listing everything from time to time, often if the
// runtime has no events and rarely if it has.
//
// It keeps no state that decides anything: its reports only mean "look again". It is
// safe for concurrent use.
package observer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/internal/call"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/rpc"
	"github.com/nodekit-project/nodekit/kubelet/pod"
)

const (
	retryMin = 20 * time.Millisecond // after the runtime became unavailable
	retryMax = 1000 * time.Millisecond
	// lookMost bounds one query of the runtime, by the kubelet's own deadline for a
	// call: a call that is never answered must not block a Pod forever.
	lookMost = 2 * time.Minute
)

// rhythm is the time between lists: least after a change or an observation, doubled
// each time that nothing has changed, up to most.
type rhythm struct{ least, most time.Duration }

// besideEvents is the safety net of a runtime with events. With withoutEvents, an exit
// is noticed after about as long again as the container ran, and after a second at
// most.
func besideEvents() rhythm  { return rhythm{15 * time.Second, 15 * time.Second} }
func withoutEvents() rhythm { return rhythm{50 * time.Millisecond, time.Second} }

// Config configures an Observer.
type Config struct {
	Runtime runtimeapi.RuntimeServiceClient
	NodeID  string // the value of pod.LabelNode on what belongs to this node
	// Changed is called for a Pod whose sandbox or containers may have changed. It must
	// not block.
	Changed func(types.UID)
	Logger  *slog.Logger // nil discards
}

// Observer observes one runtime.
type Observer struct {
	config Config
	log    *slog.Logger
	active chan struct{} // holds a token after an observation
	last   snapshot      // what was seen last
}

// New returns an observer that does nothing until Run.
func New(c Config) *Observer {
	log := c.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Observer{config: c, log: log, active: make(chan struct{}, 1)}
}

// Run reports changes until ctx ends, and then returns nil. The runtime may become
// unavailable and come back meanwhile.
func (o *Observer) Run(ctx context.Context) error {
	failures := 0
	for ctx.Err() == nil {
		err := o.follow(ctx, &failures)
		if errors.Is(err, fault.Unimplemented) {
			o.log.Info("the runtime has no container events: it is listed every second, more often while something goes on")
			err = o.poll(ctx, withoutEvents())
		}
		if ctx.Err() != nil {
			return nil
		}
		failures++
		o.log.Debug("lost sight of the runtime", "err", err)
		pause(ctx, pod.Backoff(failures, retryMin, retryMax))
	}
	return nil
}

// follow reads the runtime's events, and lists everything at the start and from time to
// time.
func (o *Observer) follow(ctx context.Context, failures *int) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := o.config.Runtime.GetContainerEvents(ctx, &runtimeapi.GetEventsRequest{})
	if err != nil {
		return err
	}
	listed := make(chan struct{})
	go func() {
		defer close(listed)
		defer cancel() // if the runtime cannot be listed, following starts again
		if err := o.poll(ctx, besideEvents()); ctx.Err() == nil {
			o.log.Debug("listing the runtime", "err", err)
		}
	}()
	defer func() {
		cancel()
		<-listed
	}()
	for {
		event, err := stream.Recv()
		if err != nil {
			return rpc.FromStatus(err)
		}
		*failures = 0
		if meta := event.GetPodSandboxStatus().GetMetadata(); meta != nil {
			o.config.Changed(types.UID(meta.Uid))
		} else if uid, ok := o.last.owner(event.GetContainerId()); ok {
			o.config.Changed(uid)
		}
	}
}

// poll lists everything at once and then in the rhythm, and reports differences. It
// returns the first error.
func (o *Observer) poll(ctx context.Context, r rhythm) error {
	wait := r.least
	for {
		now, err := o.list(ctx)
		if err != nil {
			return err
		}
		changed := o.last.replace(now)
		for uid := range changed {
			o.config.Changed(uid)
		}
		wait = min(2*wait, r.most)
		if len(changed) > 0 || o.rest(ctx, wait, r) {
			wait = r.least
			pause(ctx, wait)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// rest waits, and returns true if a Pod was observed meanwhile and the rhythm reacts to
// that: whoever observes a Pod is working on it.
func (o *Observer) rest(ctx context.Context, wait time.Duration, r rhythm) (active bool) {
	answering := o.active
	if r.least == r.most {
		answering = nil
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	case <-answering:
		return true
	}
	return false
}

// Found returns the Pods of this node that have anything in the runtime.
func (o *Observer) Found(ctx context.Context) (map[types.UID]call.Pod, error) {
	ctx, cancel := context.WithTimeout(ctx, lookMost)
	defer cancel()
	found := map[types.UID]call.Pod{}
	filter := map[string]string{pod.LabelNode: o.config.NodeID}
	sandboxes, err := o.config.Runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{Filter: &runtimeapi.PodSandboxFilter{LabelSelector: filter}})
	if err != nil {
		return nil, fmt.Errorf("listing sandboxes: %w", err)
	}
	for _, s := range sandboxes.Items {
		found[types.UID(s.Labels[pod.LabelPodUID])] = identity(s.Labels)
	}
	return found, nil
}

func identity(labels map[string]string) call.Pod {
	return call.Pod{Namespace: labels[pod.LabelPodNamespace], Name: labels[pod.LabelPodName], UID: labels[pod.LabelPodUID]}
}

// list takes a snapshot of the states of everything that belongs to this node.
func (o *Observer) list(ctx context.Context) (map[string]entry, error) {
	ctx, cancel := context.WithTimeout(ctx, lookMost)
	defer cancel()
	filter := map[string]string{pod.LabelNode: o.config.NodeID}
	all := map[string]entry{}
	sandboxes, err := o.config.Runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{Filter: &runtimeapi.PodSandboxFilter{LabelSelector: filter}})
	if err != nil {
		return nil, err
	}
	for _, s := range sandboxes.Items {
		all[s.Id] = entry{types.UID(s.Labels[pod.LabelPodUID]), int32(s.State)}
	}
	containers, err := o.config.Runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{LabelSelector: filter}})
	if err != nil {
		return nil, err
	}
	for _, c := range containers.Containers {
		all[c.Id] = entry{types.UID(c.Labels[pod.LabelPodUID]), int32(c.State)}
	}
	return all, nil
}

// pause sleeps for d, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
