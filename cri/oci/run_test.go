package oci_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/internal/cgroup"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// TestOOM: an OOM kill is the reason of the container's end, even if it hit a child of
// the container's first process, which then failed.
func TestOOM(t *testing.T) {
	n := newNode(t)
	for name, args := range map[string][]string{"first": {"eat", "128Mi"}, "child": {"child", "eat", "128Mi"}} {
		sandbox, id := n.run(name, func(c *runtimeapi.ContainerConfig) {
			c.Linux.Resources = &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 32 << 20}
		}, args...)
		if st := n.exited(id); st.Reason != "OOMKilled" || st.ExitCode != 137 {
			t.Errorf("%s: it ended with %d (%s), want 137 (OOMKilled)", name, st.ExitCode, st.Reason)
		}
		n.removeSandbox(sandbox)
	}
}

// TestOOMScore: a container has the score that it requests, or zero, and not that of the
// keeper.
func TestOOMScore(t *testing.T) {
	n := newNode(t)
	sandbox, cfg := n.sandbox("score", nil)
	for name, score := range map[string]int64{"zero": 0, "some": 500} {
		id := n.create(sandbox, cfg, name, func(c *runtimeapi.ContainerConfig) {
			c.Linux.Resources = &runtimeapi.LinuxContainerResources{OomScoreAdj: score}
		}, "cat", "/proc/self/oom_score_adj")
		n.startContainer(id)
		n.exited(id)
		if got := strings.TrimSpace(n.logOf("score", name)); got != fmt.Sprint(score) {
			t.Errorf("%s: oom_score_adj is %s, want %d", name, got, score)
		}
	}
	n.removeSandbox(sandbox)
}

// TestCgroupParent: containers are in the Pod's cgroup, whose memory limit applies to all
// of them together and can be the reason of one's end.
func TestCgroupParent(t *testing.T) {
	n := newNode(t)
	parent := n.cgroup() + "/pod1"
	if n.cfg().Systemd {
		parent = cgroup.Slice(parent)
	}
	n.must(cgroup.Create(parent))
	n.must(cgroup.Set(parent, cgroup.Limits{Memory: 48 << 20}))
	sandbox, cfg := n.sandbox("parent", func(c *runtimeapi.PodSandboxConfig) { c.Linux.CgroupParent = parent })
	stays := n.create(sandbox, cfg, "stays", nil, "sleep", "forever")
	n.startContainer(stays)
	if pids, err := cgroup.Processes(parent); err != nil || len(pids) != 1 {
		t.Errorf("processes in the Pod's cgroup: %v, %v; want the container's", pids, err)
	}
	for round := range 3 { // systemd and the keeper race for the cgroup of an ended container
		id := n.create(sandbox, cfg, fmt.Sprint("eats", round), nil, "eat", "128Mi")
		n.startContainer(id)
		if st := n.exited(id); st.Reason != "OOMKilled" || st.ExitCode != 137 {
			t.Errorf("round %d: it ended with %d (%s), want 137 (OOMKilled)", round, st.ExitCode, st.Reason)
		}
	}
	if st := n.status(stays); st.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		t.Errorf("the other container is %v", st.State)
	}
	n.removeSandbox(sandbox)
	if !cgroup.Exists(parent) {
		t.Error("the Pod's cgroup was removed with the sandbox: it is the kubelet's")
	}
	n.must(cgroup.Remove(parent))
}

// TestForeignDriver: a kubelet with the other cgroup driver gets an error that says so.
func TestForeignDriver(t *testing.T) {
	n := newNode(t)
	for driver, parent := range map[bool]string{true: n.cgroup() + "/pod1", false: cgroup.Slice(n.cgroup() + "/pod1")} {
		_, err := n.rs.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: &runtimeapi.PodSandboxConfig{
			Metadata: &runtimeapi.PodSandboxMetadata{Name: "p", Namespace: "test", Uid: parent},
			Linux:    &runtimeapi.LinuxPodSandboxConfig{CgroupParent: parent},
		}})
		if n.cfg().Systemd == driver && (!errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "driver")) {
			t.Errorf("parent %q: %v, want fault.Invalid", parent, err)
		}
	}
}

