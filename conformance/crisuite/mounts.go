package crisuite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/conformance"
)

const pathSentence = "If the image field below is nil and the host path doesn't exist, then runtimes should report an error."

func mountRules() []rule {
	return []rule{
		must("CRI-MOUNT-001", "mounts a directory and a file of the host",
			"Mount", "Path of the mount on the host.", checkMounts, Isolation),
		must("CRI-MOUNT-002", "mounts read-only what shall be",
			"Mount", "If set, the mount is read-only.", checkReadonlyMount, Isolation),
		should("CRI-MOUNT-003", "refuses a mount of what is not there, and makes no directory for it",
			"Mount", pathSentence, checkMountAbsent, Isolation),
		should("CRI-MOUNT-004", "mounts what a symbolic link leads to",
			"Mount", "If the hostpath is a symbolic link, runtimes should follow the symlink and mount the real destination to container.", checkMountLink, Isolation),
		must("CRI-MOUNT-005", "keeps mounts of the host from a private mount",
			"MountPropagation", "No mount propagation (\"rprivate\" in Linux terminology).", propagates(runtimeapi.MountPropagation_PROPAGATION_PRIVATE, false), Isolation, Propagation),
		must("CRI-MOUNT-006", "propagates mounts of the host into the container",
			"MountPropagation", "Mounts get propagated from the host to the container (\"rslave\" in Linux).", propagates(runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER, true), Isolation, Propagation),
		must("CRI-MOUNT-007", "propagates mounts of the container to the host",
			"MountPropagation", "Mounts get propagated from the host to the container and from the container to the host (\"rshared\" in Linux).", checkBidirectional, Isolation, Propagation),
		must("CRI-MOUNT-008", "makes a mount read-only with all below it, if it says that it can",
			"Mount", "If set to true, the mount is made recursive read-only.", checkRecursiveReadonly, Isolation),
		must("CRI-MOUNT-009", "refuses a mount that is recursive read-only and not read-only",
			"Mount", "when set to true, readonly must be explicitly set to true, and propagation must be PRIVATE (0).", checkBadRecursive, Isolation),
		relied("CRI-MOUNT-010", "mounts the parent before the child, whatever their order in the config",
			"volumes", "A Pod may mount volumes below each other in any order.", checkMountOrder, Isolation),
		relied("CRI-MOUNT-011", "reports a container's mounts",
			"volume reconstruction", "ContainerStatus has the mounts of the config.", checkMountStatus, Isolation),
		must("CRI-MOUNT-016", "reports how a container's mounts propagate",
			"ContainerStatus", "Mounts for the container.", checkPropagationStatus, Isolation, Propagation),
		must("CRI-MOUNT-012", "mounts an image, for reading",
			"Mount", "All image mounts are per feature definition readonly.", checkImageVolume, Isolation, Pull, ImageVolumes),
		must("CRI-MOUNT-013", "mounts a part of an image",
			"Mount", "Specific image sub path to be used from inside the image instead of its root, only necessary if the above image field is set. If the sub path is not empty and does not exist in the image, then runtimes should fail and return an error.", checkSubPath, Isolation, Pull, ImageVolumes),
		must("CRI-MOUNT-014", "applies mount options",
			"Mount", "mount_options specifies additional bind mount options (e.g., noexec, nodev, nosuid) that the runtime must apply when mounting this volume into the container.", checkMountOptions, Isolation, MountOptions),
	}
}

// hostDir creates a directory with a file in it.
func (s *subject) hostDir(name string) (string, error) {
	dir := filepath.Join(s.in.TempDir, name)
	err := os.MkdirAll(filepath.Join(dir, "sub"), 0o777)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "name"), []byte("host "+name+"\n"), 0o666)
	}
	return dir, err
}

func mounts(all ...*runtimeapi.Mount) edit {
	return func(c *runtimeapi.ContainerConfig) { c.Mounts = append(c.Mounts, all...) }
}

