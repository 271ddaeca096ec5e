package leak

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
)

// Take takes a snapshot. It may be called concurrently; to look into another network
// namespace, call it from a thread that entered that.
func Take(scope Scope) (*Snapshot, error) {
	s := &Snapshot{scope: scope.clone(), kinds: make(map[Kind]things)}
	var errs []error
	for _, kind := range scope.Kinds {
		if !slices.Contains(Kinds(), kind) {
			errs = append(errs, fmt.Errorf("unknown kind %q", kind))
		}
	}
	for _, kind := range Kinds() {
		if !s.scope.has(kind) {
			continue
		}
		found, err := look(kind, &s.scope)
		if err != nil {
			errs = append(errs, fmt.Errorf("looking for %ss: %w", kind, err))
		}
		s.kinds[kind] = found
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return s, nil
}

func look(kind Kind, scope *Scope) (things, error) {
	switch kind {
	case Mount, Namespace:
		return mounts(kind, scope)
	case Link:
		return links(scope)
	case Address:
		return addresses(scope)
	case NFT:
		return rules(scope)
	case Cgroup:
		return cgroups(scope)
	case Process:
		return processes(scope)
	case Descriptor:
		return descriptors(scope)
	case Loop:
		return loops(scope)
	case Route:
		return routes(scope)
	case Rule:
		return policyRules(scope)
	case Neighbour:
		return neighbours(scope)
	case Forwarding:
		return forwarding(scope)
	case Traffic:
		return traffic(scope)
	case Sysctl:
		return sysctls(scope)
	case Content:
		return contents(scope)
	}
	return files(scope)
}

// gone reports whether an error only means that a thing disappeared while it was
// read, so that it no longer exists.
func gone(err error) bool { return errors.Is(err, fs.ErrNotExist) }
