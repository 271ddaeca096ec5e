package oci_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/stub"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/internal/cgroup"
)

// nriPlugin changes the containers named main, and records those that it is told of.
type nriPlugin struct {
	mounts string // what containers get at /from-nri
	found  chan []string
	ended  chan string
}

func (p *nriPlugin) Synchronize(_ context.Context, _ []*api.PodSandbox, containers []*api.Container) ([]*api.ContainerUpdate, error) {
	var all []string
	for _, c := range containers {
		all = append(all, fmt.Sprintf("%s %v %d %v", c.GetName(), c.GetState(), c.GetLinux().GetResources().GetMemory().GetLimit().GetValue(), slices.Contains(c.GetEnv(), "FROM_NRI=yes")))
	}
	p.found <- all
	return nil, nil
}

func (p *nriPlugin) CreateContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
	if c.GetName() == "refused" {
		return nil, nil, fmt.Errorf("no container named %s", c.GetName())
	}
	a := &api.ContainerAdjustment{}
	a.AddEnv("FROM_NRI", "yes")
	a.AddMount(&api.Mount{Destination: "/from-nri", Source: p.mounts, Type: "bind", Options: []string{"rbind", "ro"}})
	a.AddAnnotation("example.com/from-nri", "yes")
	a.SetLinuxMemoryLimit(64 << 20)
	if want := unheeded[c.GetName()]; want != nil {
		want(a)
	}
	return a, nil, nil
}

func (p *nriPlugin) StopContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) ([]*api.ContainerUpdate, error) {
	p.ended <- c.GetId()
	return nil, nil
}

// unheeded are adjustments that not every OCI runtime supports, by the property of the
// spec.
var unheeded = map[string]func(*api.ContainerAdjustment){
	"process.scheduler": func(a *api.ContainerAdjustment) {
		a.SetLinuxScheduler(&api.LinuxScheduler{Policy: api.LinuxSchedulerPolicy_SCHED_BATCH})
	},
	"process.ioPriority": func(a *api.ContainerAdjustment) {
		a.SetLinuxIOPriority(&api.LinuxIOPriority{Class: api.IOPrioClass_IOPRIO_CLASS_IDLE})
	},
	"linux.memoryPolicy": func(a *api.ContainerAdjustment) { a.SetLinuxMemoryPolicy(api.MpolMode_MPOL_BIND, "0") },
}

// isInForce reports whether an adjustment is in force for a process.
func isInForce(t *testing.T, name string, pid int) bool {
	t.Helper()
	switch name {
	case "process.scheduler":
		attr, err := unix.SchedGetAttr(pid, 0)
		return err == nil && attr.Policy == unix.SCHED_BATCH
	case "process.ioPriority":
		const who, shift, idle = 1, 13, 3 // of one process; where the class is; linux/ioprio.h
		priority, _, errno := unix.Syscall(unix.SYS_IOPRIO_GET, who, uintptr(pid), 0)
		return errno == 0 && priority>>shift == idle
	}
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/numa_maps", pid))
	return err == nil && strings.Contains(string(maps), "bind:0")
}

// TestNRIWhatTheRuntimeDoesNotKnow: an adjustment is in force, or refused by name.
func TestNRIWhatTheRuntimeDoesNotKnow(t *testing.T) {
	t.Setenv(nriPlugins, "1")
	n := newNode(t)
	p := &nriPlugin{mounts: t.TempDir(), found: make(chan []string, 1), ended: make(chan string, 9)}
	p.connect(n)
	sandbox, cfg := n.sandbox("pod", nil)
	for name := range unheeded {
		resp, err := n.rs.CreateContainer(t.Context(), &runtimeapi.CreateContainerRequest{PodSandboxId: sandbox, SandboxConfig: cfg, Config: &runtimeapi.ContainerConfig{
			Metadata: &runtimeapi.ContainerMetadata{Name: name}, Image: &runtimeapi.ImageSpec{Image: imageName}, Args: []string{"sleep", "forever"}, LogPath: name + ".log",
		}})
		if err != nil {
			if !strings.Contains(err.Error(), name) {
				t.Errorf("%s: the error does not name it: %v", name, err)
			}
			continue
		}
		id := resp.GetContainerId()
		n.startContainer(id)
		if pids, err := cgroup.Processes(n.sandboxCgroup(sandbox) + "/" + id); err != nil || len(pids) != 1 || !isInForce(t, name, pids[0]) {
			t.Errorf("%s: it was taken, and is not in force (processes %v, %v)", name, pids, err)
		}
	}
	n.removeSandbox(sandbox)
}

// connect connects the plugin and returns what it was told exists.
func (p *nriPlugin) connect(n *node) (stub.Stub, []string) {
	n.t.Helper()
	s, err := stub.New(p, stub.WithPluginName("test"), stub.WithPluginIdx("10"), stub.WithSocketPath(n.nriSocket()), stub.WithOnClose(func() {}))
	n.must(err)
	n.must(s.Start(n.t.Context()))
	n.t.Cleanup(s.Stop)
	return s, <-p.found
}