func checkMounts(ctx context.Context, s *subject) error {
	dir, err := s.hostDir("volume")
	if err != nil {
		return err
	}
	out, err := s.prints(ctx, "do", do("cat /mnt/name", "cat /a/file", "write /mnt/new from-below"),
		mounts(&runtimeapi.Mount{HostPath: dir, ContainerPath: "/mnt"}, &runtimeapi.Mount{HostPath: filepath.Join(dir, "name"), ContainerPath: "/a/file"}))
	if err != nil {
		return err
	}
	if out != "host volume\nhost volume\n" {
		return fmt.Errorf("the container reads %q from its mounts", out)
	}
	written, err := os.ReadFile(filepath.Join(dir, "new"))
	if err == nil && string(written) != "from-below\n" {
		return fmt.Errorf("on the host the file has %q", written)
	}
	return err
}

func checkReadonlyMount(ctx context.Context, s *subject) error {
	dir, err := s.hostDir("volume")
	if err != nil {
		return err
	}
	_, err = s.prints(ctx, "write /mnt/new x", mounts(&runtimeapi.Mount{HostPath: dir, ContainerPath: "/mnt", Readonly: true}))
	if err := refused("writing to a read-only mount", err, "read-only file system"); err != nil {
		return err
	}
	_, err = s.prints(ctx, "write /a/file x", mounts(&runtimeapi.Mount{HostPath: filepath.Join(dir, "name"), ContainerPath: "/a/file", Readonly: true}))
	return refused("writing to a file that is a read-only mount", err, "read-only file system")
}

func checkMountAbsent(ctx context.Context, s *subject) error {
	absent := filepath.Join(s.in.TempDir, "absent")
	if err := s.runsNot(ctx, "with a mount of what is not there", mounts(&runtimeapi.Mount{HostPath: absent, ContainerPath: "/mnt"})); err != nil {
		return err
	}
	if _, err := os.Stat(absent); err == nil {
		return errors.New("the runtime made the directory that was not there")
	}
	return nil
}

func checkMountLink(ctx context.Context, s *subject) error {
	dir, err := s.hostDir("volume")
	if err != nil {
		return err
	}
	link := filepath.Join(s.in.TempDir, "link")
	if err := os.Symlink(dir, link); err != nil {
		return err
	}
	out, err := s.prints(ctx, "cat /mnt/name", mounts(&runtimeapi.Mount{HostPath: link, ContainerPath: "/mnt"}))
	if err == nil && out != "host volume\n" {
		return fmt.Errorf("behind a symbolic link the container reads %q", out)
	}
	return err
}

// propagates returns a check that a later mount on the host is seen, or is not.
func propagates(kind runtimeapi.MountPropagation, want bool) look {
	return func(ctx context.Context, s *subject) error {
		dir, err := s.sharedDir()
		if err != nil {
			return err
		}
		other, err := s.hostDir("other")
		if err != nil {
			return err
		}
		b, err := s.box(ctx, "do", ending, do("echo ready", "wait-file --timeout 5s /mnt/go", "ls /mnt/sub"),
			mounts(&runtimeapi.Mount{HostPath: dir, ContainerPath: "/mnt", Propagation: kind}))
		if err != nil {
			return err
		}
		if err := b.says(ctx, "ready"); err != nil {
			return err
		}
		if err := bindMount(other, filepath.Join(dir, "sub")); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o644); err != nil {
			return err
		}
		if _, err := b.exited(ctx); err != nil {
			return err
		}
		out, _, err := b.output(ctx)
		if err == nil && strings.Contains(out, " name\n") != want {
			return fmt.Errorf("with %v a mount that the host makes later is seen in the container: %v, want %v", kind, !want, want)
		}
		return err
	}
}

// sharedDir creates a directory that is a shared mount of its own; it is detached when
// the rule ends.
func (s *subject) sharedDir() (string, error) {
	dir, err := s.hostDir("shared")
	if err != nil {
		return "", err
	}
	s.detach = append(s.detach, dir)
	return dir, shareMount(dir)
}

