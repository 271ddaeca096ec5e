package gpu

import (
	"cmp"
	"context"
	"slices"

	"github.com/nodekit-project/nodekit/deviceplugin"
)

// prefer keeps a container's GPUs on as few NUMA nodes as possible. It takes GPUs first
// from the nodes of those the container must have, then from the node with the fewest
// free GPUs that has enough, so that large groups stay whole, then from the largest.
func (o *offer) prefer(_ context.Context, p deviceplugin.Preference) ([]string, error) {
	numa := map[string]int{}
	for _, g := range o.gpus {
		numa[g.id] = g.numa
	}
	ids := slices.Clone(p.Must)
	near := map[int]bool{}
	for _, id := range p.Must {
		near[numa[id]] = true
	}
	groups := map[int][]string{}
	var nodes []int
	for _, id := range p.Available {
		if slices.Contains(p.Must, id) {
			continue
		}
		if n := numa[id]; groups[n] == nil {
			nodes = append(nodes, n)
		}
		groups[numa[id]] = append(groups[numa[id]], id)
	}
	missing := p.Count - len(ids)
	rank := func(node int) (class, size int) {
		switch size := len(groups[node]); {
		case near[node]:
			return 0, -size
		case size >= missing:
			return 1, size
		default:
			return 2, -size
		}
	}
	slices.SortStableFunc(nodes, func(a, b int) int {
		classA, sizeA := rank(a)
		classB, sizeB := rank(b)
		return cmp.Or(cmp.Compare(classA, classB), cmp.Compare(sizeA, sizeB))
	})
	for _, node := range nodes {
		ids = append(ids, groups[node][:min(len(groups[node]), p.Count-len(ids))]...)
	}
	return ids, nil
}
