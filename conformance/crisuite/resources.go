package crisuite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/conformance"
)

const (
	mib          = 1 << 20
	fullPeriod   = 100_000
	updateTruth  = "UpdateContainerResources updates ContainerConfig of the container synchronously."
	statsPatient = 15 * time.Second // some runtimes' caches are up to ten seconds old
)

func resourceRules() []rule {
	return []rule{
		must("CRI-RES-001", "limits a container's memory",
			"LinuxContainerResources", "Memory limit in bytes. Default: 0 (not specified).", checkMemoryLimit, Resources, HostProcesses),
		must("CRI-RES-002", "limits a container's processor time",
			"LinuxContainerResources", "CPU CFS (Completely Fair Scheduler) quota. Default: 0 (not specified).", checkCPUQuota, Resources, HostProcesses),
		must("CRI-RES-003", "weighs a container's processor time",
			"LinuxContainerResources", "CPU shares (relative weight vs. other containers). Default: 0 (not specified).", checkCPUShares, Resources, HostProcesses),
		must("CRI-RES-004", "sets a container's oom_score_adj",
			"LinuxContainerResources", "OOMScoreAdj adjusts the oom-killer score. Default: 0 (not specified).", checkOOMScore, Isolation, Resources),
		must("CRI-RES-005", "keeps a container on its processors",
			"LinuxContainerResources", "CpusetCpus constrains the allowed set of logical CPUs. Default: \"\" (not specified).", checkCPUSet, Isolation, Resources),
		heavy(must("CRI-RES-006", "says OOMKilled of a container that the kernel killed for memory",
			"ContainerStatus", "Must be set to \"OOMKilled\" for containers terminated by cgroup-based Out-of-Memory killer.", checkOOMKilled, Resources)),
		must("CRI-RES-007", "updates a running container's limits before it answers",
			"UpdateContainerResources", updateTruth, checkUpdate, Resources, HostProcesses),
		must("CRI-RES-008", "shows updated limits in the container's status",
			"ContainerStatus", "Resource limits configuration of the container.", checkUpdateStatus, Resources),
		must("CRI-RES-009", "answers an update that cannot be with an error, and changes nothing",
			"UpdateContainerResources", "If runtime fails to transactionally update the requested resources, an error is returned.", checkBadUpdate, Resources, HostProcesses),
		must("CRI-RES-011", "limits a container's huge pages",
			"LinuxContainerResources", "List of HugepageLimits to limit the HugeTLB usage of container per page size.", checkHugepages, Resources, HostProcesses),
		must("CRI-RES-012", "limits a container's memory and swap together, and updates the limit",
			"LinuxContainerResources", "Memory swap limit in bytes. Default 0 (not specified).", checkSwapLimit, Resources, Swap, HostProcesses),
		must("CRI-RES-013", "writes what is for cgroup v2 to the container's cgroup, as the kubelet grants swap",
			"LinuxContainerResources", "Each key/value in the map refers to the cgroup v2.", checkUnified, Resources, Swap, HostProcesses),
		should("CRI-RES-014", "shows no oom_score_adj that a running container's process does not have, also behind an update",
			"UpdateContainerResources", updateTruth, checkUpdateScore, Resources, HostProcesses),
		facto("CRI-RES-015", "runs and updates a container with what a kubelet sends for one without limits",
			"generateLinuxContainerResources", "For each size of huge pages that the machine has, a kubelet sends a limit with each container, which is 0 unless the Pod asks for such pages, and on cgroup v2 memory.oom.group.", checkKubeletDefaults, Resources),
		must("CRI-RES-010", "puts a Pod's containers below its cgroup",
			"LinuxPodSandboxConfig", "Parent cgroup of the PodSandbox. The cgroupfs style syntax will be used, but the container runtime can convert it to systemd semantics if needed.", checkCgroupParent, Resources, HostProcesses),
	}
}

// cgroupDirs returns the directories of a process's cgroup: one for each controller, or
// one for all.
func cgroupDirs(pid int) (dirs []string, err error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return nil, err
	}
	const root = "/sys/fs/cgroup"
	for line := range strings.Lines(string(data)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		switch {
		case f[1] == "" && hybrid():
			dirs = append(dirs, filepath.Join(root, "unified", f[2]))
		case f[1] == "":
			dirs = append(dirs, filepath.Join(root, f[2]))
		default:
			dirs = append(dirs, filepath.Join(root, strings.TrimPrefix(f[1], "name="), f[2]))
		}
	}
	return dirs, nil
}

