// Package cgroup creates, limits, empties and removes control groups.
//
// A path is relative to the root of the hierarchies and begins with a slash
// ("/nodekit-x/pod123"). On cgroup v2 it is one directory; on v1 and hybrid hosts it
// is one directory in every hierarchy mounted below /sys/fs/cgroup, with cpuset
// filled from the parents. Callers need not know which it is.
//
// The name says who owns a cgroup, as in every CRI runtime: if its last element ends
// in ".slice" or ".scope", it is a systemd unit, and systemd is asked to create,
// limit and remove it (the systemd driver); Slice and Scope return such names. Any
// other cgroup is managed through its files (the cgroupfs driver); on hosts where
// systemd owns the tree it belongs below a delegated parent.
//
// The work is done by github.com/opencontainers/cgroups, which runc also uses; device
// rules are left to the OCI runtime. Functions keep no state except where the
// hierarchies are, and calls for different paths may run concurrently. All functions
// are idempotent and may be repeated by another process after a crash.
package cgroup

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/manager"
	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// Version returns 2 if the host has only the unified hierarchy, else 1 (which
// includes hybrid hosts, where the controllers are on v1).
func Version() int {
	if cgroups.IsCgroup2UnifiedMode() {
		return 2
	}
	return 1
}

// Create creates the cgroup and its missing parents, and on v2 enables every
// available controller in the parents' subtree_control. A slice without systemd is
// fault.FailedPrecondition, and a scope fault.Invalid: see Enter.
func Create(path string) error {
	if isScope(path) {
		return fault.Invalid.Errorf("creating cgroup %q: a scope is made around a process", path)
	}
	m, err := ownerOf(path)
	if err == nil {
		err = m.Apply(-1)
	}
	if dir := devicesDir(m); err == nil && dir != "" {
		err = os.MkdirAll(dir, 0o755)
	}
	if err != nil {
		return fmt.Errorf("creating cgroup %q: %w", path, err)
	}
	return nil
}

// devicesDir returns the directory in v1's devices hierarchy, which the library skips
// because device rules are left to the OCI runtime.
func devicesDir(m cgroups.Manager) string {
	if m == nil || Version() == 2 {
		return ""
	}
	return m.Path("devices")
}

// Exists reports whether the cgroup exists in any hierarchy.
func Exists(path string) bool {
	dirs, err := Dirs(path)
	return err == nil && slices.ContainsFunc(dirs, cgroups.PathExists)
}

// HugepageSizes returns the huge page sizes that can be limited here, as the kernel
// writes them.
func HugepageSizes() []string { return cgroups.HugePageSizes() }

// Limits are what Set writes. A zero field leaves the cgroup's value unchanged.
type Limits struct {
	CPUShares  uint64 // v1's scale, 2 to 262144; converted on v2
	CPUQuota   int64  // µs of CPU time per period; -1 removes the limit
	CPUPeriod  uint64 // µs, 1000 to 1000000
	Memory     int64  // bytes; -1 removes the limit
	MemorySwap int64  // bytes of memory and swap together; -1 removes the limit
	PIDs       int64  // tasks; -1 removes the limit
	CPUs, Mems string // cpuset lists, "0-3,7"
	// Hugepages maps page sizes, as the kernel writes them ("2MB"), to bytes. A size
	// that this machine does not have is fault.Invalid, and any where huge pages cannot
	// be limited (LimitsHugepages) fault.FailedPrecondition.
	Hugepages map[string]uint64
	// KeepAlive refuses a memory limit below the current usage, which v1 does by
	// itself, while v2 would kill processes.
	KeepAlive bool
	// Unified maps file names to content, which is written unchanged. v2 only: on v1
	// a non-empty map is fault.Invalid.
	Unified map[string]string
}

// Set changes the limits of an existing cgroup, all of them or none: after an error
// they are what they were, except for those that the error names. What the kernel
// calls invalid is fault.Invalid; a memory limit below the usage that cannot be
// reclaimed is fault.FailedPrecondition.
func Set(path string, l Limits) error {
	m, err := ownerOf(path)
	if err == nil {
		err = l.checkEach()
	}
	if err == nil {
		err = l.set(m, IsUnit(path))
	}
	if l.belowUse(path, err) {
		err = fault.FailedPrecondition.Errorf("more memory is in use than %d bytes, and it cannot be given back: %w", l.Memory, err)
	}
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ERANGE) {
		err = fault.Invalid.Wrap(err)
	}
	if err != nil {
		return fmt.Errorf("limiting cgroup %q: %w", path, err)
	}
	return nil
}