func TestStartFails(t *testing.T) {
	n := newNode(t)
	sandbox, cfg := n.sandbox("fails", nil)
	id := n.create(sandbox, cfg, "main", func(c *runtimeapi.ContainerConfig) { c.Command = []string{"/no-such-program"} })
	_, err := n.rs.StartContainer(t.Context(), &runtimeapi.StartContainerRequest{ContainerId: id})
	if err == nil || !strings.Contains(err.Error(), "/no-such-program") {
		t.Errorf("start says %v, want the program's name", err)
	}
	if st := n.status(id); st.State != runtimeapi.ContainerState_CONTAINER_EXITED || st.ExitCode == 0 {
		t.Errorf("the container is %v with code %d", st.State, st.ExitCode)
	}
	if got := n.logOf("fails", "main"); got != "" {
		t.Errorf("the runtime's complaint is in the container's log: %q", got)
	}
	_, err = n.rs.CreateContainer(t.Context(), &runtimeapi.CreateContainerRequest{PodSandboxId: sandbox, SandboxConfig: cfg, Config: &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: "mount"}, Image: &runtimeapi.ImageSpec{Image: imageName},
		Mounts: []*runtimeapi.Mount{{ContainerPath: "/x", HostPath: n.dir + "/not/there"}},
	}})
	if !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "/not/there") {
		t.Errorf("create with a missing host path says %v", err)
	}
	n.removeSandbox(sandbox)
}

func TestExecSync(t *testing.T) {
	n := newNode(t)
	sandbox, id := n.run("exec", nil, "sleep", "forever")
	if out, code := n.exec(id, "/podtool", "do", "echo out", "echo --stderr err", "exit 5"); out != "out\nerr\n" || code != 5 {
		t.Errorf("exec printed %q and ended with %d", out, code)
	}
	_, err := n.rs.ExecSync(t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"/nothing"}})
	if err == nil || !strings.Contains(err.Error(), "/nothing") {
		t.Errorf("executing what is not there says %v", err)
	}
	begin := time.Now()
	_, err = n.rs.ExecSync(t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"/podtool", "sleep", "forever"}, Timeout: 1})
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) > 5*time.Second {
		t.Errorf("after %v exec says %v, want DeadlineExceeded", time.Since(begin), err)
	}
	n.removeSandbox(sandbox)
}

// TestExecHasNoFileOfTheHost: root in a container may change the mode of the files of a
// command's streams, and none of them is the host's.
func TestExecHasNoFileOfTheHost(t *testing.T) {
	n := newNode(t)
	sandbox, id := n.run("streams", nil, "sleep", "forever")
	var host unix.Stat_t
	n.must(unix.Stat(os.DevNull, &host))
	over := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		_, err := n.rs.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"/podtool", "sleep", "123"}})
		over <- err
	}()
	n.waitFor(func() bool {
		pids, err := cgroup.Processes(n.sandboxCgroup(sandbox) + "/" + id)
		n.must(err)
		for _, pid := range pids {
			if line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); string(line) != "/podtool\x00sleep\x00123\x00" {
				continue
			}
			for fd := range 3 {
				var st unix.Stat_t
				n.must(unix.Stat(fmt.Sprintf("/proc/%d/fd/%d", pid, fd), &st))
				if st.Dev == host.Dev && st.Ino == host.Ino {
					t.Errorf("descriptor %d is the host's %s", fd, os.DevNull)
				}
			}
			return true
		}
		return false
	}, "the command")
	cancel()
	<-over
	n.removeSandbox(sandbox)
}

