package oci_test

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/internal/cgroup"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// TestSandboxStats: a Pod's usage is that of its containers, and its metrics have
// cAdvisor's names and labels.
func TestSandboxStats(t *testing.T) {
	n := newNode(t)
	sandbox, cfg := n.sandbox("usage", nil)
	id := n.create(sandbox, cfg, "main", func(c *runtimeapi.ContainerConfig) {
		c.Linux.Resources = &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 64 << 20, CpuShares: 100}
	}, "eat", "16Mi")
	n.startContainer(id)
	var mem uint64
	n.waitFor(func() bool {
		resp, err := n.rs.PodSandboxStats(t.Context(), &runtimeapi.PodSandboxStatsRequest{PodSandboxId: sandbox})
		n.must(err)
		st := resp.Stats.Linux
		mem = st.Memory.GetUsageBytes().GetValue()
		return mem > 16<<20 && len(st.Containers) == 1 && st.Process.GetProcessCount().GetValue() > 0 && st.Cpu.GetUsageCoreNanoSeconds().GetValue() > 0
	}, "a Pod that uses 16 MiB")
	if mem > 64<<20 {
		t.Errorf("the Pod uses %d bytes, want 16 to 64 MiB", mem)
	}
	described, err := n.rs.ListMetricDescriptors(t.Context(), &runtimeapi.ListMetricDescriptorsRequest{})
	n.must(err)
	listed, err := n.rs.ListPodSandboxMetrics(t.Context(), &runtimeapi.ListPodSandboxMetricsRequest{})
	n.must(err)
	if len(listed.PodMetrics) != 1 || len(listed.PodMetrics[0].ContainerMetrics) != 1 {
		t.Fatalf("the metrics are of %v", listed.PodMetrics)
	}
	of := func(name string, all []*runtimeapi.Metric) (uint64, string) {
		t.Helper()
		i := slices.IndexFunc(all, func(m *runtimeapi.Metric) bool { return m.Name == name })
		d := slices.IndexFunc(described.Descriptors, func(d *runtimeapi.MetricDescriptor) bool { return d.Name == name })
		if i < 0 || d < 0 || len(all[i].LabelValues) != len(described.Descriptors[d].LabelKeys) {
			t.Fatalf("no good sample of %s", name)
		}
		return all[i].Value.GetValue(), strings.Join(all[i].LabelValues, ",")
	}
	in := listed.PodMetrics[0].ContainerMetrics[0].Metrics
	if v, labels := of("container_memory_rss", in); v < 8<<20 || !strings.HasPrefix(labels, "main,") || !strings.HasSuffix(labels, ",test,usage") {
		t.Errorf("the container's rss is %d, of %s", v, labels)
	}
	if v, _ := of("container_spec_memory_limit_bytes", in); v != 64<<20 {
		t.Errorf("its memory limit is %d", v)
	}
	if v, _ := of("container_fs_limit_bytes", in); v == 0 {
		t.Error("the file system that it writes to has no size")
	}
	of("container_fs_usage_bytes", in)
	of("container_memory_kernel_usage", in)
	of("container_sockets", in)
	if v, labels := of("container_processes", listed.PodMetrics[0].Metrics); v == 0 || !strings.HasSuffix(labels, ",test,usage") {
		t.Errorf("the Pod has %d processes, by %s", v, labels)
	}
	n.removeSandbox(sandbox)
}

// TestUpdate: limits change while the container runs and before; a limit that this
// machine does not support is refused and changes nothing.
func TestUpdate(t *testing.T) {
	n := newNode(t)
	sandbox, cfg := n.sandbox("update", nil)
	limit := func(c *runtimeapi.ContainerConfig) {
		c.Linux.Resources = &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 32 << 20, CpuShares: 100}
	}
	id := n.create(sandbox, cfg, "main", limit, "sleep", "forever")
	update := func(r *runtimeapi.LinuxContainerResources) error {
		_, err := n.rs.UpdateContainerResources(t.Context(), &runtimeapi.UpdateContainerResourcesRequest{ContainerId: id, Linux: r})
		return err
	}
	wantLimit := func(want uint64) {
		t.Helper()
		if u, err := cgroup.Read(n.sandboxCgroup(sandbox) + "/" + id); err != nil || u.Limit != want {
			t.Errorf("the container may use %d bytes (%v), want %d", u.Limit, err, want)
		}
	}
	n.must(update(&runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 48 << 20}))
	n.startContainer(id)
	wantLimit(48 << 20)
	n.must(update(&runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 64 << 20, CpusetCpus: "0"}))
	wantLimit(64 << 20)
	for what, r := range map[string]*runtimeapi.LinuxContainerResources{
		"huge pages of no size": {MemoryLimitInBytes: 128 << 20, HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "3MB", Limit: 1}}},
		"a cpu that is not":     {MemoryLimitInBytes: 128 << 20, CpusetCpus: "4000"},
	} {
		if err := update(r); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v, want InvalidArgument", what, err)
		}
		wantLimit(64 << 20)
	}
	// A quota below a millisecond is refused after the memory limit has been written.
	late := &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 128 << 20, CpuQuota: 1}
	if err := update(late); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a quota of a microsecond: %v, want InvalidArgument", err)
	}
	wantLimit(64 << 20)
	free := n.create(sandbox, cfg, "free", nil, "sleep", "forever")
	n.startContainer(free)
	id = free
	if err := update(late); err == nil {
		t.Error("a quota of a microsecond was given")
	}
	wantLimit(0)
	for _, size := range cgroup.HugepageSizes() {
		err := update(&runtimeapi.LinuxContainerResources{HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: size, Limit: 4 << 20}}})
		// A hybrid machine may have the controller where the others are not.
		if hybrid := cgroup.Version() == 1 && errors.Is(err, fault.FailedPrecondition); err != nil && !hybrid {
			t.Errorf("a limit for huge pages of %s: %v", size, err)
		}
	}
	n.removeSandbox(sandbox)
}

