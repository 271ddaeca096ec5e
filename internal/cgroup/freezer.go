package cgroup

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/opencontainers/cgroups"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// Freeze stops the processes of a cgroup, and those that they start, until Thaw. It
// returns when all have stopped, or with an error some seconds later; then they may
// or may not run, and the caller must call Thaw. If the cgroup does not exist, the
// error is fault.FailedPrecondition.
func Freeze(path string) error {
	if !Exists(path) {
		return fault.FailedPrecondition.Errorf("freezing cgroup %q: it is not there", path)
	}
	m, err := managerOf(path)
	if err == nil {
		err = m.Freeze(cgroups.Frozen)
	}
	if err != nil {
		return fmt.Errorf("freezing cgroup %q: %w", path, err)
	}
	return nil
}

// Frozen reports whether the processes of a cgroup are stopped by a Freeze of this
// very cgroup.
func Frozen(path string) (bool, error) {
	m, err := managerOf(path)
	if err != nil {
		return false, fmt.Errorf("looking at cgroup %q: %w", path, err)
	}
	state, err := m.GetFreezerState()
	if err != nil {
		return false, fmt.Errorf("looking at cgroup %q: %w", path, err)
	}
	return state == cgroups.Frozen, nil
}

// Thaw resumes the processes of a frozen cgroup. It succeeds if the cgroup is not
// frozen or does not exist.
func Thaw(path string) error {
	m, err := managerOf(path)
	if err == nil && Exists(path) {
		err = m.Freeze(cgroups.Thawed)
		// systemd removes an empty scope, and an OCI runtime that was killed has
		// created the cgroup in only some hierarchies: in the others nothing is
		// frozen.
		if errors.Is(err, fs.ErrNotExist) || err != nil && !Exists(path) {
			err = nil
		}
	}
	if err != nil {
		return fmt.Errorf("thawing cgroup %q: %w", path, err)
	}
	return nil
}