// cgroupValue returns the content of the first of the files that exists.
func (b *box) cgroupValue(ctx context.Context, names ...string) (string, error) {
	pid, err := b.pid(ctx)
	if err != nil {
		return "", err
	}
	dirs, err := cgroupDirs(pid)
	if err != nil {
		return "", err
	}
	for _, name := range names {
		for _, dir := range dirs {
			if data, err := os.ReadFile(filepath.Join(dir, name)); err == nil {
				return strings.TrimSpace(string(data)), nil
			}
		}
	}
	return "", fmt.Errorf("the container's cgroup is %q, and has none of %q", dirs, names)
}

// hasMemory returns nil when the memory limit of the container's cgroup is want.
func (b *box) hasMemory(ctx context.Context, want int64) error {
	got, err := b.cgroupValue(ctx, "memory.limit_in_bytes", "memory.max")
	if err == nil && got != strconv.FormatInt(want, 10) {
		return fmt.Errorf("the limit of the container's cgroup is %s bytes of memory, want %d", got, want)
	}
	return err
}

func checkMemoryLimit(ctx context.Context, s *subject) error {
	b, err := s.box(ctx, forever, limit(func(r *runtimeapi.LinuxContainerResources) { r.MemoryLimitInBytes = 64 * mib }))
	if err != nil {
		return err
	}
	return b.hasMemory(ctx, 64*mib)
}

// checkHugepages needs no huge page: the limit is on what the container may request.
func checkHugepages(ctx context.Context, s *subject) error {
	sizes := hugepageSizes()
	if len(sizes) == 0 {
		return conformance.NotApplicable("the cgroups of this machine limit no huge pages: the kernel has none, or not the controller hugetlb")
	}
	const limited = 1 << 30
	b, err := s.box(ctx, forever, limit(func(r *runtimeapi.LinuxContainerResources) {
		r.HugepageLimits = []*runtimeapi.HugepageLimit{{PageSize: sizes[0], Limit: limited}}
	}))
	if err != nil {
		return err
	}
	got, err := b.cgroupValue(ctx, "hugetlb."+sizes[0]+".limit_in_bytes", "hugetlb."+sizes[0]+".max")
	if err == nil && got != strconv.Itoa(limited) {
		return fmt.Errorf("the limit of the container's cgroup is %s bytes of pages of %s, want %d", got, sizes[0], limited)
	}
	return err
}

// checkKubeletDefaults has a limit for huge pages whether or not the machine's cgroups can
// limit them.
func checkKubeletDefaults(ctx context.Context, s *subject) error {
	_, in, err := s.cgroupParent(ctx)
	if err != nil {
		return err
	}
	p, err := s.pod(ctx, in)
	if err != nil {
		return err
	}
	sent := &runtimeapi.LinuxContainerResources{CpuShares: 2, CpuPeriod: fullPeriod, OomScoreAdj: 1000}
	for _, size := range machineHugepages() {
		sent.HugepageLimits = append(sent.HugepageLimits, &runtimeapi.HugepageLimit{PageSize: size})
	}
	if !hybrid() {
		sent.Unified = map[string]string{"memory.oom.group": "1"}
	}
	b, err := p.start(ctx, forever, func(c *runtimeapi.ContainerConfig) { c.Linux.Resources = sent })
	if err != nil {
		return err
	}
	if err := b.update(ctx, sent); err != nil {
		return fmt.Errorf("the same as an update: %w", err)
	}
	return b.alive(ctx)
}

// hasQuota returns nil when the container's CPU quota in a period is want.
func (b *box) hasQuota(ctx context.Context, want string) error {
	got, err := b.cgroupValue(ctx, "cpu.cfs_quota_us", "cpu.max")
	if err == nil && strings.Fields(got)[0] != want {
		return fmt.Errorf("the quota of the container's cgroup is %s, want %s", got, want)
	}
	return err
}

func checkCPUQuota(ctx context.Context, s *subject) error {
	b, err := s.box(ctx, forever, limit(func(r *runtimeapi.LinuxContainerResources) { r.CpuPeriod, r.CpuQuota = fullPeriod/2, 30_000 }))
	if err != nil {
		return err
	}
	if err := b.hasQuota(ctx, "30000"); err != nil {
		return err
	}
	got, err := b.cgroupValue(ctx, "cpu.cfs_period_us", "cpu.max")
	if err == nil && !strings.HasSuffix(" "+got, fmt.Sprint(" ", fullPeriod/2)) { // in cpu.max the quota precedes it
		return fmt.Errorf("the period of the container's cgroup is %s, want %d", got, fullPeriod/2)
	}
	return err
}

