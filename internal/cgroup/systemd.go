package cgroup

import (
	"errors"
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/manager"
	"github.com/opencontainers/cgroups/systemd"

	"github.com/nodekit-project/nodekit/internal/fault"
)

const (
	sliceSuffix = ".slice"
	scopeSuffix = ".scope"
)

// Systemd reports whether systemd is process 1, so that slices and scopes can be
// created.
func Systemd() bool { return systemd.IsRunningSystemd() }

// IsUnit reports whether the path is that of a slice or a scope.
func IsUnit(p string) bool { return strings.HasSuffix(p, sliceSuffix) || isScope(p) }

func isScope(p string) bool { return strings.HasSuffix(p, scopeSuffix) }

// Slice returns the path of the slice that, with the systemd driver, corresponds to
// the cgroup p of the cgroupfs driver: "/kit-x/pods" is
// "/kit_x.slice/kit_x-pods.slice". A dash in a slice's name separates levels, so
// dashes become underscores.
func Slice(p string) string {
	var at, name string
	for part := range strings.SplitSeq(strings.Trim(p, "/"), "/") {
		if name != "" {
			name += "-"
		}
		name += strings.ReplaceAll(part, "-", "_")
		at += "/" + name + sliceSuffix
	}
	return at
}

// Scope returns the path of the scope that an OCI runtime creates below a slice if it
// is given "SLICE:prefix:name" as cgroup path.
func Scope(slice, prefix, name string) string {
	return path.Join(slice, prefix+"-"+name+scopeSuffix)
}

// Enter moves a process into the cgroup, which is created if it does not exist. It is
// the only way to create a scope: systemd ends a scope without processes, and does
// not recreate one that has some.
func Enter(p string, pid int) error {
	m, err := ownerOf(p)
	if err == nil {
		err = m.Apply(pid)
	}
	if err != nil {
		return fmt.Errorf("moving process %d into cgroup %q: %w", pid, p, err)
	}
	return nil
}

// ownerOf returns the manager for the cgroup's owner: systemd for a slice or a scope,
// else cgroupfs.
func ownerOf(p string) (cgroups.Manager, error) {
	if !IsUnit(p) {
		return managerOf(p)
	}
	unit, err := unitOf(p)
	if err != nil {
		return nil, err
	}
	if !Systemd() {
		return nil, fault.FailedPrecondition.Errorf("it is a unit of systemd, which is not process 1 here")
	}
	return manager.New(unit)
}

// unitOf returns the library's form of the slice or scope at the path. It refuses a
// path that systemd would not give to a unit of that name.
func unitOf(p string) (*cgroups.Cgroup, error) {
	if err := check(p); err != nil {
		return nil, err
	}
	parent, slice := path.Dir(p), p
	unit := &cgroups.Cgroup{Systemd: true, Name: path.Base(p), Parent: path.Base(parent), Resources: &cgroups.Resources{SkipDevices: true}}
	if parent == "/" {
		unit.Parent = "-" + sliceSuffix
	}
	if name, ok := strings.CutSuffix(unit.Name, scopeSuffix); ok {
		if unit.ScopePrefix, unit.Name, ok = strings.Cut(name, "-"); !ok {
			return nil, fault.Invalid.Wrap(errors.New("the name of a scope is PREFIX-NAME.scope"))
		}
		slice = parent
	}
	if slice == "/" {
		return unit, nil
	}
	if want, err := systemd.ExpandSlice(path.Base(slice)); err != nil || want != slice {
		return nil, fault.Invalid.Errorf("systemd has no slice at %q (but at %q)", slice, want)
	}
	return unit, nil
}

// removeUnit makes systemd remove a scope, or a slice and all slices below it, and
// forget how it ended. Stopping a unit kills its processes, so it first waits for
// them to be gone.
func removeUnit(p string, dirs []string, deadline time.Time) error {
	if !isScope(p) && !Exists(p) {
		return nil
	}
	for delay := time.Millisecond; ; delay *= 2 {
		pids := processes(dirs)
		if len(pids) == 0 {
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("processes %v are in it", pids)
		}
		time.Sleep(min(delay, 100*time.Millisecond))
	}
	m, err := ownerOf(p)
	if err != nil {
		return err
	}
	return m.Destroy()
}
