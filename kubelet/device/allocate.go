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

// choices is how often devices are chosen with the plugin's preference before
// the manager stops asking: another Pod took the preferred ones each time.
const choices = 3

// Allocate gives the Pod's containers their devices and returns what each needs
// to use them, by the container's name; a container without devices is not in
// it. The grants are on disk when it returns. It is idempotent, also across
// restarts: what a container holds it keeps, and the plugin is not asked again.
//
// It returns a *pod.WaitError when a plugin is missing, does not answer or has
// too few free devices, and holds nothing new then; a *pod.RejectError when the
// Pod asks for what cannot be. Calls for one Pod must not overlap.
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
			m.ledger.drop(p.UID, chosen) // without notify: the Pod itself would try again at once
			return nil, err
		}
	}
	return m.answers(p.UID), nil
}

// reserve chooses devices and sets them aside. Plugins are asked for their
// preference without a lock, so the choice is made again when it is stale.
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

// free returns the healthy devices that nobody holds of the resources of which
// the Pod needs some that it does not hold.
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

// missing says that a Pod waits for a plugin.
func missing(format string, args ...any) error {
	return &pod.WaitError{Reason: "DevicePluginMissing", For: fmt.Sprintf(format, args...)}
}

// reject says that a Pod can never get what it asks for.
func reject(format string, args ...any) error {
	return &pod.RejectError{Reason: "UnexpectedAdmissionError", Message: fmt.Sprintf(format, args...)}
}

// allocationFailed says that a Pod waits for its plugin to answer without an error.
func allocationFailed(format, resource string, err error) error {
	return &pod.WaitError{Reason: "DeviceAllocationFailed", For: fmt.Sprintf(format, resource), Err: err}
}

// preference asks plugins that have one. A plugin that fails to answer fails the Pod's
// allocation, as in the kubelet (callGetPreferredAllocationIfAvailable); failed is set then.
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

// ask asks the plugins about the chosen devices, container by container.
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

// PreStart tells the plugins that want it that the container is about to
// start. The kubelet calls it before every start. A container whose plugin
// wants it and is not there is a *pod.WaitError.
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

// Release takes all devices from the Pod. The containers must have ended. It
// is idempotent; the API has no call that tells the plugin.
func (m *Manager) Release(_ context.Context, uid types.UID) error {
	if held := m.ledger.held(uid); len(held) > 0 {
		m.ledger.drop(uid, held)
		m.notify()
	}
	return m.ledger.save() // also when only an earlier call's write is missing
}

// Pods returns the Pods that hold devices, sorted: those that the kubelet does
// not know any more must be released.
func (m *Manager) Pods() []types.UID { return m.ledger.uids() }

// answers merges what the plugins answered, by container.
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
