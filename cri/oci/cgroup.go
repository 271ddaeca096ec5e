package oci

import (
	"errors"
	"path/filepath"
	"strings"

	"github.com/nodekit-project/nodekit/cri"
	"github.com/nodekit-project/nodekit/internal/cgroup"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// scopePrefix begins the names of the containers' systemd scopes.
const scopePrefix = "nodekit"

// cgroupIn returns the cgroup of a container below its parent. The parent's name tells
// the driver: below a slice, a container gets a scope.
func cgroupIn(parent, id string) string {
	if cgroup.IsUnit(parent) {
		return cgroup.Scope(parent, scopePrefix, id)
	}
	return filepath.Join(parent, id)
}

// specPath returns a container's cgroup in the form that an OCI runtime expects: a path,
// or "SLICE:prefix:name" for a scope.
func specPath(cg string) string {
	if !cgroup.IsUnit(cg) {
		return cg
	}
	prefix, name, _ := strings.Cut(strings.TrimSuffix(filepath.Base(cg), ".scope"), "-")
	return strings.Join([]string{filepath.Base(filepath.Dir(cg)), prefix, name}, ":")
}

// cgroupOf returns the container's cgroup.
func (r *Runtime) cgroupOf(c *cri.Container) string {
	parent, _ := r.parentCgroup(c.Sandbox)
	return cgroupIn(parent, c.ID)
}

// parentCgroup returns the parent cgroup of the sandbox's containers: the one that the
// Pod names, or the sandbox's own, which may have been created under the other cgroup
// driver.
func (r *Runtime) parentCgroup(s *cri.Sandbox) (path string, own bool) {
	if p := s.Config.GetLinux().GetCgroupParent(); p != "" {
		return filepath.Clean("/" + p), false
	}
	r.mu.Lock()
	known := r.parents[s.ID]
	r.mu.Unlock()
	if known != "" {
		return known, true
	}
	p, other := r.cfg.driven(filepath.Join(r.cfg.CgroupParent, "sandbox-"+s.ID))
	if !cgroup.Exists(p) && cgroup.Exists(other) {
		p = other
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sandboxes[s.ID] != nil { // so the entry is deleted with the sandbox
		r.parents[s.ID] = p
	}
	return p, true
}

// checkParent refuses a Pod whose kubelet uses the other cgroup driver.
func (r *Runtime) checkParent(s *cri.Sandbox) error {
	parent, own := r.parentCgroup(s)
	switch slice := cgroup.IsUnit(parent); {
	case own || slice == r.cfg.Systemd:
		return nil
	case slice:
		return fault.Invalid.Errorf("the Pod's cgroup parent %q is a slice, and this runtime has the cgroupfs driver: kubelet and runtime must have the same", parent)
	}
	return fault.Invalid.Errorf("the Pod's cgroup parent %q is no slice, and this runtime has the systemd driver: kubelet and runtime must have the same", parent)
}

// driven returns a path below CgroupParent in the form of the configured driver, and in
// that of the other.
func (c *Config) driven(files string) (path, other string) {
	if c.Systemd {
		return cgroup.Slice(files), files
	}
	return files, cgroup.Slice(files)
}

// pruneCgroups removes the parent cgroup, of either driver, if nothing is in it.
func (c *Config) pruneCgroups() error {
	path, other := c.driven(c.CgroupParent)
	return errors.Join(cgroup.Prune(path), cgroup.Prune(other))
}