func TestNamespaces(t *testing.T) {
	n := newNode(t)
	for name, tc := range map[string]struct {
		options *runtimeapi.NamespaceOption
		host    map[string]bool // which of the container's namespaces are the host's
	}{
		"own":    {&runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER}, nil},
		"shared": {&runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_POD}, nil},
		"host": {
			&runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE, Pid: runtimeapi.NamespaceMode_NODE, Ipc: runtimeapi.NamespaceMode_NODE},
			map[string]bool{"net": true, "pid": true, "ipc": true, "uts": true},
		},
	} {
		sandbox, cfg := n.sandbox(name, func(c *runtimeapi.PodSandboxConfig) {
			c.Linux.SecurityContext.NamespaceOptions = tc.options
			if name != "host" {
				c.Linux.Sysctls = map[string]string{"net.ipv4.ip_unprivileged_port_start": "80", "kernel.shm_rmid_forced": "1"}
			}
		})
		var first, second string
		for _, c := range []string{"first", "second"} {
			id := n.create(sandbox, cfg, c, func(config *runtimeapi.ContainerConfig) {
				if c == "second" { // what it leaves out the sandbox decides
					config.Linux.SecurityContext.NamespaceOptions = nil
				}
			}, "sleep", "forever")
			n.startContainer(id)
			first, second = second, id
		}
		for _, ns := range []string{"net", "ipc", "uts", "pid", "mnt"} {
			a, b, host := n.namespace(first, ns), n.namespace(second, ns), readlink(t, "/proc/self/ns/"+ns)
			if shared := ns != "mnt" && (ns != "pid" || name != "own"); (a == b) != shared {
				t.Errorf("%s: two containers share their %s namespace: %v, want %v", name, ns, a == b, shared)
			}
			if (a == host) != tc.host[ns] {
				t.Errorf("%s: the container is in the host's %s namespace: %v, want %v", name, ns, a == host, tc.host[ns])
			}
		}
		if name == "shared" {
			n.restart()
			if out, _ := n.exec(first, "/podtool", "cat", "/proc/1/cmdline"); !strings.HasPrefix(out, "/pause") {
				t.Errorf("process 1 is %q, want the pause program", out)
			}
		}
		if name != "host" {
			if out, _ := n.exec(first, "/podtool", "cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start", "/proc/sys/kernel/shm_rmid_forced"); out != "80\n1\n" {
				t.Errorf("%s: the sysctls are %q", name, out)
			}
		}
		n.removeSandbox(sandbox)
	}
}

func (n *node) namespace(id, kind string) string {
	return readlink(n.t, filepath.Join("/proc", itoa(n.pidOf(id)), "ns", kind))
}

func TestSharedMemoryAndMounts(t *testing.T) {
	n := newNode(t)
	volume, node := t.TempDir(), n.dir+"/ctl" // a device that is in the container where the host has it
	n.must(unix.Mknod(node, unix.S_IFCHR|0o666, int(unix.Mkdev(10, 237))))
	sandbox, cfg := n.sandbox("share", nil)
	writer := n.create(sandbox, cfg, "writer", func(c *runtimeapi.ContainerConfig) {
		c.Mounts = []*runtimeapi.Mount{{ContainerPath: "/data", HostPath: volume}}
	}, "do", "write /dev/shm/a shared", "write /data/b mounted")
	n.startContainer(writer)
	if st := n.exited(writer); st.ExitCode != 0 {
		t.Fatalf("the writer ended with %d: %s", st.ExitCode, n.logOf("share", "writer"))
	}
	reader := n.create(sandbox, cfg, "reader", func(c *runtimeapi.ContainerConfig) {
		c.Mounts = []*runtimeapi.Mount{{ContainerPath: "/data", HostPath: volume, Readonly: true}}
		c.Devices = []*runtimeapi.Device{{ContainerPath: "/dev/other", HostPath: "/dev/full", Permissions: "r"}, {HostPath: node, Permissions: "r"}}
		c.Linux.SecurityContext.ReadonlyRootfs = true
		c.Linux.SecurityContext.RunAsUser = &runtimeapi.Int64Value{Value: 1000}
		c.Linux.SecurityContext.RunAsGroup = &runtimeapi.Int64Value{Value: 2000}
		c.Linux.SecurityContext.SupplementalGroups = []int64{3000}
		c.Linux.SecurityContext.Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
		c.Linux.SecurityContext.NoNewPrivs = true
	}, "do", "cat /dev/shm/a /data/b", "id", "stat-device /dev/other", "stat-device "+node, "write /data/c no")
	n.startContainer(reader)
	if st := n.exited(reader); st.ExitCode == 0 {
		t.Error("the reader could write to a read-only mount")
	}
	got := n.logOf("share", "reader")
	for _, want := range []string{"shared\n", "mounted\n", "1000", "2000", "3000", "character 1:7\n", "character 10:237\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("the reader printed %q, want %q in it", got, want)
		}
	}
	n.removeSandbox(sandbox)
}

