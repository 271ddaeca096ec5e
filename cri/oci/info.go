package oci

import (
	"context"
	"path/filepath"
	"time"

	"github.com/nodekit-project/nodekit/cri"
)

// runtimeInfo describes the configuration of the runtime.
func (r *Runtime) runtimeInfo(context.Context) map[string]any {
	return map[string]any{
		"handlers": r.Handlers(), "stateDir": r.cfg.StateDir, "runDir": r.cfg.RunDir,
		"cgroupParent": r.cfg.CgroupParent, "systemdCgroups": r.cfg.Systemd, "cdiDirs": r.cfg.CDIDirs, "keeper": r.cfg.Keeper,
		"blockIOClasses": r.classes.blockIO.Names(), "rdtClasses": r.classes.rdt.Names(),
		"selinux": r.labels.Mode(),
	}
}

// sandboxInfo says where the parts of the sandbox are, for troubleshooting. It has a pid
// only if the containers share a PID namespace.
func (r *Runtime) sandboxInfo(ctx context.Context, s *cri.Sandbox) map[string]any {
	parent, _ := r.parentCgroup(s)
	info := map[string]any{"runDir": r.sandboxDir(s.ID), "cgroup": parent, "pid": r.pidNow(ctx, pauseID(s.ID))}
	if e, err := r.engineFor(s); err == nil {
		info["ociRuntime"] = e.path
	}
	for _, name := range []string{"net", "ipc", "uts", "user"} {
		if at := filepath.Join(r.sandboxDir(s.ID), name); pinned(at) {
			info[name+"Namespace"] = at
		}
	}
	return info
}

// containerInfo includes the OCI spec of the container: see readWholeSpec.
func (r *Runtime) containerInfo(ctx context.Context, c *cri.Container) map[string]any {
	info := map[string]any{"pid": r.pidNow(ctx, c.ID), "cgroup": r.cgroupOf(c), "bundle": r.bundleOf(c)}
	if e, _, err := r.engineOf(c); err == nil {
		info["ociRuntime"] = e.path
	}
	if doc, err := readWholeSpec(r.bundleOf(c)); err == nil {
		info["rootfs"], info["runtimeSpec"] = doc.Root.Path, doc
	}
	return info
}

// pidNow returns the process id of the container that the keeper runs under this id, 0 if
// there is none. It does not wait for a keeper that does not respond.
func (r *Runtime) pidNow(ctx context.Context, id string) int {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	statuses, err := r.statuses(ctx)
	if err != nil {
		return 0
	}
	return statuses[id].PID
}

func seconds(d time.Duration) uint64 { return uint64(d / time.Second) }
