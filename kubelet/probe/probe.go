// Package probe runs the startup, liveness and readiness probes of running containers,
// and keeps their results by container ID: a new instance starts without one, and after
// a liveness or startup failure the result is held until the instance is replaced.
//
// Defaults and counting are the kubelet's, with one exception: a startup or readiness
// probe first runs right after the start (and initialDelaySeconds), and then at short
// intervals that double until they reach the period, so that a Pod that is ready early
// is soon seen to be. Failures of these extra tries do not count towards the failure
// threshold.
//
// All methods are safe for concurrent use.
package probe

import (
	"context"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// Exec runs a command in a container and returns its exit code and output. The error is
// context.DeadlineExceeded if the command took longer than timeout.
type Exec func(ctx context.Context, containerID string, command []string, timeout time.Duration) (code int32, output string, err error)

// Config configures a Manager.
type Config struct {
	Exec Exec
	// Changed is called when a result of the Pod has changed. It must not block.
	Changed func(types.UID)
	// Event is called for failing probes, concurrently. It must be quick; nil discards.
	Event  func(pod.Event)
	Logger *slog.Logger // nil discards
}

// Manager runs the probes of all Pods of a node.
type Manager struct {
	config Config
	ctx    context.Context
	group  sync.WaitGroup

	mu   sync.Mutex
	pods map[types.UID]map[string]*instance // by container id
}

// New returns a manager whose probes end with ctx.
func New(ctx context.Context, c Config) *Manager {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Event == nil {
		c.Event = func(pod.Event) {}
	}
	return &Manager{config: c, ctx: ctx, pods: map[types.UID]map[string]*instance{}}
}

// Sync starts the probes of running instances that have none yet, and stops those of
// instances that do not run. The probes of a terminating Pod stop, except readiness.
func (m *Manager) Sync(p *v1.Pod, seen *pod.Observation) {
	m.mu.Lock()
	defer m.mu.Unlock()
	have := m.pods[p.UID]
	running := map[string]bool{}
	for i := range seen.Containers {
		c := &seen.Containers[i]
		spec := pod.Find(p, c.Name)
		if c.State != pod.Running || spec == nil || spec.StartupProbe == nil && spec.LivenessProbe == nil && spec.ReadinessProbe == nil {
			continue
		}
		running[c.ID] = true
		if have[c.ID] == nil && p.DeletionTimestamp == nil {
			if have == nil {
				have = map[string]*instance{}
				m.pods[p.UID] = have
			}
			have[c.ID] = m.start(p, spec, c, address(seen))
		}
	}
	for id, i := range have {
		if !running[id] {
			i.cancel()
			delete(have, id)
		} else if p.DeletionTimestamp != nil {
			i.endEarly()
		}
	}
}

// Results returns the results for the Pod's instances.
func (m *Manager) Results(uid types.UID) map[string]pod.Probed {
	m.mu.Lock()
	instances := maps.Clone(m.pods[uid])
	m.mu.Unlock()
	results := make(map[string]pod.Probed, len(instances))
	for id, i := range instances {
		results[id] = i.verdict()
	}
	return results
}

// Wait waits until no probe runs any more. Call it after the manager's context has
// ended; Sync must not be called after that.
func (m *Manager) Wait() { m.group.Wait() }

// Forget stops all probes of the Pod.
func (m *Manager) Forget(uid types.UID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, i := range m.pods[uid] {
		i.cancel()
	}
	delete(m.pods, uid)
}

func address(seen *pod.Observation) string {
	if s := seen.Sandbox(); s != nil && len(s.IPs) > 0 {
		return s.IPs[0]
	}
	return "127.0.0.1"
}

// start starts the probes of an instance. The results in the recorded status hold until
// a probe has another, so that a restart of the node does not make Pods unready.
func (m *Manager) start(p *v1.Pod, spec *v1.Container, c *pod.Container, address string) *instance {
	ctx, cancel := context.WithCancel(m.ctx)
	early, endEarly := context.WithCancel(ctx)
	i := &instance{
		ctx: ctx, cancel: cancel, early: early, endEarly: endEarly, spec: spec,
		check:   checker{exec: m.config.Exec, id: c.ID, address: address, container: spec},
		changed: func() { m.config.Changed(p.UID) },
		event: func(reason, message string) {
			m.config.Event(pod.Event{Pod: pod.CallOf(p), Field: pod.FieldOf(p, c.Name), Type: v1.EventTypeWarning, Reason: reason, Message: message})
		},
		log: m.config.Logger.With("pod", pod.CallOf(p).String(), "container", c.Name),
	}
	i.result = pod.Probed{Startup: unless(spec.StartupProbe), Liveness: pod.Success, Readiness: unless(spec.ReadinessProbe)}
	for _, list := range [][]v1.ContainerStatus{p.Status.ContainerStatuses, p.Status.InitContainerStatuses} {
		for _, s := range list {
			if !strings.HasSuffix(s.ContainerID, "://"+c.ID) {
				continue
			}
			if s.Started != nil && *s.Started {
				i.result.Startup = pod.Success
			}
			if s.Ready {
				i.result.Readiness = pod.Success
			}
		}
	}
	m.group.Go(i.run)
	return i
}

// unless returns the result before the first probe.
func unless(p *v1.Probe) pod.Outcome {
	if p == nil {
		return pod.Success
	}
	return pod.Pending
}
