package leak

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
)

// Take takes a snapshot of what is there now. It may be called by several
// goroutines at once; one that shall look into another network namespace calls
// it from a thread that entered it.
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
	case Sysctl:
		return sysctls(scope)
	case Content:
		return contents(scope)
	}
	return files(scope)
}

// gone tells that an error only says that a thing went away while it was
// looked at, which is not there then.
func gone(err error) bool { return errors.Is(err, fs.ErrNotExist) }
