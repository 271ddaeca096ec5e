package device

import (
	"context"
	"fmt"
	"maps"
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/nodekit-project/nodekit/internal/call"
	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// choices is how often devices are chosen by the plugin's preference before the manager
// stops asking for it: each time, another Pod has taken the preferred ones.
const choices = 3

// Allocate allocates devices to the Pod's containers and returns what each needs to use
// them, by container name; containers without devices are omitted. The allocations are
// on disk when it returns. It is idempotent, also across restarts: a container keeps
// its devices, and the plugin is not asked again.
//
// It returns a *pod.WaitError if a plugin is missing, does not answer or has too few
// free devices, and a *pod.RejectError if the request can never be satisfied. It then
// allocates nothing new. Calls for one Pod must not overlap.
func (m *Manager) Allocate(ctx context.Context, p *v1.Pod) (map[string]pod.Devices, error) {
	needs, err := needsOf(p)
	if err != nil || len(needs) == 0 {
		return map[string]pod.Devices{}, err
	}
	ctx = call.WithPod(ctx, pod.CallOf(p))
	chosen, err := m.reserve(ctx, p.UID, needs)
	if err != nil {
		return nil, err
	}
	if len(chosen) > 0 {
		err := m.ask(ctx, p.UID, chosen)
		if err == nil {
			err = m.ledger.save()
		}
		if err != nil {
			m.ledger.drop(p.UID, chosen) // without notify: the Pod itself would retry at once
			return nil, err
		}
	}
	return m.answers(p.UID), nil
}

// reserve chooses and reserves devices. Plugins are asked for their preference without
// a lock, so the choice is repeated if it has become stale.
func (m *Manager) reserve(ctx context.Context, uid types.UID, needs []need) (map[slot][]string, error) {
	held := m.ledger.held(uid)
	for _, n := range needs {
		if ids, ok := held[n.slot]; ok && len(ids) != n.count {
			return nil, reject("container %q holds %d devices of %q and now asks for %d", n.container, len(ids), n.resource, n.count)
		}
	}
	for try := 0; ; try++ {
		free, err := m.free(needs, held)
		if err != nil {
			return nil, err
		}
		var failed error
		prefer := m.preference(ctx, &failed)
		if try >= choices {
			prefer = nil
		}
		chosen, short := choose(needs, held, free, prefer)
		if failed != nil {
			return nil, failed
		}
		if short != nil {
			return nil, m.short(short)
		}
		if m.ledger.reserve(uid, chosen) {
			return chosen, nil
		}
	}
}

// free returns the free healthy devices of the resources that the Pod needs and does
// not hold yet.
func (m *Manager) free(needs []need, held map[slot][]string) (map[string][]string, error) {
	used := m.ledger.inUse()
	out := map[string][]string{}
	for _, n := range needs {
		if _, ok := held[n.slot]; ok || out[n.resource] != nil {
			continue
		}
		if m.endpoint(n.resource) == nil {
			return nil, missing("a device plugin for %q, which container %q asks for: %s", n.resource, n.container, m.absence(n.resource))
		}
		ids := m.healthy(n.resource)
		out[n.resource] = slices.DeleteFunc(ids, func(id string) bool { return used[n.resource][id] })
	}
	return out, nil
}

func (m *Manager) short(s *shortage) error {
	r := m.Resources()[s.resource]
	return &pod.WaitError{Reason: "DevicesUnavailable", For: fmt.Sprintf("%d free devices of %q for container %q: there are %d, %d healthy, %d in use%s",
		s.want, s.resource, s.container, r.Capacity, r.Allocatable, r.InUse, m.oddities(s.resource))}
}

// missing returns the error of a Pod that waits for a plugin.
func missing(format string, args ...any) error {
	return &pod.WaitError{Reason: "DevicePluginMissing", For: fmt.Sprintf(format, args...)}
}

// reject returns the error of a Pod whose request can never be satisfied.
func reject(format string, args ...any) error {
	return &pod.RejectError{Reason: "UnexpectedAdmissionError", Message: fmt.Sprintf(format, args...)}
}

// allocationFailed returns the error of a Pod that waits until its plugin answers
// without an error.
func allocationFailed(format, resource string, err error) error {
	return &pod.WaitError{Reason: "DeviceAllocationFailed", For: fmt.Sprintf(format, resource), Err: err}
}

// preference asks the plugins that have a preference. If a plugin does not answer, the
// Pod's allocation fails, as in the kubelet (callGetPreferredAllocationIfAvailable),
// and failed is set.
func (m *Manager) preference(ctx context.Context, failed *error) preference {
	return func(name string, available, must []string, count int) []string {
		e := m.endpoint(name)
		if e == nil || !e.HasPreference() {
			return nil
		}
		ids, err := e.Prefer(ctx, available, must, count)
		if err != nil {
			*failed = allocationFailed("the device plugin for %q to choose among its devices", name, err)
		}
		return ids
	}
}

// ask calls the plugins' Allocate for the chosen devices, container by container.
func (m *Manager) ask(ctx context.Context, uid types.UID, chosen map[slot][]string) error {
	for s, ids := range chosen {
		e := m.endpoint(s.resource)
		if e == nil {
			return missing("the device plugin for %q to come back", s.resource)
		}
		answer, err := e.Allocate(ctx, ids)
		if err != nil {
			return allocationFailed("the device plugin for %q to allocate", s.resource, err)
		}
		m.ledger.grant(uid, s, answer, e.NeedsPreStart())
	}
	return nil
}

// PreStart calls PreStart of the plugins that require it. The kubelet calls it before
// every start of the container. If such a plugin is missing, the error is a
// *pod.WaitError.
func (m *Manager) PreStart(ctx context.Context, p *v1.Pod, container string) error {
	ctx = call.WithPod(ctx, pod.CallOf(p))
	for s, g := range m.ledger.of(p.UID) {
		if s.container != container || !g.preStart {
			continue
		}
		e := m.endpoint(s.resource)
		if e == nil {
			return missing("the device plugin for %q, which prepares devices before container %q starts", s.resource, container)
		}
		if err := e.PreStart(ctx, g.ids); err != nil {
			return err
		}
	}
	return nil
}

// Release frees all devices of the Pod. Its containers must have ended. It is
// idempotent. The device plugin API has no call to tell the plugin.
func (m *Manager) Release(_ context.Context, uid types.UID) error {
	if held := m.ledger.held(uid); len(held) > 0 {
		m.ledger.drop(uid, held)
		m.notify()
	}
	return m.ledger.save() // even if only an earlier call's write is missing
}

// Pods returns the Pods that hold devices, sorted. Those that the kubelet no longer
// knows must be released.
func (m *Manager) Pods() []types.UID { return m.ledger.uids() }

// answers merges the plugins' answers, by container.
func (m *Manager) answers(uid types.UID) map[string]pod.Devices {
	byContainer := map[string]map[string]*api.ContainerAllocateResponse{}
	for s, g := range m.ledger.of(uid) {
		if byContainer[s.container] == nil {
			byContainer[s.container] = map[string]*api.ContainerAllocateResponse{}
		}
		byContainer[s.container][s.resource] = g.answer
	}
	out := map[string]pod.Devices{}
	for container, answers := range byContainer {
		var merged merger
		for _, name := range slices.Sorted(maps.Keys(answers)) {
			merged.add(answers[name])
		}
		for _, what := range merged.conflicts {
			m.log.Warn("two device plugins answered the same for a container: the first by resource name counts", "pod", uid, "container", container, "what", what)
		}
		out[container] = merged.Devices
	}
	return out
}
