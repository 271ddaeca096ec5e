package cgroup

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/opencontainers/cgroups"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// Freeze stops the processes of a cgroup, and those that they start, until Thaw. It
// returns when all of them have stopped, or with an error some seconds later; then
// they may or may not run, and Thaw is for the caller. A cgroup that is not there is
// fault.FailedPrecondition.
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

// Frozen reports whether the processes of a cgroup have stopped by its own Freeze.
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

// Thaw lets the processes of a cgroup go on that somebody has frozen. One that is
// not frozen, or not there, is not an error.
func Thaw(path string) error {
	m, err := managerOf(path)
	if err == nil && Exists(path) {
		err = m.Freeze(cgroups.Thawed)
		// systemd takes a scope away when it is empty, and an OCI runtime that was killed
		// has made the cgroup in some hierarchies only: there nothing is frozen.
		if errors.Is(err, fs.ErrNotExist) || err != nil && !Exists(path) {
			err = nil
		}
	}
	if err != nil {
		return fmt.Errorf("thawing cgroup %q: %w", path, err)
	}
	return nil
}