func checkBidirectional(ctx context.Context, s *subject) error {
	dir, err := s.sharedDir()
	if err != nil {
		return err
	}
	p, err := s.privilegedPod(ctx)
	if err != nil {
		return err
	}
	b, err := p.start(ctx, "do", do("bind /data /mnt/sub", "echo bound", forever), asPrivileged,
		mounts(&runtimeapi.Mount{HostPath: dir, ContainerPath: "/mnt", Propagation: runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL}))
	if err != nil {
		return err
	}
	if err := b.says(ctx, "bound"); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(dir, "sub", "file")); err != nil {
		return fmt.Errorf("a mount that the container made is not seen on the host: %w", err)
	}
	return nil
}

func checkRecursiveReadonly(ctx context.Context, s *subject) error {
	if !s.handles(func(f *runtimeapi.RuntimeHandlerFeatures) bool { return f.GetRecursiveReadOnlyMounts() }) {
		return conformance.NotApplicable("the runtime's status says nothing of recursive read-only mounts")
	}
	dir, err := s.sharedDir()
	if err != nil {
		return err
	}
	other, err := s.hostDir("other")
	if err != nil {
		return err
	}
	if err := bindMount(other, filepath.Join(dir, "sub")); err != nil {
		return err
	}
	_, err = s.prints(ctx, "write /mnt/sub/new x",
		mounts(&runtimeapi.Mount{HostPath: dir, ContainerPath: "/mnt", Readonly: true, RecursiveReadOnly: true}))
	return refused("writing to a mount below a recursive read-only one", err, "read-only file system")
}

func checkBadRecursive(ctx context.Context, s *subject) error {
	if !s.handles(func(f *runtimeapi.RuntimeHandlerFeatures) bool { return f.GetRecursiveReadOnlyMounts() }) {
		return conformance.NotApplicable("the runtime's status says nothing of recursive read-only mounts")
	}
	dir, err := s.hostDir("volume")
	if err != nil {
		return err
	}
	for _, c := range []struct {
		what string
		m    *runtimeapi.Mount
	}{
		{"and not read-only", &runtimeapi.Mount{RecursiveReadOnly: true}},
		{"and propagates", &runtimeapi.Mount{RecursiveReadOnly: true, Readonly: true, Propagation: runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER}},
	} {
		c.m.HostPath, c.m.ContainerPath = dir, "/mnt"
		if err := s.runsNot(ctx, "with a mount that is recursive read-only "+c.what, mounts(c.m)); err != nil {
			return err
		}
	}
	return nil
}

func checkMountOrder(ctx context.Context, s *subject) error {
	outer, err := s.hostDir("outer")
	if err != nil {
		return err
	}
	inner, err := s.hostDir("inner")
	if err != nil {
		return err
	}
	out, err := s.prints(ctx, "do", do("cat /mnt/name", "cat /mnt/sub/name"),
		mounts(&runtimeapi.Mount{HostPath: inner, ContainerPath: "/mnt/sub"}, &runtimeapi.Mount{HostPath: outer, ContainerPath: "/mnt"}))
	if err == nil && out != "host outer\nhost inner\n" {
		return fmt.Errorf("of a mount and one below it, which is first in the config, the container reads %q", out)
	}
	return err
}

func checkMountStatus(ctx context.Context, s *subject) error {
	dir, err := s.hostDir("volume")
	if err != nil {
		return err
	}
	want := []*runtimeapi.Mount{
		{HostPath: dir, ContainerPath: "/mnt", Readonly: true},
		{HostPath: filepath.Join(dir, "sub"), ContainerPath: "/open"},
	}
	if s.handles(func(f *runtimeapi.RuntimeHandlerFeatures) bool { return f.GetRecursiveReadOnlyMounts() }) {
		want = append(want, &runtimeapi.Mount{HostPath: dir, ContainerPath: "/recursive", Readonly: true, RecursiveReadOnly: true})
	}
	b, err := s.box(ctx, forever, mounts(want...))
	if err != nil {
		return err
	}
	return b.reports(ctx, want)
}

