package cgroup

import (
	"strings"
	"sync/atomic"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/manager"

	"github.com/nodekit-project/nodekit/internal/rawfile"
)

// hierarchies are the root directories of the hierarchies: one per controller on v1,
// and one under an empty name on v2. Finding them takes dozens of system calls, and
// every function here needs them.
type hierarchies struct {
	attached string // see attached
	roots    map[string]string
}

var lastSeen atomic.Pointer[hierarchies]

// roots returns the directories of the hierarchies as they are now.
func roots() (map[string]string, error) {
	now, err := attached()
	if err != nil {
		return nil, err
	}
	if h := lastSeen.Load(); h != nil && h.attached == now {
		return h.roots, nil
	}
	const any = "/any" // it need not exist
	m, err := manager.New(&cgroups.Cgroup{Path: any, Resources: &cgroups.Resources{SkipDevices: true}})
	if err != nil {
		return nil, err
	}
	found := &hierarchies{attached: now, roots: map[string]string{}}
	for controller, dir := range m.GetPaths() {
		found.roots[controller] = strings.TrimSuffix(dir, any)
	}
	lastSeen.Store(found)
	return found.roots, nil
}

// attached returns which hierarchy each controller of v1 is attached to (cgroups(7)).
// That changes when a hierarchy is first mounted or finally unmounted.
func attached() (string, error) {
	if Version() == 2 {
		return "", nil
	}
	text, err := rawfile.Read("/proc/cgroups")
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for line := range strings.Lines(string(text)) {
		// The columns after these two are counters.
		if f := strings.Fields(line); len(f) > 1 {
			b.WriteString(f[0] + " " + f[1] + "\n")
		}
	}
	return b.String(), nil
}