// checkCPUShares compares two containers, because the OCI runtime chooses how to convert
// shares into a cgroup v2 weight.
func checkCPUShares(ctx context.Context, s *subject) error {
	weight := func(shares int64) (int, error) {
		b, err := s.box(ctx, forever, limit(func(r *runtimeapi.LinuxContainerResources) { r.CpuShares = shares }))
		if err != nil {
			return 0, err
		}
		return b.weight(ctx)
	}
	small, err := weight(128)
	if err != nil {
		return err
	}
	big, err := weight(2048)
	if err == nil && big < 2*small {
		return fmt.Errorf("containers with 128 and 2048 shares have the weights %d and %d", small, big)
	}
	return err
}

// weight returns the CPU shares or weight of the container's cgroup.
func (b *box) weight(ctx context.Context) (int, error) {
	got, err := b.cgroupValue(ctx, "cpu.shares", "cpu.weight")
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(got)
}

func checkOOMScore(ctx context.Context, s *subject) error {
	out, err := s.prints(ctx, "cat /proc/self/oom_score_adj", limit(func(r *runtimeapi.LinuxContainerResources) { r.OomScoreAdj = 987 }))
	if err == nil && strings.TrimSpace(out) != "987" {
		return fmt.Errorf("the container's oom_score_adj is %s, want 987", strings.TrimSpace(out))
	}
	return err
}

func checkCPUSet(ctx context.Context, s *subject) error {
	st, err := s.selfStatus(ctx, limit(func(r *runtimeapi.LinuxContainerResources) { r.CpusetCpus = "0" }))
	if err == nil && statusField(st, "Cpus_allowed_list") != "0" {
		return fmt.Errorf("the container may run on the processors %s, want 0", statusField(st, "Cpus_allowed_list"))
	}
	return err
}

func checkOOMKilled(ctx context.Context, s *subject) error {
	b, err := s.box(ctx, "eat 200Mi", limit(func(r *runtimeapi.LinuxContainerResources) { r.MemoryLimitInBytes = 32 * mib }))
	if err != nil {
		return err
	}
	st, err := b.exited(ctx)
	if err != nil {
		return err
	}
	if st.GetReason() != "OOMKilled" || st.GetExitCode() == 0 {
		return fmt.Errorf("a container that the kernel killed for memory has exit code %d and reason %q, want OOMKilled", st.GetExitCode(), st.GetReason())
	}
	failed, err := s.box(ctx, "exit 137")
	if err != nil {
		return err
	}
	if st, err = failed.exited(ctx); err == nil && st.GetReason() == "OOMKilled" {
		return errors.New("a container that ended with code 137 by itself is OOMKilled")
	}
	return err
}

func (b *box) update(ctx context.Context, r *runtimeapi.LinuxContainerResources) error {
	_, err := b.s.Runtime.UpdateContainerResources(ctx, &runtimeapi.UpdateContainerResourcesRequest{ContainerId: b.id, Linux: r})
	if err != nil {
		return fmt.Errorf("UpdateContainerResources: %w", err)
	}
	return nil
}

func (s *subject) limited(ctx context.Context) (*box, error) {
	return s.box(ctx, forever, limit(func(r *runtimeapi.LinuxContainerResources) {
		r.MemoryLimitInBytes, r.CpuPeriod, r.CpuQuota, r.CpuShares = 64*mib, fullPeriod, 30_000, 128
	}))
}

func checkUpdate(ctx context.Context, s *subject) error {
	b, err := s.limited(ctx)
	if err != nil {
		return err
	}
	before, err := b.weight(ctx)
	if err != nil {
		return err
	}
	err = b.update(ctx, &runtimeapi.LinuxContainerResources{
		MemoryLimitInBytes: 96 * mib, CpuPeriod: fullPeriod, CpuQuota: 45_000, CpuShares: 2048, CpusetCpus: "0",
	})
	if err != nil {
		return err
	}
	after, err := b.weight(ctx)
	if err == nil && after < 2*before {
		err = fmt.Errorf("behind an update from 128 shares to 2048 the weight of the container's cgroup is %d, and was %d", after, before)
	}
	return errors.Join(b.hasMemory(ctx, 96*mib), b.hasQuota(ctx, "45000"), err, b.runsOn(ctx, "0"))
}