// TestNRIAnnotations: annotations that a plugin adds are in the spec, but not among the
// requested annotations of the container.
func TestNRIAnnotations(t *testing.T) {
	t.Setenv(nriPlugins, "1")
	n := newNode(t)
	p := &nriPlugin{mounts: t.TempDir(), found: make(chan []string, 1), ended: make(chan string, 9)}
	p.connect(n)
	sandbox, cfg := n.sandbox("pod", nil)
	id := n.create(sandbox, cfg, "main", func(c *runtimeapi.ContainerConfig) { c.Annotations = map[string]string{"own": "yes"} }, "sleep", "forever")
	if got := n.specOf(id).Annotations; got["example.com/from-nri"] != "yes" {
		t.Errorf("the spec has the annotations %v", got)
	}
	st, err := n.rs.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: id})
	n.must(err)
	if got := st.GetStatus().GetAnnotations(); len(got) != 1 {
		t.Errorf("the container was asked for with one annotation, and has %v", got)
	}
	n.removeSandbox(sandbox)
}

// TestNRI: a plugin changes a container before it starts and while it runs, is told of
// its end, and is told of it again after the server was killed; what it refuses is not
// created.
func TestNRI(t *testing.T) {
	t.Setenv(nriPlugins, "1")
	n := newNode(t)
	p := &nriPlugin{mounts: t.TempDir(), found: make(chan []string, 1), ended: make(chan string, 9)}
	n.must(os.WriteFile(filepath.Join(p.mounts, "file"), []byte("mounted"), 0o644))
	plugin, found := p.connect(n)
	if len(found) != 0 {
		t.Errorf("the plugin found %q on a new node", found)
	}
	sandbox, cfg := n.sandbox("pod", nil)
	id := n.create(sandbox, cfg, "main", nil, "sleep", "forever")
	n.startContainer(id)
	if env, _ := n.exec(id, "/podtool", "env"); !strings.Contains(env, "FROM_NRI=yes") {
		t.Errorf("the environment is %q", env)
	}
	if text, _ := n.exec(id, "/podtool", "cat", "/from-nri/file"); text != "mounted" {
		t.Errorf("the mount has %q", text)
	}
	limit := func(want uint64) {
		t.Helper()
		u, err := cgroup.Read(n.sandboxCgroup(sandbox) + "/" + id)
		if err != nil || u.Limit != want {
			t.Errorf("the limit of memory is %d, %v; want %d", u.Limit, err, want)
		}
	}
	limit(64 << 20)
	update := &api.ContainerUpdate{}
	update.SetContainerId(id)
	update.SetLinuxMemoryLimit(96 << 20)
	if failed, err := plugin.UpdateContainers([]*api.ContainerUpdate{update}); err != nil || len(failed) > 0 {
		t.Errorf("UpdateContainers: %v, %v", failed, err)
	}
	limit(96 << 20)

	status, err := n.rs.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: id})
	if got := status.GetStatus().GetResources().GetLinux().GetMemoryLimitInBytes(); err != nil || got != 96<<20 {
		t.Errorf("the status has a limit of memory of %d, %v", got, err)
	}
	_, err = n.rs.UpdateContainerResources(t.Context(), &runtimeapi.UpdateContainerResourcesRequest{
		ContainerId: id, Linux: &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 128 << 20, CpuQuota: 1}, // no kernel takes the quota
	})
	if err == nil {
		t.Error("a quota of a microsecond was given")
	}
	limit(96 << 20)

	_, err = n.rs.CreateContainer(t.Context(), &runtimeapi.CreateContainerRequest{PodSandboxId: sandbox, SandboxConfig: cfg, Config: &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: "refused"}, Image: &runtimeapi.ImageSpec{Image: imageName}, LogPath: "refused.log",
	}})
	if err == nil || !strings.Contains(err.Error(), "no container named refused") {
		t.Errorf("a container that the plugin refuses: %v", err)
	}
	if list, err := n.rs.ListContainers(t.Context(), &runtimeapi.ListContainersRequest{}); err != nil || len(list.GetContainers()) != 1 {
		t.Errorf("containers: %v, %v", list, err)
	}

	n.restart()
	_, found = p.connect(n)
	if len(found) != 1 || found[0] != fmt.Sprintf("main CONTAINER_RUNNING %d true", 96<<20) {
		t.Errorf("after a restart the plugin found %q", found)
	}
	n.removeSandbox(sandbox)
	if got := <-p.ended; got != id || len(p.ended) > 0 {
		t.Errorf("the plugin heard of the end of %s, and %d more; want %s", got, len(p.ended), id)
	}
}
