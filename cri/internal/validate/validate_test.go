package validate_test

import (
	"errors"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri/internal/validate"
	"github.com/nodekit-project/nodekit/internal/fault"
)

func TestSandbox(t *testing.T) {
	good := func() *runtimeapi.PodSandboxConfig {
		return &runtimeapi.PodSandboxConfig{
			Metadata: &runtimeapi.PodSandboxMetadata{Name: "n", Namespace: "ns", Uid: "u"}, LogDirectory: "/logs",
			PortMappings: []*runtimeapi.PortMapping{{ContainerPort: 80}, {ContainerPort: 65535, HostPort: 8080}},
			Hostname:     "pod-0", DnsConfig: &runtimeapi.DNSConfig{Servers: []string{"10.0.0.1", "fe80::1%eth0"}, Searches: []string{"a.b.", "."}, Options: []string{"ndots:5 edns0"}},
		}
	}
	if err := validate.Sandbox(good()); err != nil {
		t.Error(err)
	}
	for text, change := range map[string]func(*runtimeapi.PodSandboxConfig){
		"uid":              func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Uid = "" },
		"namespace":        func(c *runtimeapi.PodSandboxConfig) { c.Metadata = nil },
		"log directory":    func(c *runtimeapi.PodSandboxConfig) { c.LogDirectory = "logs" },
		"70000":            func(c *runtimeapi.PodSandboxConfig) { c.PortMappings[0].HostPort = 70000 },
		"port mapping":     func(c *runtimeapi.PodSandboxConfig) { c.PortMappings[0].ContainerPort = 0 },
		"host ip":          func(c *runtimeapi.PodSandboxConfig) { c.PortMappings[0].HostIp = "host" },
		"protocol":         func(c *runtimeapi.PodSandboxConfig) { c.PortMappings[0].Protocol = 9 },
		"hostname":         func(c *runtimeapi.PodSandboxConfig) { c.Hostname = "a\x00b" },
		`hostname "a\nb"`:  func(c *runtimeapi.PodSandboxConfig) { c.Hostname = "a\nb" },
		"dns server":       func(c *runtimeapi.PodSandboxConfig) { c.DnsConfig.Servers[1] = "1.2.3.4\nnameserver 5.6.7.8" },
		"dns search":       func(c *runtimeapi.PodSandboxConfig) { c.DnsConfig.Searches[0] = "a b" },
		"dns option":       func(c *runtimeapi.PodSandboxConfig) { c.DnsConfig.Options[0] = "ndots:5\nnameserver 5.6.7.8" },
		"servers":          func(c *runtimeapi.PodSandboxConfig) { c.DnsConfig = &runtimeapi.DNSConfig{Servers: []string{"\x00"}} },
		"only a container": func(c *runtimeapi.PodSandboxConfig) { c.Linux = namespaced(&runtimeapi.NamespaceOption{Pid: 3}) },
		"target": func(c *runtimeapi.PodSandboxConfig) {
			c.Linux = namespaced(&runtimeapi.NamespaceOption{Ipc: 3, TargetId: "x"})
		},
		"CONTAINER": func(c *runtimeapi.PodSandboxConfig) {
			c.Linux = namespaced(&runtimeapi.NamespaceOption{UsernsOptions: &runtimeapi.UserNamespace{Mode: 1}})
		},
		"run_as_group": func(c *runtimeapi.PodSandboxConfig) {
			c.Linux = &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{RunAsGroup: &runtimeapi.Int64Value{}}}
		},
		"cgroup parent": func(c *runtimeapi.PodSandboxConfig) {
			c.Linux = &runtimeapi.LinuxPodSandboxConfig{CgroupParent: "../../x"}
		},
		"overhead": func(c *runtimeapi.PodSandboxConfig) {
			c.Linux = &runtimeapi.LinuxPodSandboxConfig{Overhead: &runtimeapi.LinuxContainerResources{CpuPeriod: -1}}
		},
		"cpu_shares": func(c *runtimeapi.PodSandboxConfig) {
			c.Linux = &runtimeapi.LinuxPodSandboxConfig{Resources: &runtimeapi.LinuxContainerResources{CpuShares: -1}}
		},
	} {
		c := good()
		change(c)
		if err := validate.Sandbox(c); !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v", text, err)
		}
	}
	if err := validate.Sandbox(nil); !errors.Is(err, fault.Invalid) {
		t.Errorf("no config: %v", err)
	}
}

