package oci

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri"
	"github.com/nodekit-project/nodekit/cri/oci/image"
	"github.com/nodekit-project/nodekit/cri/oci/spec"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/mount"
)

// mountsDir is where those of a container's mounts are prepared that an OCI runtime, or
// some of them, could not make from a host path. They exist until the container has its
// own copies of them.
func (r *Runtime) mountsDir(c *cri.Container) string {
	return filepath.Join(r.sandboxDir(c.Sandbox.ID), "mounts-"+c.ID)
}

// volumesDir is where the image store keeps images that are mounted as volumes.
func volumesDir(c *cri.Container) string { return filepath.Join(c.Dir, "volumes") }

// prepareMounts makes these mounts and returns their paths, by index of the mount.
func (r *Runtime) prepareMounts(ctx context.Context, c *cri.Container, u *ownUsers, label string) (map[int]string, error) {
	sources := map[int]string{}
	for i, m := range c.Config.GetMounts() {
		if !spec.NeedsSource(m) {
			continue
		}
		var err error
		if m.GetImage().GetImage() != "" {
			sources[i], err = r.mountImage(ctx, filepath.Join(volumesDir(c), strconv.Itoa(i)), m, u.view(label))
		} else {
			sources[i], err = r.mountTree(filepath.Join(r.mountsDir(c), strconv.Itoa(i)), m, u)
		}
		if err != nil {
			return nil, err
		}
	}
	return sources, nil
}

// imageVolume is the error by which a kubelet recognizes that an image volume failed.
const imageVolume = "ImageVolumeMountFailed"

// mountImage mounts an image read-only below dir and returns the path of the requested
// part. Symbolic links in the image are resolved within it.
func (r *Runtime) mountImage(ctx context.Context, dir string, m *runtimeapi.Mount, v image.View) (string, error) {
	v.ReadOnly = true
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return "", err
	}
	root, err := r.cfg.Images.Mount(ctx, m.GetImage().GetImage(), dir, v)
	if err != nil {
		return "", fault.Of(err).Errorf("%s: mounting at %q: %w", imageVolume, m.GetContainerPath(), err)
	}
	if m.GetImageSubPath() == "" {
		return root.Path, nil
	}
	at, err := inside(root.Path, m.GetImageSubPath())
	if err != nil {
		return "", fault.Invalid.Errorf("%s: image %q has no %q: %w", imageVolume, m.GetImage().GetImage(), m.GetImageSubPath(), err)
	}
	return at, nil
}

// inside resolves a path below root.
func inside(root, path string) (string, error) {
	dir, err := os.Open(root)
	if err != nil {
		return "", err
	}
	defer dir.Close()
	f, err := openInside(dir, path, unix.O_PATH)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
}

// mountTree mounts the mount's host path, its symbolic links resolved, at the path at,
// with the ID mapping and the access that the mount requests.
func (r *Runtime) mountTree(at string, m *runtimeapi.Mount, u *ownUsers) (string, error) {
	fail := func(err error) (string, error) {
		return "", fault.Of(err).Errorf("mounting %q at %q: %w", m.GetHostPath(), m.GetContainerPath(), err)
	}
	source, err := filepath.EvalSymlinks(m.GetHostPath())
	if err != nil {
		return fail(fault.Invalid.Wrap(err))
	}
	if err := makeTarget(source, at); err != nil {
		return fail(err)
	}
	o := &mount.BindOptions{Recursive: true, ReadOnly: m.GetRecursiveReadOnly()}
	if len(m.GetUidMappings())+len(m.GetGidMappings()) == 0 {
		if err := mount.Bind(source, at, o); err != nil {
			return fail(err)
		}
		return at, nil
	}
	err = r.ownersOf(m, u, func(owners *os.File) error {
		o.Owners = owners
		return mount.Bind(source, at, o)
	})
	if err != nil {
		return fail(err)
	}
	return at, nil
}

// makeTarget creates the mount point for source: a directory or a file.
func makeTarget(source, at string) error {
	fi, err := os.Stat(source)
	if err != nil {
		return err
	}
	if fi.IsDir() {
		return os.MkdirAll(at, 0o700)
	}
	if err := os.MkdirAll(filepath.Dir(at), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(at, os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

// ownersOf calls f with a user namespace that has the ID mappings of the mount: nearly
// always the sandbox's own.
func (r *Runtime) ownersOf(m *runtimeapi.Mount, u *ownUsers, f func(*os.File) error) error {
	equal := func(a, b *runtimeapi.IDMapping) bool { return proto.Equal(a, b) }
	if u != nil && slices.EqualFunc(m.GetUidMappings(), u.GetUids(), equal) && slices.EqualFunc(m.GetGidMappings(), u.GetGids(), equal) {
		return withFile(u.path(), f)
	}
	if len(m.GetUidMappings()) == 0 || len(m.GetGidMappings()) == 0 {
		return fault.Invalid.Errorf("an id-mapped mount maps users and groups, and one of them is missing")
	}
	other := &ownUsers{UserNamespace: &runtimeapi.UserNamespace{Uids: m.GetUidMappings(), Gids: m.GetGidMappings()}}
	return other.hold(r.cfg.Keeper, 0, func(pid int) error { return withFile(fmt.Sprintf("/proc/%d/ns/user", pid), f) })
}

func withFile(path string, f func(*os.File) error) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	return f(file)
}

// releaseTrees unmounts what is needed only until the container has started. While these
// mounts exist, a directory of the host path cannot be removed if something is mounted on
// it.
func (r *Runtime) releaseTrees(c *cri.Container) error {
	at := r.mountsDir(c)
	if _, err := os.Lstat(at); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err := mount.DetachTree(at); err != nil {
		return err
	}
	return mount.RemoveAll(at)
}

// releaseMounts undoes prepareMounts, whether all of it was done or a part.
func (r *Runtime) releaseMounts(c *cri.Container) error {
	if err := r.releaseTrees(c); err != nil {
		return err
	}
	volumes, err := os.ReadDir(volumesDir(c))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, v := range volumes {
		if err := r.cfg.Images.ReleaseRootfs(filepath.Join(volumesDir(c), v.Name())); err != nil {
			return err
		}
	}
	return os.RemoveAll(volumesDir(c))
}
