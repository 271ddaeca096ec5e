package oci_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// processLabel is the SELinux label of a process, "" if the process does not exist.
func processLabel(pid int) string {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/attr/current", pid))
	return strings.TrimRight(string(text), "\x00\n")
}

// fileLabel is the SELinux label of a file.
func fileLabel(path string) string {
	text := make([]byte, 256)
	n, err := unix.Lgetxattr(path, "security.selinux", text)
	if err != nil {
		return err.Error()
	}
	return strings.TrimRight(string(text[:n]), "\x00")
}

// labelled returns a label's type, and its level behind that.
func labelled(label string) (kind, level string) {
	parts := strings.SplitN(label, ":", 4)
	if len(parts) < 4 {
		return label, ""
	}
	return parts[2], parts[3]
}

// sleeper makes a Pod with one container that runs.
func (n *node) sleeper(name string, pod func(*runtimeapi.PodSandboxConfig), change func(*runtimeapi.ContainerConfig)) (sandbox, id string) {
	n.t.Helper()
	sandbox, cfg := n.sandbox(name, pod)
	id = n.create(sandbox, cfg, "main", change, "sleep", "forever")
	n.startContainer(id)
	return sandbox, id
}

// TestSELinuxLabels: a Pod has a level of its own, which its processes and files have,
// including those of an exec and of a container created after a restart.
func TestSELinuxLabels(t *testing.T) {
	testenv.Require(t, testenv.SELinux)
	n := newNode(t)
	levels := map[string]string{}
	for name, pod := range map[string]func(*runtimeapi.PodSandboxConfig){
		"plain": nil, "users": ownUsers,
		"shared": func(c *runtimeapi.PodSandboxConfig) {
			c.Linux.SecurityContext.NamespaceOptions.Pid = runtimeapi.NamespaceMode_POD
		},
	} {
		sandbox, cfg := n.sandbox(name, pod)
		first := n.create(sandbox, cfg, "first", func(c *runtimeapi.ContainerConfig) { c.Mounts = []*runtimeapi.Mount{imageMount("")} }, "sleep", "forever")
		n.startContainer(first)
		label := processLabel(n.pidOf(first))
		kind, level := labelled(label)
		if kind != "container_t" || !strings.HasPrefix(level, "s0:c") || !strings.Contains(level, ",c") {
			t.Errorf("%s: its process is %q, want container_t with two categories", name, label)
		}
		if other, ok := levels[level]; ok {
			t.Errorf("the Pods %s and %s have the level %s", name, other, level)
		}
		levels[level] = name
		for _, file := range []string{"/podtool", "/etc", "/etc/hostname", "/etc/hosts", "/etc/resolv.conf", "/dev/shm", "/img/podtool"} {
			if k, l := labelled(fileLabel(fmt.Sprintf("/proc/%d/root%s", n.pidOf(first), file))); k != "container_file_t" || l != level {
				t.Errorf("%s: %s is %s:%s, want container_file_t:%s", name, file, k, l, level)
			}
		}
		n.restart()
		second := n.create(sandbox, cfg, "second", nil, "do", "write /top x", "write /dev/shm/x x", "write /etc/hosts x", "cat /top /proc/self/attr/current", "echo", "sleep forever")
		n.startContainer(second)
		if got := processLabel(n.pidOf(second)); got != label {
			t.Errorf("%s: after a restart another container of the Pod is %q, want %q", name, got, label)
		}
		n.waitLog(name, "second", label)
		if out, code := n.exec(first, "/podtool", "cat", "/proc/self/attr/current", "/dev/shm/x"); code != 0 || !strings.Contains(out, label) {
			t.Errorf("%s: an exec ended with %d and is %q, want %q", name, code, out, label)
		}
	}
}