// TestNoHugepages: a container that may use no huge pages runs and is updated, before its
// start and after it, whether or not huge pages can be limited here: a kubelet asks for
// that with each container.
func TestNoHugepages(t *testing.T) {
	n := newNode(t)
	sandbox, cfg := n.sandbox("nohuge", nil)
	none := &runtimeapi.LinuxContainerResources{}
	for _, size := range cgroup.HugepageSizes() {
		none.HugepageLimits = append(none.HugepageLimits, &runtimeapi.HugepageLimit{PageSize: size})
	}
	id := n.create(sandbox, cfg, "main", func(c *runtimeapi.ContainerConfig) { c.Linux.Resources = none }, "sleep", "forever")
	update := func() {
		_, err := n.rs.UpdateContainerResources(t.Context(), &runtimeapi.UpdateContainerResourcesRequest{ContainerId: id, Linux: none})
		n.must(err)
	}
	update()
	n.startContainer(id)
	update()
	n.removeSandbox(sandbox)
}

// TestImpossibleLimits: limits that the OCI runtime would refuse at the start are refused
// when the container is created, or updated before its start.
func TestImpossibleLimits(t *testing.T) {
	n := newNode(t)
	sandbox, cfg := n.sandbox("limits", nil)
	id := n.create(sandbox, cfg, "main", func(c *runtimeapi.ContainerConfig) {
		c.Linux.Resources = &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 64 << 20}
	}, "sleep", "forever")
	runs := n.create(sandbox, cfg, "runs", func(c *runtimeapi.ContainerConfig) {
		c.Linux.Resources = &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 64 << 20}
	}, "sleep", "forever")
	n.startContainer(runs)
	impossible := map[string]*runtimeapi.LinuxContainerResources{
		"a quota of a microsecond": {CpuQuota: 1},
		"a period of two seconds":  {CpuPeriod: 2000000},
		"a cpu that is not":        {CpusetCpus: "4000"},
		"memory that is not":       {CpusetMems: "4000"},
		"less swap than memory":    {MemoryLimitInBytes: 64 << 20, MemorySwapLimitInBytes: 32 << 20},
		"huge pages of no size":    {HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "3MB", Limit: 1}}},
		"huge pages twice":         {HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB"}, {PageSize: "2MB"}}},
	}
	if cgroup.Version() == 1 {
		impossible["one cpu share"] = &runtimeapi.LinuxContainerResources{CpuShares: 1}
		impossible["all cpu shares"] = &runtimeapi.LinuxContainerResources{CpuShares: math.MaxInt64}
	}
	for what, r := range impossible {
		_, err := n.rs.CreateContainer(t.Context(), &runtimeapi.CreateContainerRequest{PodSandboxId: sandbox, SandboxConfig: cfg, Config: &runtimeapi.ContainerConfig{
			Metadata: &runtimeapi.ContainerMetadata{Name: "impossible"}, Image: &runtimeapi.ImageSpec{Image: imageName},
			Linux: &runtimeapi.LinuxContainerConfig{Resources: r},
		}})
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("a container with %s: %v, want InvalidArgument", what, err)
		}
		for state, id := range map[string]string{"created": id, "running": runs} {
			_, err = n.rs.UpdateContainerResources(t.Context(), &runtimeapi.UpdateContainerResourcesRequest{ContainerId: id, Linux: r})
			if status.Code(err) != codes.InvalidArgument {
				t.Errorf("an update of a %s container to %s: %v, want InvalidArgument", state, what, err)
			}
		}
	}
	// The limit of memory is the container's own.
	_, err := n.rs.UpdateContainerResources(t.Context(), &runtimeapi.UpdateContainerResourcesRequest{
		ContainerId: id, Linux: &runtimeapi.LinuxContainerResources{MemorySwapLimitInBytes: 96 << 20},
	})
	n.must(err)
	n.removeSandbox(sandbox)
}

// TestLimitBelowUse: a memory limit below what a container cannot release is refused
// because of the container's state, and changes nothing.
func TestLimitBelowUse(t *testing.T) {
	if cgroup.Version() == 2 {
		return // the kernel takes the limit there, and kills
	}
	n := newNode(t)
	sandbox, id := n.run("use", func(c *runtimeapi.ContainerConfig) {
		c.Linux.Resources = &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 128 << 20}
	}, "eat", "64Mi")
	n.waitLog("use", "main", "holding")
	_, err := n.rs.UpdateContainerResources(t.Context(), &runtimeapi.UpdateContainerResourcesRequest{
		ContainerId: id, Linux: &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 8 << 20},
	})
	if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "more memory is in use than 8388608 bytes") {
		t.Errorf("%v, want FailedPrecondition", err)
	}
	if u, err := cgroup.Read(n.sandboxCgroup(sandbox) + "/" + id); err != nil || u.Limit != 128<<20 {
		t.Errorf("the container may use %d bytes (%v)", u.Limit, err)
	}
	n.removeSandbox(sandbox)
}
