package oci

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cri"
	"github.com/nodekit-project/nodekit/cri/oci/keeper"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/mount"
)

// An OCI runtime copies the whole mount table for each container that it starts, and crun
// reads it, too: on a node with a hundred Pods, each with five mounts, that was a tenth of
// the processor time of a start. Therefore the sandboxes' mounts are below one that is not
// copied with the host's (MS_UNBINDABLE, mount_namespaces(7)), and the keeper runs the OCI
// runtime in a view of the host's mounts with those of the container's own sandbox
// (keeper.View).
//
// That takes three mounts, which show what would be there without them:
//
//   - the run directory, in a peer group of its own, which the view can leave without
//     leaving that of the host's /run;
//   - the directory of sandboxes, unbindable;
//   - over it the same once more, shared: a service that has a copy of all mounts
//     (unshare(2)) then loses those of a sandbox when they are unmounted here. Otherwise
//     its copies would keep memory, files and namespaces alive.

// keepApart makes these mounts, unless an earlier server has. Where they would hide mounts,
// such as those of sandboxes of an earlier version, or where the kernel refuses them, OCI
// runtimes see all mounts until a server starts without sandboxes.
func (r *Runtime) keepApart() {
	if err := makeApart(r.cfg.RunDir); err != nil {
		r.cfg.Logger.Warn("the mounts of sandboxes stay among the host's, and containers start slower", "err", err)
		return
	}
	r.apart = true
}

func makeApart(run string) error {
	run, err := filepath.EvalSymlinks(run) // cover takes a link for the directory
	if err != nil {
		return err
	}
	sandboxes := filepath.Join(run, sandboxesDir)
	whole, err := wholeStack(sandboxes)
	if err != nil || whole {
		return err
	}
	points, err := mount.Below(run)
	if err != nil {
		return err
	}
	for _, p := range points { // the others are of a server that died while it made them
		if p != run && p != sandboxes {
			return fault.FailedPrecondition.Errorf("%q is mounted already, by an earlier version or by somebody else", p)
		}
	}
	if err := mount.UndoShared(run); err != nil {
		return err
	}
	at, err := mount.At(run)
	if err == nil && at == nil {
		err = cover(run, unix.MS_SHARED)
	}
	if err == nil {
		err = cover(sandboxes, unix.MS_UNBINDABLE, unix.MS_SHARED)
	}
	return err
}

// wholeStack reports whether both mounts of the directory of sandboxes are there, the upper
// one shared. One alone is shared, too, from when it is mounted on a shared mount until it
// becomes unbindable.
func wholeStack(sandboxes string) (bool, error) {
	top, err := mount.At(sandboxes)
	if err != nil || top == nil || !top.Shared {
		return false, err
	}
	table, err := mount.Table()
	return slices.ContainsFunc(table, func(m mount.Mount) bool { return m.ID == top.Parent && m.Point == top.Point }), err
}

// cover mounts dir on itself, once for each propagation type, the last on top. The mounts
// have nothing to do with the peer group of the one that dir is on.
func cover(dir string, types ...uintptr) error {
	var trees []int
	defer func() {
		for _, fd := range trees {
			_ = unix.Close(fd)
		}
	}()
	for range types { // all of them before the first is mounted, which may be unbindable
		fd, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_SYMLINK_NOFOLLOW)
		if err != nil {
			return fmt.Errorf("copying the mount of %q: %w", dir, err)
		}
		trees = append(trees, fd)
		if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Propagation: unix.MS_PRIVATE}); err != nil {
			return fmt.Errorf("making the mount of %q private: %w", dir, err)
		}
	}
	for i, fd := range trees {
		err := unix.MoveMount(fd, "", unix.AT_FDCWD, dir, unix.MOVE_MOUNT_F_EMPTY_PATH)
		if err == nil {
			err = unix.Mount("", dir, "", types[i], "") // not before: on a shared mount, a mount becomes shared
		}
		if err != nil {
			return fmt.Errorf("mounting %q on itself: %w", dir, err)
		}
	}
	return nil
}

// endApart removes what keepApart, of this server or an earlier one, has made, unless there
// are sandboxes. It does nothing for a server that did not get both directories.
func (r *Runtime) endApart() error {
	if len(r.locks) < 2 {
		return nil
	}
	left, err := os.ReadDir(r.sandboxDir(""))
	if errors.Is(err, os.ErrNotExist) || len(left) > 0 {
		return nil
	}
	if err != nil {
		return err
	}
	r.apart = false
	run, err := filepath.EvalSymlinks(r.cfg.RunDir)
	if err != nil {
		return err
	}
	if err := mount.DetachTree(filepath.Join(run, sandboxesDir)); err != nil {
		return err
	}
	points, err := mount.Below(run)
	if err != nil || slices.ContainsFunc(points, func(p string) bool { return p != run }) { // somebody else's would go with it
		return err
	}
	return mount.UndoShared(run)
}

// viewFor is what an OCI runtime needs to see to start a container of the sandbox. One that
// is given the run directory, or one above it, is that of a CNI plugin, for example, which
// looks for network namespaces: it gets everything, and what is to come if the mount is
// propagated.
func (r *Runtime) viewFor(s *cri.Sandbox, doc *specs.Spec) *keeper.View {
	if !r.apart {
		return nil
	}
	own, paths := r.sandboxDir(s.ID), pathsIn(doc)
	for _, path := range paths {
		if !below(path, own) && !below(path, s.Dir) && reaches(path, r.cfg.RunDir) {
			return nil
		}
	}
	return &keeper.View{Mounts: []string{own}, Above: r.cfg.RunDir, Paths: paths}
}

// reaches reports whether one of two directories is, or is below, the other, also through
// symbolic links.
func reaches(a, b string) bool {
	for _, p := range []*string{&a, &b} {
		if real, err := filepath.EvalSymlinks(*p); err == nil {
			*p = real
		}
	}
	return below(a, b) || below(b, a)
}

// below reports whether path is dir or below it, by their names.
func below(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && filepath.IsLocal(rel)
}

// pathsIn returns what an OCI runtime uses of the host's files: the sources of mounts, and
// the programs of hooks.
func pathsIn(doc *specs.Spec) (paths []string) {
	for _, m := range doc.Mounts {
		if filepath.IsAbs(m.Source) {
			paths = append(paths, m.Source)
		}
	}
	if doc.Hooks == nil {
		return paths
	}
	//nolint:staticcheck // OCI runtimes still run prestart hooks
	for _, hooks := range [][]specs.Hook{doc.Hooks.Prestart, doc.Hooks.CreateRuntime, doc.Hooks.CreateContainer, doc.Hooks.Poststart} {
		for _, h := range hooks {
			paths = append(paths, h.Path)
		}
	}
	return paths
}

// noteView remembers the view for the container's start. The next server does not know it,
// and the OCI runtime then runs among all mounts.
func (r *Runtime) noteView(c *cri.Container, doc *specs.Spec) {
	v := r.viewFor(c.Sandbox, doc)
	r.mu.Lock()
	defer r.mu.Unlock()
	if v != nil {
		r.views[c.ID] = v
	}
}

func (r *Runtime) viewNoted(id string) *keeper.View {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.views[id]
}