// reports returns nil when the container's status has the mounts, beside any others.
func (b *box) reports(ctx context.Context, want []*runtimeapi.Mount) error {
	st, err := b.status(ctx)
	if err != nil {
		return err
	}
	for _, w := range want {
		if !slices.ContainsFunc(st.GetMounts(), func(m *runtimeapi.Mount) bool {
			return m.GetContainerPath() == w.GetContainerPath() && m.GetHostPath() == w.GetHostPath() && m.GetPropagation() == w.GetPropagation() &&
				m.GetReadonly() == w.GetReadonly() && m.GetRecursiveReadOnly() == w.GetRecursiveReadOnly()
		}) {
			return fmt.Errorf("ContainerStatus has the mounts %v, want %v", st.GetMounts(), w)
		}
	}
	return nil
}

func checkPropagationStatus(ctx context.Context, s *subject) error {
	dir, err := s.sharedDir()
	if err != nil {
		return err
	}
	p, err := s.privilegedPod(ctx)
	if err != nil {
		return err
	}
	want := []*runtimeapi.Mount{
		{HostPath: dir, ContainerPath: "/none", Propagation: runtimeapi.MountPropagation_PROPAGATION_PRIVATE},
		{HostPath: dir, ContainerPath: "/from", Propagation: runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER},
		{HostPath: dir, ContainerPath: "/both", Propagation: runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL},
	}
	b, err := p.start(ctx, forever, asPrivileged, mounts(want...))
	if err != nil {
		return err
	}
	return b.reports(ctx, want)
}

func (s *subject) imageMount(ctx context.Context, sub string) (edit, error) {
	ref, err := s.present(ctx, userImage)
	if err != nil {
		return nil, err
	}
	im, err := s.image(ctx, ref)
	if err != nil {
		return nil, err
	}
	return mounts(&runtimeapi.Mount{Image: &runtimeapi.ImageSpec{Image: im.GetId()}, ContainerPath: "/mnt", ImageSubPath: sub, Readonly: true}), nil
}

func checkImageVolume(ctx context.Context, s *subject) error {
	m, err := s.imageMount(ctx, "")
	if err != nil {
		return err
	}
	out, err := s.prints(ctx, "cat /mnt/data/file", m)
	if err != nil {
		return err
	}
	if out != "from the image\n" {
		return fmt.Errorf("of a mounted image the container reads %q", out)
	}
	_, err = s.prints(ctx, "write /mnt/data/new x", m)
	return refused("writing to a mounted image", err, "read-only file system")
}

func checkSubPath(ctx context.Context, s *subject) error {
	m, err := s.imageMount(ctx, "data/sub")
	if err != nil {
		return err
	}
	out, err := s.prints(ctx, "cat /mnt/file", m)
	if err != nil {
		return err
	}
	if out != "from below\n" {
		return fmt.Errorf("of a part of a mounted image the container reads %q", out)
	}
	if m, err = s.imageMount(ctx, "no/such/path"); err != nil {
		return err
	}
	return s.runsNot(ctx, "with a mount of a part that the image does not have", m)
}

func checkMountOptions(ctx context.Context, s *subject) error {
	if !s.status.GetFeatures().GetMountOptions() {
		return conformance.NotApplicable("the runtime's status says nothing of mount_options")
	}
	dir, err := s.hostDir("volume")
	if err != nil {
		return err
	}
	out, err := s.prints(ctx, "cat /proc/self/mountinfo",
		mounts(&runtimeapi.Mount{HostPath: dir, ContainerPath: "/mnt", MountOptions: []string{"noexec", "nosuid", "nodev"}}))
	if err != nil {
		return err
	}
	for line := range strings.Lines(out) {
		const mountPoint, options = 4, 5
		if f := strings.Fields(line); len(f) > options && f[mountPoint] == "/mnt" {
			for _, o := range []string{"noexec", "nosuid", "nodev"} {
				if !strings.Contains(","+f[options]+",", ","+o+",") {
					return fmt.Errorf("the mount has the options %q, want %s", f[options], o)
				}
			}
			return nil
		}
	}
	return errors.New("the container has no mount at /mnt")
}
