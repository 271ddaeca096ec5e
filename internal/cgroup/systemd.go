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

// Systemd reports whether systemd is process 1, so that slices and scopes can
// be made.
func Systemd() bool { return systemd.IsRunningSystemd() }

// IsUnit reports whether the path is that of a slice or a scope.
func IsUnit(p string) bool { return strings.HasSuffix(p, sliceSuffix) || isScope(p) }

func isScope(p string) bool { return strings.HasSuffix(p, scopeSuffix) }

// Slice returns the path of the slice that stands, with the systemd driver, for
// the cgroup at p with the cgroupfs driver: "/kit-x/pods" is
// "/kit_x.slice/kit_x-pods.slice". A dash in a slice's name is a step down, so
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

// Scope returns the path of the scope that an OCI runtime makes below a slice
// when it is given "SLICE:prefix:name" as cgroup path.
func Scope(slice, prefix, name string) string {
	return path.Join(slice, prefix+"-"+name+scopeSuffix)
}

// Enter moves a process into the cgroup, which is made if it is not there. It
// is the only way to make a scope: systemd ends one that holds no process, and
// does not make a scope anew while it has one.
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

// ownerOf returns the manager of whoever owns the cgroup: systemd for a slice
// or a scope, else the files.
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

// unitOf returns what the library calls the slice or scope at the path. A path
// that systemd would not give to a unit of that name is refused.
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

// removeUnit has systemd take a slice, and all slices below it, or a scope away
// and forget how it ended. Stopping a unit kills what runs in it, so first the
// processes must have gone.
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