func TestUpdateAndStats(t *testing.T) {
	n := newNode(t)
	sandbox, id := n.run("update", nil, "do", "write /file "+strings.Repeat("x", 8192), "echo written", "sleep forever")
	n.waitLog("update", "main", "written")
	_, err := n.rs.UpdateContainerResources(t.Context(), &runtimeapi.UpdateContainerResourcesRequest{
		ContainerId: id, Linux: &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 64 << 20, CpuShares: 200},
	})
	n.must(err)
	resp, err := n.rs.ContainerStats(t.Context(), &runtimeapi.ContainerStatsRequest{ContainerId: id})
	n.must(err)
	m := resp.Stats.Memory
	if m.UsageBytes.GetValue() == 0 || m.AvailableBytes.GetValue() == 0 || m.AvailableBytes.GetValue() > 64<<20 {
		t.Errorf("the stats are %v, want some use of at most 64 MiB", m)
	}
	if w := resp.Stats.WritableLayer; w.GetUsedBytes().GetValue() < 8192 || w.UsedBytes.Value > 1<<20 || w.GetInodesUsed().GetValue() < 1 {
		t.Errorf("the container has written %v, want a file of 8 KiB", w)
	}
	n.removeSandbox(sandbox)
}

// TestFailedUpdate: an update that fails halfway leaves the limits as they were,
// including those that were not set, and the record.
func TestFailedUpdate(t *testing.T) {
	n := newNode(t)
	sandbox, id := n.run("update", nil, "sleep", "forever")
	dirs, err := cgroup.Dirs(n.sandboxCgroup(sandbox) + "/" + id)
	n.must(err)
	state := func() (all []string) {
		for _, dir := range dirs {
			for _, name := range []string{"cpu.shares", "cpu.weight", "cpu.cfs_quota_us", "cpu.max", "cpuset.cpus", "memory.limit_in_bytes", "memory.max"} {
				if text, err := os.ReadFile(filepath.Join(dir, name)); err == nil {
					all = append(all, name+" "+string(text))
				}
			}
		}
		st, err := n.rs.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: id})
		n.must(err)
		return append(all, st.GetStatus().GetResources().String())
	}
	before := state()
	change := &runtimeapi.LinuxContainerResources{CpuShares: 200, CpusetCpus: "0", MemoryLimitInBytes: 64 << 20, CpuPeriod: 50000, CpuQuota: 1} // no kernel takes the quota
	_, err = n.rs.UpdateContainerResources(t.Context(), &runtimeapi.UpdateContainerResourcesRequest{ContainerId: id, Linux: change})
	if err == nil {
		t.Error("a quota of a microsecond was given")
	}
	if diff := cmp.Diff(before, state()); diff != "" || len(before) < 4 { // cpusets are not everywhere
		t.Errorf("after an update that failed (-want +got):\n%s", diff)
	}
	n.removeSandbox(sandbox)
}