// belowUse reports whether err, returned by Set, means that more memory is in use
// than the limit. The library has no error for that.
func (l Limits) belowUse(path string, err error) bool {
	if err == nil || l.Memory <= 0 || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ERANGE) {
		return false
	}
	u, uerr := Read(path)
	return uerr == nil && u.Memory > uint64(l.Memory)
}

func (l Limits) set(m cgroups.Manager, unit bool) error {
	had := remember(m.GetPaths(), Version(), l)
	err := m.Set(l.resources())
	if err == nil {
		return nil
	}
	if unit && len(had) > 0 {
		_ = m.Set(had.resources()) // the files that matter are checked next
	}
	if rerr := had.restore(); rerr != nil {
		return fmt.Errorf("%w; and a part of it is in force: %w", err, rerr)
	}
	return err
}

func (l Limits) resources() *cgroups.Resources {
	r := &cgroups.Resources{
		CpuShares: l.CPUShares, CpuQuota: l.CPUQuota, CpuPeriod: l.CPUPeriod,
		Memory: l.Memory, MemorySwap: l.MemorySwap,
		CpusetCpus: l.CPUs, CpusetMems: l.Mems,
		SkipDevices: true, MemoryCheckBeforeUpdate: l.KeepAlive,
	}
	for size, n := range l.Hugepages {
		r.HugetlbLimit = append(r.HugetlbLimit, &cgroups.HugepageLimit{Pagesize: size, Limit: n})
	}
	if l.PIDs != 0 {
		r.PidsLimit = &l.PIDs
	}
	if Version() == 2 {
		r.CpuWeight = cgroups.ConvertCPUSharesToCgroupV2Value(l.CPUShares)
		r.Unified = l.Unified
	}
	return r
}

// Dirs returns the cgroup's directories: one on v2, one per hierarchy on v1. They
// need not exist.
func Dirs(path string) ([]string, error) {
	paths, err := pathsOf(path)
	if err != nil {
		return nil, fmt.Errorf("locating cgroup %q: %w", path, err)
	}
	dirs := slices.Sorted(maps.Values(paths))
	return slices.Compact(dirs), nil // cpu and cpuacct may be mounted together
}

// ProcsFiles returns the cgroup.procs files to which a process id must be written for
// the process to enter the cgroup.
func ProcsFiles(cgroup string) ([]string, error) {
	dirs, err := Dirs(cgroup)
	for i, d := range dirs {
		dirs[i] = path.Join(d, "cgroup.procs")
	}
	return dirs, err
}

// OOMFile returns the file whose line "oom_kill N" counts the processes of the cgroup
// that the kernel's OOM killer killed, or "" if there is none.
func OOMFile(cgroup string) string {
	m, err := managerOf(cgroup)
	if err != nil {
		return ""
	}
	if dir := m.Path("memory"); dir != "" {
		if Version() == 2 {
			return path.Join(dir, "memory.events")
		}
		return path.Join(dir, "memory.oom_control")
	}
	return ""
}

func managerOf(path string) (cgroups.Manager, error) {
	paths, err := pathsOf(path)
	if err != nil {
		return nil, err
	}
	return manager.NewWithPaths(&cgroups.Cgroup{Path: path, Resources: &cgroups.Resources{SkipDevices: true}}, paths)
}

// pathsOf returns the cgroup's directory in each hierarchy, by controller.
func pathsOf(cgroup string) (map[string]string, error) {
	if err := check(cgroup); err != nil {
		return nil, err
	}
	all, err := roots()
	if err != nil {
		return nil, err
	}
	paths := make(map[string]string, len(all))
	for controller, root := range all {
		paths[controller] = root + cgroup
	}
	return paths, nil
}

// check refuses every path that could name a cgroup that the caller did not mean: the
// root, a relative path, or one with "..".
func check(p string) error {
	switch {
	case p == "" || p == "/":
		return fault.Invalid.Wrap(errors.New("the root cgroup is not ours"))
	case !strings.HasPrefix(p, "/") || path.Clean(p) != p:
		return fault.Invalid.Wrap(errors.New("the path must be absolute and clean"))
	}
	return nil
}

// Children returns the names of the cgroups directly below, each once. A cgroup that
// does not exist has none.
func Children(p string) ([]string, error) {
	dirs, err := Dirs(p)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, d := range dirs {
		for _, child := range children(d) {
			names = append(names, path.Base(child))
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}
