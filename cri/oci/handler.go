package oci

import (
	"context"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/mount"
)

// chooseEngines finds the OCI runtime of every RuntimeClass handler; the default one has
// the empty name. If a handler's runtime is missing or does not work on this machine,
// that is an error now, not when the first Pod asks for it.
func chooseEngines(ctx context.Context, c *Config, root string) (map[string]engine, error) {
	first, err := chooseEngine(ctx, c, root)
	if err != nil {
		return nil, err
	}
	all := map[string]engine{"": first}
	for _, name := range slices.Sorted(maps.Keys(c.Handlers)) {
		path, err := exec.LookPath(c.Handlers[name])
		switch {
		case name == "":
			return nil, fault.Invalid.Errorf("a RuntimeClass handler has no name")
		case err != nil:
			return nil, fault.FailedPrecondition.Errorf("the OCI runtime of handler %q: %w", name, err)
		}
		e := first
		if path != first.path {
			if e, err = (engine{path: path, root: root}).try(ctx, c); err != nil {
				return nil, fault.FailedPrecondition.Errorf("the OCI runtime of handler %q does not work on this machine: %w", name, err)
			}
		}
		c.Logger.Info("oci runtime of a handler", "handler", name, "path", path)
		all[name] = e
	}
	return all, nil
}

// describeHandlers says what each handler can do on this machine.
func describeHandlers(c *Config, engines map[string]engine) []cri.Handler {
	rro := recursiveReadOnly(filepath.Join(c.RunDir, probeDir)) == nil
	var list []cri.Handler
	for _, name := range slices.Sorted(maps.Keys(engines)) {
		list = append(list, cri.Handler{Name: name, RecursiveReadOnlyMounts: rro, UserNamespaces: engines[name].users})
	}
	return list
}

// probeDir is the directory for probes, one in the state and one in the run directory.
const probeDir = "probe"

// cleanProbes removes what probes left, even those that a crash interrupted.
func (c *Config) cleanProbes() error {
	errs := []error{mount.DetachTree(c.RunDir + "/" + probeDir), mount.DetachTree(c.StateDir + "/" + probeDir)}
	bundles, err := filepath.Glob(filepath.Join(c.RunDir, rootsDir, "probe-*"))
	for _, dir := range append(bundles, filepath.Join(c.RunDir, probeDir), filepath.Join(c.StateDir, probeDir)) {
		errs = append(errs, mount.RemoveAll(dir))
	}
	return errors.Join(append(errs, err)...)
}

// recursiveReadOnly tests whether the kernel can make whole mount trees read-only at once
// (Linux 5.12); that does not depend on the OCI runtime.
func recursiveReadOnly(at string) error {
	if err := os.Mkdir(at, 0o700); err != nil {
		return err
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, at, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err == nil {
		err = errors.Join(unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}), unix.Close(fd))
	}
	return errors.Join(err, os.Remove(at))
}

// probeUsers tests a container in a user namespace of its own, and whether the
// containers' file system supports ID-mapped mounts.
func (e engine) probeUsers(ctx context.Context, c *Config) (err error) {
	dir, shown := filepath.Join(c.RunDir, probeDir), filepath.Join(c.StateDir, probeDir)
	ids := []*runtimeapi.IDMapping{{HostId: 1 << 16, Length: 1 << 16}}
	u := &ownUsers{UserNamespace: &runtimeapi.UserNamespace{Uids: ids, Gids: ids}, dir: dir}
	defer func() { err = errors.Join(err, c.cleanProbes()) }()
	if err := errors.Join(os.Mkdir(dir, 0o700), os.Mkdir(shown, 0o700)); err != nil {
		return err
	}
	if err := u.pin(c.Keeper, 0); err != nil {
		return err
	}
	owners, err := os.Open(u.path())
	if err != nil {
		return err
	}
	defer owners.Close()
	if err := mount.Bind(shown, shown, &mount.BindOptions{Owners: owners}); err != nil {
		return err
	}
	return e.probe(ctx, c, u)
}

// engineFor returns the OCI runtime of the sandbox's handler.
func (r *Runtime) engineFor(s *cri.Sandbox) (engine, error) {
	e, ok := r.engines[s.Handler]
	if !ok {
		return e, fault.FailedPrecondition.Errorf("the sandbox has the handler %q, which this runtime has no more", s.Handler)
	}
	return e, nil
}

// Handlers returns the path of the OCI runtime of every RuntimeClass handler.
func (r *Runtime) Handlers() map[string]string {
	paths := map[string]string{}
	for name, e := range r.engines {
		paths[name] = e.path
	}
	return paths
}