// TestTargetPID: a container that shares another one's PID namespace sees that one's
// processes, or does not run.
func TestTargetPID(t *testing.T) {
	n := newNode(t)
	sandbox, cfg := n.sandbox("target", nil)
	aim := func(id string) func(*runtimeapi.ContainerConfig) {
		return func(c *runtimeapi.ContainerConfig) {
			c.Linux.SecurityContext.NamespaceOptions = &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_TARGET, TargetId: id}
		}
	}
	target := n.create(sandbox, cfg, "target", nil, "sleep", "forever")
	n.startContainer(target)
	seer := n.create(sandbox, cfg, "seer", aim(target), "sleep", "forever")
	n.startContainer(seer)
	if a, b := n.namespace(target, "pid"), n.namespace(seer, "pid"); a != b {
		t.Errorf("the namespaces are %s and %s, want one", a, b)
	}
	late := n.create(sandbox, cfg, "late", aim(target), "sleep", "forever")
	n.restart()
	_, err := n.rs.StopContainer(t.Context(), &runtimeapi.StopContainerRequest{ContainerId: target})
	n.must(err)
	if _, err = n.rs.StartContainer(t.Context(), &runtimeapi.StartContainerRequest{ContainerId: late}); err == nil {
		t.Errorf("a container runs in a namespace that has ended: %s", n.namespace(late, "pid"))
	}
	other, cfg := n.sandbox("other", nil)
	for what, id := range map[string]string{"in another sandbox": seer, "unknown": "none"} {
		c := &runtimeapi.ContainerConfig{
			Metadata: &runtimeapi.ContainerMetadata{Name: "x"}, Image: &runtimeapi.ImageSpec{Image: imageName}, Args: []string{"exit", "0"},
			Linux: &runtimeapi.LinuxContainerConfig{SecurityContext: &runtimeapi.LinuxContainerSecurityContext{}},
		}
		aim(id)(c)
		_, err := n.rs.CreateContainer(t.Context(), &runtimeapi.CreateContainerRequest{PodSandboxId: other, SandboxConfig: cfg, Config: c})
		if !errors.Is(err, fault.Invalid) {
			t.Errorf("a target %s is answered with %v, want %q", what, err, fault.Invalid)
		}
	}
	n.removeSandbox(sandbox)
	n.removeSandbox(other)
}

// TestSandboxRefused: impossible requests are refused by name, and leave nothing behind.
func TestSandboxRefused(t *testing.T) {
	n := newNode(t)
	for what, change := range map[string]func(*runtimeapi.PodSandboxConfig){
		"user namespace": func(c *runtimeapi.PodSandboxConfig) {
			c.Linux.SecurityContext.NamespaceOptions.UsernsOptions = &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_POD}
		},
		"Windows":       func(c *runtimeapi.PodSandboxConfig) { c.Windows = &runtimeapi.WindowsPodSandboxConfig{} },
		"kernel.domain": func(c *runtimeapi.PodSandboxConfig) { c.Linux.Sysctls = map[string]string{"kernel.domainname": "x"} },
		"net.ipv4":      func(c *runtimeapi.PodSandboxConfig) { c.Linux.Sysctls = map[string]string{"net.ipv4.nothing": "x"} },
		"net.core": func(c *runtimeapi.PodSandboxConfig) {
			c.Linux.Sysctls = map[string]string{"net.core.somaxconn": "many"}
		},
		"network": func(c *runtimeapi.PodSandboxConfig) {
			c.Linux.SecurityContext.NamespaceOptions.Network = runtimeapi.NamespaceMode_CONTAINER
		},
		"IPC": func(c *runtimeapi.PodSandboxConfig) {
			c.Linux.SecurityContext.NamespaceOptions.Ipc = runtimeapi.NamespaceMode_CONTAINER
		},
	} {
		cfg := &runtimeapi.PodSandboxConfig{
			Metadata: &runtimeapi.PodSandboxMetadata{Name: "refused", Namespace: "test", Uid: what},
			Linux: &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
				NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER},
			}},
		}
		change(cfg)
		_, err := n.rs.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: cfg})
		if err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("a sandbox is refused with %v, want %q named", err, what)
		}
		n.blamed("RunPodSandbox", err, cfg)
	}
	list, err := n.rs.ListPodSandbox(t.Context(), &runtimeapi.ListPodSandboxRequest{})
	if err != nil || len(list.Items) > 0 {
		t.Errorf("there are sandboxes: %v, %v", list, err)
	}
}
