package crisuite

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/cgroup"
	"github.com/nodekit-project/nodekit/internal/xattr"
)

// bindMount creates a bind mount.
func bindMount(from, to string) error { return unix.Mount(from, to, "", unix.MS_BIND, "") }

// shareMount makes a directory a shared mount of its own.
func shareMount(dir string) error {
	if err := bindMount(dir, dir); err != nil {
		return err
	}
	return unix.Mount("", dir, "", unix.MS_SHARED, "")
}

// fileLabel returns a file's SELinux label.
func fileLabel(path string) (string, error) {
	label, err := xattr.GetAt(path, "security.selinux")
	return string(label), err
}

// characterDevice returns a device's number as podtool prints it.
func characterDevice(path string) (string, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return "", &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFCHR {
		return "", fmt.Errorf("%s is no character device", path)
	}
	return fmt.Sprintf("character %d:%d\n", unix.Major(st.Rdev), unix.Minor(st.Rdev)), nil
}

// hybrid reports whether the unified hierarchy is one of several.
func hybrid() bool { return cgroup.Version() == 1 }

// hugepageSizes returns those that this machine's cgroups can limit, as the CRI names them.
func hugepageSizes() []string {
	for _, file := range []string{"/sys/fs/cgroup/hugetlb/cgroup.procs", "/sys/fs/cgroup/cgroup.controllers"} {
		if data, err := os.ReadFile(file); err == nil && (cgroup.Version() == 1 || strings.Contains(string(data), "hugetlb")) {
			return machineHugepages()
		}
	}
	return nil
}

// machineHugepages returns the sizes that this machine has, as the CRI names them.
func machineHugepages() []string { return cgroup.HugepageSizes() }

// limitsSwap reports whether cgroups of this machine can be limited to an amount of swap.
// On v2 the root cgroup has no limits, so one below it must exist.
func limitsSwap() bool {
	for _, file := range []string{"/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes", "/sys/fs/cgroup/*/memory.swap.max"} {
		if found, err := filepath.Glob(file); err == nil && len(found) > 0 {
			return true
		}
	}
	return false
}

func makeCgroup(path string) error { return cgroup.Create(path) }

func removeCgroup(path string) error { return cgroup.Remove(path) }