// TestSELinuxAsked: requested labels are applied; a Pod in the host's namespaces has
// none.
func TestSELinuxAsked(t *testing.T) {
	testenv.Require(t, testenv.SELinux)
	n := newNode(t)
	own := processLabel(os.Getpid())
	asks := func(o *runtimeapi.SELinuxOption) func(*runtimeapi.PodSandboxConfig) {
		return func(c *runtimeapi.PodSandboxConfig) { c.Linux.SecurityContext.SelinuxOptions = o }
	}
	for name, tc := range map[string]struct {
		pod  func(*runtimeapi.PodSandboxConfig)
		main func(*runtimeapi.ContainerConfig)
		want string
		file string
	}{
		"level": {
			asks(&runtimeapi.SELinuxOption{Level: "s0:c5,c6"}), nil,
			"system_u:system_r:container_t:s0:c5,c6", "system_u:object_r:container_file_t:s0:c5,c6",
		},
		"type-of-one": {
			asks(&runtimeapi.SELinuxOption{Level: "s0:c7,c8"}), func(c *runtimeapi.ContainerConfig) {
				c.Linux.SecurityContext.SelinuxOptions = &runtimeapi.SELinuxOption{Type: "spc_t"}
			}, "system_u:system_r:spc_t:s0:c7,c8", "system_u:object_r:container_file_t:s0:c7,c8",
		},
		"privileged": {func(c *runtimeapi.PodSandboxConfig) {
			asks(&runtimeapi.SELinuxOption{Level: "s0:c7,c9"})(c)
			c.Linux.SecurityContext.Privileged = true
		}, func(c *runtimeapi.ContainerConfig) { c.Linux.SecurityContext.Privileged = true }, own, "system_u:object_r:container_file_t:s0:c7,c9"},
		"hosts-processes": {func(c *runtimeapi.PodSandboxConfig) {
			c.Linux.SecurityContext.NamespaceOptions.Pid = runtimeapi.NamespaceMode_NODE
		}, nil, own, ""},
		"hosts-ipc": {func(c *runtimeapi.PodSandboxConfig) {
			c.Linux.SecurityContext.NamespaceOptions.Ipc = runtimeapi.NamespaceMode_NODE
		}, nil, own, ""},
	} {
		_, id := n.sleeper(name, tc.pod, tc.main)
		if got := processLabel(n.pidOf(id)); got != tc.want {
			t.Errorf("%s: its process is %q, want %q", name, got, tc.want)
		}
		if got := fileLabel(fmt.Sprintf("/proc/%d/root/podtool", n.pidOf(id))); got != tc.file && (tc.file != "" || strings.Contains(got, "container_file_t")) {
			t.Errorf("%s: its root has %q, want %q", name, got, tc.file)
		}
	}
	for _, o := range []*runtimeapi.SELinuxOption{{Type: "no_such_t"}, {Level: "s0:c9999"}, {Level: `s0",x="`}, {User: "no_such_u"}} {
		cfg := &runtimeapi.PodSandboxConfig{
			Metadata: &runtimeapi.PodSandboxMetadata{Name: "bad", Namespace: "test", Uid: o.String()},
			Linux:    &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{SelinuxOptions: o}},
		}
		if _, err := n.rs.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: cfg}); !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "SELinux") {
			t.Errorf("%v is answered with %v, want %q", o, err, fault.Invalid)
		}
	}
}

// TestSELinuxRelabel: a volume that is to be relabelled gets the Pod's label, and the
// kernel denies it to another Pod; system directories are not relabelled.
func TestSELinuxRelabel(t *testing.T) {
	testenv.Require(t, testenv.SELinux)
	n := newNode(t)
	volume := t.TempDir()
	n.must(os.MkdirAll(volume+"/below", 0o755))
	n.must(os.WriteFile(volume+"/below/file", []byte("the Pod's\n"), 0o644))
	data := &runtimeapi.Mount{ContainerPath: "/data", HostPath: volume, SelinuxRelabel: true}
	_, first := n.sleeper("first", nil, func(c *runtimeapi.ContainerConfig) { c.Mounts = []*runtimeapi.Mount{data} })
	_, level := labelled(processLabel(n.pidOf(first)))
	for _, file := range []string{volume, volume + "/below/file"} {
		if got, want := fileLabel(file), "system_u:object_r:container_file_t:"+level; got != want {
			t.Errorf("%s is %q, want %q", file, got, want)
		}
	}
	if out, code := n.exec(first, "/podtool", "do", "cat /data/below/file", "write /data/new x"); code != 0 || out != "the Pod's\n" {
		t.Errorf("the Pod's use of its volume printed %q and ended with %d", out, code)
	}
	if m := n.status(first).Mounts; len(m) != 1 || !m[0].SelinuxRelabel {
		t.Errorf("the status has the mounts %v, want one that was relabelled", m)
	}
	_, second := n.sleeper("second", nil, func(c *runtimeapi.ContainerConfig) {
		c.Mounts = []*runtimeapi.Mount{{ContainerPath: "/data", HostPath: volume}}
	})
	if out, code := n.exec(second, "/podtool", "cat", "/data/below/file"); code == 0 || !strings.Contains(out, "permission denied") {
		t.Errorf("another Pod reads the volume: %q, and ends with %d", out, code)
	}
	link := filepath.Join(t.TempDir(), "link")
	n.must(os.Symlink("/etc", link))
	sandbox, cfg := n.sandbox("system", nil)
	before := fileLabel("/etc")
	for _, dir := range []string{"/", "/etc", "/usr", "/var/lib", link} {
		_, err := n.rs.CreateContainer(t.Context(), &runtimeapi.CreateContainerRequest{PodSandboxId: sandbox, SandboxConfig: cfg, Config: &runtimeapi.ContainerConfig{
			Metadata: &runtimeapi.ContainerMetadata{Name: "of" + dir}, Image: &runtimeapi.ImageSpec{Image: imageName},
			Mounts: []*runtimeapi.Mount{{ContainerPath: "/x", HostPath: dir, SelinuxRelabel: true}},
		}})
		if !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "relabel") {
			t.Errorf("relabelling %s is answered with %v, want %q", dir, err, fault.Invalid)
		}
	}
	if after := fileLabel("/etc"); after != before {
		t.Errorf("/etc was %q and is %q", before, after)
	}
}

// TestSELinuxOff: with labels switched off, Pods are in the runtime's own domain, and
// requested labels are ignored.
func TestSELinuxOff(t *testing.T) {
	testenv.Require(t, testenv.SELinux)
	t.Setenv(noSELinux, "yes")
	n := newNode(t)
	_, id := n.sleeper("off", func(c *runtimeapi.PodSandboxConfig) {
		c.Linux.SecurityContext.SelinuxOptions = &runtimeapi.SELinuxOption{Type: "no_such_t"}
	}, nil)
	if got, own := processLabel(n.pidOf(id)), processLabel(os.Getpid()); got != own {
		t.Errorf("its process is %q, want %q", got, own)
	}
}