// checkUpdateScore leaves it open whether a runtime updates the score: most know it for the
// start alone.
func checkUpdateScore(ctx context.Context, s *subject) error {
	b, err := s.box(ctx, forever, limit(func(r *runtimeapi.LinuxContainerResources) { r.OomScoreAdj = 500 }))
	if err != nil {
		return err
	}
	if err := b.update(ctx, &runtimeapi.LinuxContainerResources{OomScoreAdj: 700, CpuShares: 512}); err != nil {
		return err
	}
	st, err := b.status(ctx)
	if err != nil {
		return err
	}
	pid, err := b.pid(ctx)
	if err != nil {
		return err
	}
	has, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid))
	shown := st.GetResources().GetLinux().GetOomScoreAdj()
	if err == nil && strings.TrimSpace(string(has)) != strconv.FormatInt(shown, 10) {
		return fmt.Errorf("behind an update from 500 to 700 ContainerStatus shows the oom_score_adj %d, and the container's process has %s", shown, strings.TrimSpace(string(has)))
	}
	return err
}

// runsOn returns nil when the container's process may use exactly these processors.
func (b *box) runsOn(ctx context.Context, want string) error {
	pid, err := b.pid(ctx)
	if err != nil {
		return err
	}
	st, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err == nil && statusField(string(st), "Cpus_allowed_list") != want {
		return fmt.Errorf("the container may run on the processors %s, want %s", statusField(string(st), "Cpus_allowed_list"), want)
	}
	return err
}

func checkUpdateStatus(ctx context.Context, s *subject) error {
	b, err := s.limited(ctx)
	if err != nil {
		return err
	}
	if err := b.shows(ctx, 64*mib, 30_000); err != nil {
		return fmt.Errorf("before an update: %w", err)
	}
	if err := b.update(ctx, &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 96 * mib, CpuPeriod: fullPeriod, CpuQuota: 45_000}); err != nil {
		return err
	}
	if err := b.shows(ctx, 96*mib, 45_000); err != nil {
		return fmt.Errorf("behind an update: %w", err)
	}
	return nil
}

// shows returns nil when the container's status has the limits.
func (b *box) shows(ctx context.Context, memory, quota int64) error {
	st, err := b.status(ctx)
	if err != nil {
		return err
	}
	if r := st.GetResources().GetLinux(); r.GetMemoryLimitInBytes() != memory || r.GetCpuQuota() != quota {
		return fmt.Errorf("ContainerStatus has the resources %v, want %d bytes of memory and a quota of %d", r, memory, quota)
	}
	return nil
}

// checkBadUpdate requests a quota that the kernel refuses, together with a limit that it
// would accept.
func checkBadUpdate(ctx context.Context, s *subject) error {
	b, err := s.limited(ctx)
	if err != nil {
		return err
	}
	if err := b.update(ctx, &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 96 * mib, CpusetCpus: "4095"}); err == nil {
		return errors.New("an update to a processor that is not there succeeded")
	}
	return errors.Join(b.hasMemory(ctx, 64*mib), b.hasQuota(ctx, "30000"), b.alive(ctx))
}

// cgroupParent creates a cgroup for a Pod, as the kubelet does for every Pod, and returns
// its name and the edit that sets it.
func (s *subject) cgroupParent(ctx context.Context) (name string, in podEdit, err error) {
	name = fmt.Sprintf("%s%d", s.mark, len(s.cgroups))
	if rc, err := s.Runtime.RuntimeConfig(ctx, &runtimeapi.RuntimeConfigRequest{}); err == nil && rc.GetLinux() != nil && rc.GetLinux().GetCgroupDriver() == runtimeapi.CgroupDriver_SYSTEMD {
		name += ".slice"
	}
	if err := makeCgroup("/" + name); err != nil {
		return "", nil, err
	}
	s.cgroups = append(s.cgroups, "/"+name)
	return name, func(c *runtimeapi.PodSandboxConfig) { c.Linux.CgroupParent = "/" + name }, nil
}

func checkCgroupParent(ctx context.Context, s *subject) error {
	name, in, err := s.cgroupParent(ctx)
	if err != nil {
		return err
	}
	p, err := s.pod(ctx, in)
	if err != nil {
		return err
	}
	b, err := p.start(ctx, forever)
	if err != nil {
		return err
	}
	pid, err := b.pid(ctx)
	if err != nil {
		return err
	}
	dirs, err := cgroupDirs(pid)
	if err == nil && !slices.ContainsFunc(dirs, func(dir string) bool { return strings.Contains(dir, "/"+name+"/") }) {
		return fmt.Errorf("the container's cgroup is %q, want it below %q", dirs, name)
	}
	return err
}
