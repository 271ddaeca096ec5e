package device

import (
	"maps"
	"slices"

	v1 "k8s.io/api/core/v1"

	"github.com/nodekit-project/nodekit/deviceplugin"
)

// slot is one container's share of one resource.
type slot struct {
	container, resource string
}

// need is how many devices a slot must hold.
type need struct {
	slot
	count int
	// lends is set for an init container that is not a sidecar: it ends before the
	// later containers start, so they may use its devices, too.
	lends bool
}

// needsOf returns the device needs of the Pod's containers, in the order in which they
// start. Limits are used; for extended resources the API makes requests equal to them.
func needsOf(p *v1.Pod) ([]need, error) {
	var out []need
	add := func(c *v1.Container, lends bool) error {
		for _, name := range slices.Sorted(maps.Keys(c.Resources.Limits)) {
			q := c.Resources.Limits[name]
			if deviceplugin.ValidResource(string(name)) != nil || q.IsZero() {
				continue // cpu, memory, hugepages-2Mi, ...
			}
			count, whole := q.AsInt64()
			if !whole || count < 0 || count > 1<<20 {
				return reject("container %q asks for %s of %q: want a whole number of devices", c.Name, q.String(), name)
			}
			out = append(out, need{slot{c.Name, string(name)}, int(count), lends})
		}
		return nil
	}
	for i := range p.Spec.InitContainers {
		c := &p.Spec.InitContainers[i]
		sidecar := c.RestartPolicy != nil && *c.RestartPolicy == v1.ContainerRestartPolicyAlways
		if err := add(c, !sidecar); err != nil {
			return nil, err
		}
	}
	for i := range p.Spec.Containers {
		if err := add(&p.Spec.Containers[i], false); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// shortage describes a resource with too few free devices.
type shortage struct {
	slot
	want, have int
}

// preference picks count of the available ids, including must. An answer that breaks
// the rules is ignored.
type preference func(resource string, available, must []string, count int) []string

// choose picks devices for every need that does not hold any yet, or returns the
// shortage. It never picks for only a part of the Pod, so waiting Pods do not hold what
// others wait for. free is by resource and is not changed.
//
// A container first gets the devices that earlier init containers lend (in the kubelet,
// the reuse set of devicesToAllocate). Devices of a sidecar or an app container are not
// shared.
func choose(needs []need, held map[slot][]string, free map[string][]string, prefer preference) (map[slot][]string, *shortage) {
	free = maps.Clone(free)
	lent := map[string][]string{}
	chosen := map[slot][]string{}
	for _, n := range needs {
		ids, ok := held[n.slot]
		if !ok {
			borrowed := lent[n.resource][:min(n.count, len(lent[n.resource]))]
			if have := len(borrowed) + len(free[n.resource]); have < n.count {
				return nil, &shortage{n.slot, n.count, have}
			}
			ids = pick(n, borrowed, free[n.resource], prefer)
			chosen[n.slot] = ids
		}
		free[n.resource] = without(free[n.resource], ids)
		lent[n.resource] = without(lent[n.resource], ids)
		if n.lends {
			lent[n.resource] = slices.Concat(lent[n.resource], ids)
		}
	}
	return chosen, nil
}

// pick returns count ids: the borrowed ones first, then free ones by preference.
func pick(n need, borrowed, free []string, prefer preference) []string {
	if more := n.count - len(borrowed); more > 0 && more < len(free) && prefer != nil {
		ids := prefer(n.resource, slices.Concat(borrowed, free), borrowed, n.count)
		if valid(ids, n.count, borrowed, free) {
			return ids
		}
	}
	return slices.Concat(borrowed, free[:n.count-len(borrowed)])
}

func valid(ids []string, count int, borrowed, free []string) bool {
	rest := without(ids, borrowed)
	unique := slices.Compact(slices.Sorted(slices.Values(ids)))
	return len(ids) == count && len(unique) == count &&
		len(rest) == count-len(borrowed) && len(without(rest, free)) == 0
}

// without returns a new slice of the ids that are not in drop.
func without(ids, drop []string) []string {
	return slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return slices.Contains(drop, id) })
}