func namespaced(o *runtimeapi.NamespaceOption) *runtimeapi.LinuxPodSandboxConfig {
	return &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{NamespaceOptions: o}}
}

// Labels and annotations belong to those who wrote them.
func TestOpaque(t *testing.T) {
	c := &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: "n", Namespace: "ns", Uid: "u"},
		Labels:   map[string]string{"a": "\x00"}, Annotations: map[string]string{"\x00": "b"},
	}
	if err := validate.Sandbox(c); err != nil {
		t.Error(err)
	}
}

func TestPodCIDR(t *testing.T) {
	for in, want := range map[string]int{"": 0, "10.0.0.0/24": 1, "10.0.0.0/24,fd00::/64": 2} {
		if got, err := validate.PodCIDR(in); err != nil || len(got) != want {
			t.Errorf("%q: %v, %v", in, got, err)
		}
	}
	for _, in := range []string{"10.0.0.0", ",", "10.0.0.0/24,", "10.0.0.0/99", "x"} {
		if got, err := validate.PodCIDR(in); !errors.Is(err, fault.Invalid) {
			t.Errorf("%q: %v, %v", in, got, err)
		}
	}
}

func TestContainer(t *testing.T) {
	good := func() *runtimeapi.ContainerConfig {
		return &runtimeapi.ContainerConfig{
			Metadata: &runtimeapi.ContainerMetadata{Name: "n"}, Image: &runtimeapi.ImageSpec{Image: "i"}, LogPath: "a/b.log",
			Mounts: []*runtimeapi.Mount{{ContainerPath: "/" + strings.Repeat("x", 255)}}, Envs: []*runtimeapi.KeyValue{{Key: "k"}},
			Devices: []*runtimeapi.Device{{HostPath: "/dev/null", ContainerPath: "/dev/x", Permissions: "mrw"}, {HostPath: "/dev/null", Permissions: "r"}},
		}
	}
	if err := validate.Container(good()); err != nil {
		t.Error(err)
	}
	volume := good()
	volume.Mounts[0].Image, volume.Mounts[0].ImageSubPath, volume.Mounts[0].Readonly = &runtimeapi.ImageSpec{Image: "i"}, "a", true
	if err := validate.Container(volume); err != nil {
		t.Error(err)
	}
	for text, change := range map[string]func(*runtimeapi.ContainerConfig){
		"name":               func(c *runtimeapi.ContainerConfig) { c.Metadata = nil },
		"image":              func(c *runtimeapi.ContainerConfig) { c.Image = nil },
		"log path":           func(c *runtimeapi.ContainerConfig) { c.LogPath = "a/../../x" },
		`mount "x"`:          func(c *runtimeapi.ContainerConfig) { c.Mounts[0].ContainerPath = "x" },
		"variable":           func(c *runtimeapi.ContainerConfig) { c.Envs[0].Key = "" },
		`"a=b"`:              func(c *runtimeapi.ContainerConfig) { c.Envs[0].Key = "a=b" },
		"NUL":                func(c *runtimeapi.ContainerConfig) { c.Envs[0].Value = []byte("a\x00b") },
		`path "/etc`:         func(c *runtimeapi.ContainerConfig) { c.LogPath = "/etc/passwd" },
		`path "."`:           func(c *runtimeapi.ContainerConfig) { c.LogPath = "." },
		`path "a/.."`:        func(c *runtimeapi.ContainerConfig) { c.LogPath = "a/.." },
		`path "a/"`:          func(c *runtimeapi.ContainerConfig) { c.LogPath = "a/" },
		"log_path":           func(c *runtimeapi.ContainerConfig) { c.LogPath = "a\x00b" },
		"working":            func(c *runtimeapi.ContainerConfig) { c.WorkingDir = "x" },
		"256 bytes":          func(c *runtimeapi.ContainerConfig) { c.WorkingDir = "/a/" + strings.Repeat("n", 256) },
		"4096 bytes":         func(c *runtimeapi.ContainerConfig) { c.Mounts[0].ContainerPath = strings.Repeat("/n", 2048) },
		"args":               func(c *runtimeapi.ContainerConfig) { c.Args = []string{"a", "\x00"} },
		"stop_signal":        func(c *runtimeapi.ContainerConfig) { c.StopSignal = 999 },
		"propagation":        func(c *runtimeapi.ContainerConfig) { c.Mounts[0].Propagation = 7 },
		`device "dev/null"`:  func(c *runtimeapi.ContainerConfig) { c.Devices[0].HostPath = "dev/null" },
		`container path "x"`: func(c *runtimeapi.ContainerConfig) { c.Devices[0].ContainerPath = "x" },
		`permissions ""`:     func(c *runtimeapi.ContainerConfig) { c.Devices[0].Permissions = "" },
		`permissions "rq"`:   func(c *runtimeapi.ContainerConfig) { c.Devices[0].Permissions = "rq" },
		"exclude": func(c *runtimeapi.ContainerConfig) {
			c.Mounts[0].HostPath, c.Mounts[0].Image = "/h", &runtimeapi.ImageSpec{Image: "i"}
		},
		"host path": func(c *runtimeapi.ContainerConfig) { c.Mounts[0].HostPath = "../h" },
		"sub path": func(c *runtimeapi.ContainerConfig) {
			c.Mounts[0].ImageSubPath, c.Mounts[0].Image = "../..", &runtimeapi.ImageSpec{Image: "i"}
		},
		"sub path \"x\"": func(c *runtimeapi.ContainerConfig) { c.Mounts[0].ImageSubPath = "x" },
		"readonly is not set": func(c *runtimeapi.ContainerConfig) {
			c.Mounts[0].Image = &runtimeapi.ImageSpec{Image: "i"}
		},
		"recursive": func(c *runtimeapi.ContainerConfig) { c.Mounts[0].RecursiveReadOnly = true },
		"run_as_group": func(c *runtimeapi.ContainerConfig) {
			c.Linux = secure(&runtimeapi.LinuxContainerSecurityContext{RunAsGroup: &runtimeapi.Int64Value{}})
		},
		"both": func(c *runtimeapi.ContainerConfig) {
			c.Linux = secure(&runtimeapi.LinuxContainerSecurityContext{RunAsUser: &runtimeapi.Int64Value{}, RunAsUsername: "x"})
		},
		"without a target": func(c *runtimeapi.ContainerConfig) {
			c.Linux = secure(&runtimeapi.LinuxContainerSecurityContext{NamespaceOptions: &runtimeapi.NamespaceOption{Pid: 3}})
		},
		"oom_score_adj": func(c *runtimeapi.ContainerConfig) {
			c.Linux = limited(&runtimeapi.LinuxContainerResources{OomScoreAdj: 1001})
		},
		"memory_limit": func(c *runtimeapi.ContainerConfig) {
			c.Linux = limited(&runtimeapi.LinuxContainerResources{MemoryLimitInBytes: -2})
		},
		"memory_swap": func(c *runtimeapi.ContainerConfig) {
			c.Linux = limited(&runtimeapi.LinuxContainerResources{MemorySwapLimitInBytes: -2})
		},
		"cpu_quota": func(c *runtimeapi.ContainerConfig) {
			c.Linux = limited(&runtimeapi.LinuxContainerResources{CpuQuota: -2})
		},
		"cpuset_cpus": func(c *runtimeapi.ContainerConfig) {
			c.Linux = limited(&runtimeapi.LinuxContainerResources{CpusetCpus: "\x00"})
		},
	} {
		c := good()
		change(c)
		if err := validate.Container(c); !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func secure(s *runtimeapi.LinuxContainerSecurityContext) *runtimeapi.LinuxContainerConfig {
	return &runtimeapi.LinuxContainerConfig{SecurityContext: s}
}

func limited(r *runtimeapi.LinuxContainerResources) *runtimeapi.LinuxContainerConfig {
	return &runtimeapi.LinuxContainerConfig{Resources: r}
}

func TestCommand(t *testing.T) {
	if err := validate.Command([]string{"a", ""}); err != nil {
		t.Error(err)
	}
	for text, cmd := range map[string][]string{"no command": nil, "cmd[1]": {"a", "b\x00c"}} {
		if err := validate.Command(cmd); !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), text) {
			t.Errorf("%q: %v", cmd, err)
		}
	}
}
