package crisuite

import (
	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/cgroup"
)

// bindMount makes a bind mount.
func bindMount(from, to string) error { return unix.Mount(from, to, "", unix.MS_BIND, "") }

// shareMount makes a directory a shared mount of its own.
func shareMount(dir string) error {
	if err := bindMount(dir, dir); err != nil {
		return err
	}
	return unix.Mount("", dir, "", unix.MS_SHARED, "")
}

// hybrid reports whether the unified hierarchy is one of several.
func hybrid() bool { return cgroup.Version() == 1 }

func makeCgroup(path string) error { return cgroup.Create(path) }

func removeCgroup(path string) error { return cgroup.Remove(path) }
