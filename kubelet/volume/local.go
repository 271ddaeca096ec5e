package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	v1 "k8s.io/api/core/v1"

	"github.com/nodekit-project/nodekit/internal/mount"
	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// mountEmptyDir creates a directory that everybody may use, on disk or in memory.
func (m *Manager) mountEmptyDir(p *v1.Pod, v *v1.Volume) (pod.Volume, error) {
	dir := m.root.volume(p.UID, pluginEmptyDir, v.Name)
	limit := v.EmptyDir.SizeLimit
	switch v.EmptyDir.Medium {
	case v1.StorageMediumDefault:
		if limit != nil && !limit.IsZero() {
			m.log.Warn("the sizeLimit of an emptyDir on disk is not enforced", "pod", p.Name, "volume", v.Name)
		}
		return pod.Volume{HostPath: dir, Relabel: true}, makeOpen(dir, p)
	case v1.StorageMediumMemory:
		o := &mount.TmpfsOptions{Mode: 0o777}
		if limit != nil {
			o.Size = limit.Value()
		}
		if group := fsGroup(p); group >= 0 {
			o.Mode, o.GID = 0o2777, group
		}
		return pod.Volume{HostPath: dir, Relabel: true}, tmpfs(dir, o)
	}
	return pod.Volume{}, refuse("medium %q of an emptyDir is not supported; use \"\" or Memory", v.EmptyDir.Medium)
}

// makeOpen creates a directory that everybody may use. It appears with its mode and
// group: once it exists it belongs to the Pod, which may have changed both.
func makeOpen(dir string, p *v1.Pod) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	draft := filepath.Join(filepath.Dir(dir), ".new-"+filepath.Base(dir))
	if err := os.MkdirAll(draft, 0o750); err != nil {
		return err
	}
	if err := os.Chmod(draft, 0o777); err != nil {
		return err
	}
	if group := fsGroup(p); group >= 0 {
		if err := ownOne(draft, group); err != nil {
			return err
		}
	}
	return os.Rename(draft, dir)
}

// tmpfs creates dir and mounts a tmpfs there, unless one is mounted already.
func tmpfs(dir string, o *mount.TmpfsOptions) error {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	on, err := mount.IsMountPoint(dir)
	if err != nil || on {
		return err
	}
	return mount.Tmpfs(dir, o)
}

// mountHostPath checks that the path is on the host as the Pod requires, and creates it
// for the two types that ask for it.
func mountHostPath(h *v1.HostPathVolumeSource) (pod.Volume, error) {
	kind := v1.HostPathUnset
	if h.Type != nil {
		kind = *h.Type
	}
	switch kind {
	case v1.HostPathDirectoryOrCreate:
		if _, err := os.Stat(h.Path); errors.Is(err, fs.ErrNotExist) {
			if err := os.MkdirAll(h.Path, 0o755); err != nil {
				return pod.Volume{}, err
			}
		}
		kind = v1.HostPathDirectory
	case v1.HostPathFileOrCreate:
		f, err := os.OpenFile(h.Path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o644)
		if err == nil {
			err = f.Close()
		}
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return pod.Volume{}, err
		}
		kind = v1.HostPathFile
	}
	if kind == v1.HostPathUnset {
		return pod.Volume{HostPath: h.Path}, nil
	}
	matches, known := hostPathKinds[kind]
	if !known {
		return pod.Volume{}, refuse("hostPath type %q is unknown", kind)
	}
	fi, err := os.Stat(h.Path)
	if err != nil {
		return pod.Volume{}, wait(err, "a %s at the host path %q", kind, h.Path)
	}
	if !matches(fi.Mode()) {
		return pod.Volume{}, wait(fmt.Errorf("it is a %s", fi.Mode().Type()), "a %s at the host path %q", kind, h.Path)
	}
	return pod.Volume{HostPath: h.Path}, nil
}

var hostPathKinds = map[v1.HostPathType]func(fs.FileMode) bool{
	v1.HostPathDirectory: fs.FileMode.IsDir,
	v1.HostPathFile:      fs.FileMode.IsRegular,
	v1.HostPathSocket:    func(m fs.FileMode) bool { return m&fs.ModeSocket != 0 },
	v1.HostPathCharDev:   func(m fs.FileMode) bool { return m&fs.ModeCharDevice != 0 },
	v1.HostPathBlockDev:  func(m fs.FileMode) bool { return m&fs.ModeDevice != 0 && m&fs.ModeCharDevice == 0 },
}

// removeTree unmounts everything at dir and below, and removes the rest.
func removeTree(dir string) error {
	if err := mount.DetachTree(dir); err != nil {
		return err
	}
	return mount.RemoveAll(dir)
}
