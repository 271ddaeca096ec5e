package criconfig_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/testenv"
	"github.com/nodekit-project/nodekit/kubelet/criconfig"
	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// data is a store with one ConfigMap and one Secret.
type data struct{}

func (data) Get(_ context.Context, _, name string, into criconfig.Object) error {
	switch into := into.(type) {
	case *v1.ConfigMap:
		if name == "settings" {
			into.Data = map[string]string{"color": "blue", "bad=name": "x"}
			return nil
		}
	case *v1.Secret:
		if name == "key" {
			into.Data = map[string][]byte{"token": []byte("t0p")}
			return nil
		}
	}
	return fault.NotFound.Errorf("%T %q does not exist", into, name)
}

func builder(t *testing.T) (*criconfig.Builder, string) {
	dir := t.TempDir()
	resolv := filepath.Join(dir, "resolv.conf")
	if err := os.WriteFile(resolv, []byte("# comment\nsearch a.example b.example\nnameserver 192.0.2.1\noptions ndots:1 rotate\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return criconfig.New(criconfig.Node{
		Name: "node", ID: "n1", IPs: []string{"10.0.0.1"}, PodsDir: filepath.Join(dir, "pods"), LogDir: filepath.Join(dir, "logs"),
		SeccompDir: "/seccomp", PodCgroup: func(p *v1.Pod) string { return "/kit/pod" + string(p.UID) }, ResolvConf: resolv, CPUs: 2, Memory: 4 << 30,
	}, data{}), dir
}

func request(change func(*v1.Pod, *v1.Container)) *pod.Request {
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{
		Namespace: "ns", Name: "web", UID: "u1", Labels: map[string]string{"app": "web"},
		Annotations: map[string]string{"note": "n"},
	}, Spec: v1.PodSpec{Containers: []v1.Container{{Name: "c", Image: "i:1", TerminationMessagePath: "/dev/termination-log"}}}}
	c := &p.Spec.Containers[0]
	change(p, c)
	return &pod.Request{Pod: p, Container: c, Sandbox: pod.Sandbox{IPs: []string{"10.1.0.2"}}, ImageID: "sha256:1"}
}

func value(from v1.EnvVarSource) *v1.EnvVarSource { return &from }

func TestEnvironment(t *testing.T) {
	b, _ := builder(t)
	yes := true
	local := func(name string) v1.LocalObjectReference { return v1.LocalObjectReference{Name: name} }
	r := request(func(_ *v1.Pod, c *v1.Container) {
		c.EnvFrom = []v1.EnvFromSource{
			{Prefix: "P_", ConfigMapRef: &v1.ConfigMapEnvSource{LocalObjectReference: local("settings")}},
			{SecretRef: &v1.SecretEnvSource{LocalObjectReference: local("none"), Optional: &yes}},
		}
		c.Env = []v1.EnvVar{
			{Name: "A", Value: "1"},
			{Name: "B", Value: "$(A)-$(P_color)-$(NOT)-$$(A)-$x"},
			{Name: "A", Value: "2"},
			{Name: "S", ValueFrom: value(v1.EnvVarSource{SecretKeyRef: &v1.SecretKeySelector{LocalObjectReference: local("key"), Key: "token"}})},
			{Name: "O", ValueFrom: value(v1.EnvVarSource{ConfigMapKeyRef: &v1.ConfigMapKeySelector{LocalObjectReference: local("settings"), Key: "no", Optional: &yes}})},
			{Name: "IP", ValueFrom: value(v1.EnvVarSource{FieldRef: &v1.ObjectFieldSelector{FieldPath: "status.podIP"}})},
			{Name: "APP", ValueFrom: value(v1.EnvVarSource{FieldRef: &v1.ObjectFieldSelector{FieldPath: "metadata.labels['app']"}})},
			{Name: "CPU", ValueFrom: value(v1.EnvVarSource{ResourceFieldRef: &v1.ResourceFieldSelector{Resource: "limits.cpu", Divisor: resource.MustParse("1m")}})},
			{Name: "MEM", ValueFrom: value(v1.EnvVarSource{ResourceFieldRef: &v1.ResourceFieldSelector{Resource: "limits.memory", Divisor: resource.MustParse("1Mi")}})},
		}
		c.Command, c.Args = []string{"run", "$(B)"}, []string{"$(S)"}
		c.Resources.Limits = v1.ResourceList{v1.ResourceCPU: resource.MustParse("250m")}
	})
	r.Devices.Envs = map[string]string{"DEV": "0"}
	config, err := b.Container(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, e := range config.Envs {
		got[e.Key] = string(e.Value)
	}
	want := map[string]string{"P_color": "blue", "A": "2", "B": "1-blue-$(NOT)-$(A)-$x", "S": "t0p", "IP": "10.1.0.2", "APP": "web", "CPU": "250", "MEM": "4096", "DEV": "0"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"run", "1-blue-$(NOT)-$(A)-$x", "t0p"}, append(config.Command, config.Args...)); diff != "" {
		t.Errorf("command (-want +got):\n%s", diff)
	}
}

func TestWhatIsMissingIsACreateContainerConfigError(t *testing.T) {
	b, _ := builder(t)
	root := int64(0)
	yes := true
	cases := map[string]struct {
		request *pod.Request
		want    string
	}{
		"ConfigMap": {request(func(_ *v1.Pod, c *v1.Container) {
			c.EnvFrom = []v1.EnvFromSource{{ConfigMapRef: &v1.ConfigMapEnvSource{LocalObjectReference: v1.LocalObjectReference{Name: "none"}}}}
		}), `"none" does not exist`},
		"key": {request(func(_ *v1.Pod, c *v1.Container) {
			c.Env = []v1.EnvVar{{Name: "A", ValueFrom: value(v1.EnvVarSource{SecretKeyRef: &v1.SecretKeySelector{LocalObjectReference: v1.LocalObjectReference{Name: "key"}, Key: "no"}})}}
		}), `has no key "no"`},
		"root": {request(func(_ *v1.Pod, c *v1.Container) {
			c.SecurityContext = &v1.SecurityContext{RunAsNonRoot: &yes, RunAsUser: &root}
		}), "would run as root"},
		"volume": {request(func(_ *v1.Pod, c *v1.Container) { c.VolumeMounts = []v1.VolumeMount{{Name: "v", MountPath: "/m"}} }), `no volume "v"`},
	}
	for name, c := range cases {
		_, err := b.Container(t.Context(), c.request)
		var start *pod.StartError
		if !errors.As(err, &start) || start.Reason != "CreateContainerConfigError" || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want an error with %q", name, err, c.want)
		}
	}
}

func TestContainerConfig(t *testing.T) {
	b, dir := builder(t)
	uid, no, ro := int64(1000), false, true
	r := request(func(p *v1.Pod, c *v1.Container) {
		p.Spec.SecurityContext = &v1.PodSecurityContext{RunAsUser: new(int64), FSGroup: &uid, SeccompProfile: &v1.SeccompProfile{Type: v1.SeccompProfileTypeRuntimeDefault}}
		c.SecurityContext = &v1.SecurityContext{
			RunAsUser: &uid, AllowPrivilegeEscalation: &no, ReadOnlyRootFilesystem: &ro,
			Capabilities: &v1.Capabilities{Drop: []v1.Capability{"ALL"}},
		}
		c.Resources.Limits = v1.ResourceList{v1.ResourceCPU: resource.MustParse("500m"), v1.ResourceMemory: resource.MustParse("64Mi")}
		c.VolumeMounts = []v1.VolumeMount{{Name: "v", MountPath: "/data"}, {Name: "r", MountPath: "/ro"}}
	})
	r.Start = pod.Start{Name: "c", Attempt: 3, Delay: 20e9}
	r.Volumes = pod.Volumes{"v": {HostPath: "/host/v", Relabel: true}, "r": {HostPath: "/host/r", ReadOnly: true}}
	r.Devices = pod.Devices{
		Nodes: []pod.DeviceNode{{ContainerPath: "/dev/x", HostPath: "/dev/y", Permissions: "rw"}}, CDI: []string{"v/c=0"},
		Mounts: []pod.DeviceMount{{ContainerPath: "/lib/x", HostPath: "/host/x", ReadOnly: true}}, Annotations: map[string]string{"dev": "1"},
	}
	config, err := b.Container(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	s := config.Linux.SecurityContext
	res := config.Linux.Resources
	got := []any{
		config.LogPath, config.Metadata.Attempt, config.Labels[pod.LabelContainerName], config.Labels[pod.LabelNode], config.Annotations[pod.AnnotationDelay],
		config.Annotations["dev"], s.RunAsUser.Value, s.NoNewPrivs, s.ReadonlyRootfs, s.SupplementalGroups, s.Seccomp.ProfileType, s.Capabilities.DropCapabilities,
		s.NamespaceOptions.Pid, len(s.MaskedPaths) > 0, res.CpuQuota, res.CpuShares, res.MemoryLimitInBytes, res.OomScoreAdj, config.CDIDevices[0].Name,
	}
	want := []any{
		"c/3.log", uint32(3), "c", "n1", "20s", "1", int64(1000), true, true,
		[]int64{1000},
		runtimeapi.SecurityProfile_RuntimeDefault,
		[]string{"ALL"},
		runtimeapi.NamespaceMode_CONTAINER, true, int64(50000), int64(512), int64(64 << 20), int64(-997), "v/c=0",
	} // limits alone are requests too: Guaranteed
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("config (-want +got):\n%s", diff)
	}
	var mounts []string
	for _, m := range config.Mounts {
		mode := "rw"
		if m.Readonly {
			mode = "ro"
		}
		if m.SelinuxRelabel {
			mode += ",Z"
		}
		mounts = append(mounts, strings.TrimPrefix(m.HostPath, dir)+":"+m.ContainerPath+":"+mode)
	}
	if diff := cmp.Diff([]string{
		"/host/v:/data:rw,Z", "/host/r:/ro:ro", "/pods/u1/etc-hosts:/etc/hosts:rw,Z",
		"/pods/u1/containers/c/termination-3:/dev/termination-log:rw,Z", "/host/x:/lib/x:ro",
	}, mounts); diff != "" {
		t.Errorf("mounts (-want +got):\n%s", diff)
	}
	hosts, err := os.ReadFile(filepath.Join(dir, "pods/u1/etc-hosts"))
	if err != nil || !strings.Contains(string(hosts), "10.1.0.2\tweb\n") {
		t.Errorf("hosts file %q, %v", hosts, err)
	}
	if err := errors.Join(b.Clean(r.Pod), b.RemoveDir(r.Pod.UID)); err != nil {
		t.Fatal(err)
	}
	for _, left := range []string{"pods/u1", "logs/ns_web_u1"} {
		if _, err := os.Stat(filepath.Join(dir, left)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there: %v", left, err)
		}
	}
}

func TestSandboxConfig(t *testing.T) {
	b, dir := builder(t)
	two := "2"
	r := request(func(p *v1.Pod, c *v1.Container) {
		c.Ports = []v1.ContainerPort{{ContainerPort: 80, HostPort: 8080, Protocol: v1.ProtocolUDP}, {ContainerPort: 81}}
		p.Spec.DNSConfig = &v1.PodDNSConfig{Nameservers: []string{"192.0.2.9"}, Options: []v1.PodDNSConfigOption{{Name: "ndots", Value: &two}}}
		p.Spec.SecurityContext = &v1.PodSecurityContext{Sysctls: []v1.Sysctl{{Name: "net/ipv4/ip_forward", Value: "1"}}}
	})
	s, err := b.Sandbox(r.Pod, 2)
	if err != nil {
		t.Fatal(err)
	}
	got := []any{
		s.Metadata.Uid, s.Metadata.Attempt, s.Hostname, strings.TrimPrefix(s.LogDirectory, dir), s.Linux.CgroupParent, s.Labels["app"], s.Labels[pod.LabelPodName],
		s.Annotations["note"], len(s.PortMappings), s.PortMappings[0].Protocol, s.DnsConfig.Servers, s.DnsConfig.Searches, s.DnsConfig.Options, s.Linux.Sysctls,
	}
	want := []any{
		"u1", uint32(2), "web", "/logs/ns_web_u1", "/kit/podu1", "web", "web", "n", 1, runtimeapi.Protocol_UDP,
		[]string{"192.0.2.1", "192.0.2.9"},
		[]string{"a.example", "b.example"},
		[]string{"rotate", "ndots:2"},
		map[string]string{"net.ipv4.ip_forward": "1"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("sandbox (-want +got):\n%s", diff)
	}
	r.Pod.Spec.HostNetwork = true
	r.Pod.Spec.DNSPolicy = v1.DNSNone
	if s, err = b.Sandbox(r.Pod, 0); err != nil {
		t.Fatal(err)
	}
	if s.Hostname != "" || len(s.PortMappings) != 0 || !slices.Equal(s.DnsConfig.Servers, []string{"192.0.2.9"}) ||
		s.Linux.SecurityContext.NamespaceOptions.Network != runtimeapi.NamespaceMode_NODE {
		t.Errorf("on the host's network: %+v", s)
	}
}

func TestSubPathStaysInItsVolume(t *testing.T) {
	testenv.Require(t, testenv.Root)
	b, dir := builder(t)
	volume, outside := filepath.Join(dir, "volume"), filepath.Join(dir, "outside")
	if err := errors.Join(os.MkdirAll(filepath.Join(volume, "in"), 0o755), os.Mkdir(outside, 0o755), os.WriteFile(filepath.Join(outside, "secret"), nil, 0o600),
		os.WriteFile(filepath.Join(volume, "file"), []byte("text"), 0o644), os.Symlink(outside, filepath.Join(volume, "escape")), os.Symlink("in", filepath.Join(volume, "link"))); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(volume, 0o777); err != nil {
		t.Fatal(err)
	}
	mounted := func(sub string) (string, error) {
		r := request(func(_ *v1.Pod, c *v1.Container) {
			c.Env = []v1.EnvVar{{Name: "N", Value: "in"}}
			c.VolumeMounts = []v1.VolumeMount{{Name: "v", MountPath: "/m", SubPathExpr: sub}}
		})
		t.Cleanup(func() {
			if err := b.Clean(r.Pod); err != nil {
				t.Error(err)
			}
		})
		r.Volumes = pod.Volumes{"v": {HostPath: volume}}
		config, err := b.Container(t.Context(), r)
		if err != nil {
			return "", err
		}
		return config.Mounts[0].HostPath, nil
	}
	for _, good := range []string{"in", "link", "$(N)", "new/deep", "file"} {
		path, err := mounted(good)
		if err != nil {
			t.Errorf("%s: %v", good, err)
			continue
		}
		real, _ := os.Stat(filepath.Join(volume, strings.ReplaceAll(good, "$(N)", "in")))
		if there, err := os.Stat(path); err != nil || !os.SameFile(real, there) {
			t.Errorf("%s: %q does not show it (%v)", good, path, err)
		}
	}
	if fi, err := os.Stat(filepath.Join(volume, "new/deep")); err != nil || fi.Mode().Perm() != 0o777 {
		t.Errorf("a subPath that was made has the mode %v (%v), want the volume's", fi.Mode(), err)
	}
	for _, bad := range []string{"escape", "escape/secret", "../outside", "/etc", "$(NOT)"} {
		if path, err := mounted(bad); err == nil {
			t.Errorf("%s was mounted at %q", bad, path)
		}
	}
}

// TestGroupComesWithAUser holds CRI's rule that run_as_group is only given
// beside a user, for an image that names none.
func TestGroupComesWithAUser(t *testing.T) {
	b, _ := builder(t)
	group := int64(7)
	config, err := b.Container(t.Context(), request(func(_ *v1.Pod, c *v1.Container) {
		c.SecurityContext = &v1.SecurityContext{RunAsGroup: &group}
	}))
	if err != nil {
		t.Fatal(err)
	}
	if s := config.Linux.SecurityContext; s.RunAsGroup.GetValue() != 7 || s.RunAsUser == nil || s.RunAsUser.Value != 0 {
		t.Errorf("user %v, group %v", s.RunAsUser, s.RunAsGroup)
	}
}

// TestTarget holds in which PID namespace an ephemeral container is: that of its
// target, unless the Pod has one for all or none of its own.
func TestStopSignalAndGroupsPolicy(t *testing.T) {
	b, _ := builder(t)
	strict, usr1 := v1.SupplementalGroupsPolicyStrict, v1.SIGUSR1
	for name, test := range map[string]struct {
		change func(*v1.Pod, *v1.Container)
		signal runtimeapi.Signal
		policy runtimeapi.SupplementalGroupsPolicy
	}{
		"neither": {func(*v1.Pod, *v1.Container) {}, runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT, runtimeapi.SupplementalGroupsPolicy_Merge},
		"both": {func(p *v1.Pod, c *v1.Container) {
			c.Lifecycle = &v1.Lifecycle{StopSignal: &usr1}
			p.Spec.SecurityContext = &v1.PodSecurityContext{SupplementalGroupsPolicy: &strict}
		}, runtimeapi.Signal_SIGNAL_SIGUSR1, runtimeapi.SupplementalGroupsPolicy_Strict},
	} {
		r := request(test.change)
		config, err := b.Container(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		sandbox, err := b.Sandbox(r.Pod, 0)
		if err != nil {
			t.Fatal(err)
		}
		own, all := config.Linux.SecurityContext.SupplementalGroupsPolicy, sandbox.Linux.SecurityContext.SupplementalGroupsPolicy
		if config.StopSignal != test.signal || own != test.policy || all != test.policy {
			t.Errorf("%s: stop signal %v, policies %v of the container and %v of the sandbox", name, config.StopSignal, own, all)
		}
	}
}

func TestTarget(t *testing.T) {
	b, _ := builder(t)
	yes := true
	for name, c := range map[string]struct {
		change func(*v1.PodSpec)
		pid    runtimeapi.NamespaceMode
		id     string
	}{
		"own":    {func(*v1.PodSpec) {}, runtimeapi.NamespaceMode_TARGET, "c1"},
		"shared": {func(s *v1.PodSpec) { s.ShareProcessNamespace = &yes }, runtimeapi.NamespaceMode_POD, ""},
		"host's": {func(s *v1.PodSpec) { s.HostPID = true }, runtimeapi.NamespaceMode_NODE, ""},
	} {
		r := request(func(p *v1.Pod, _ *v1.Container) { c.change(&p.Spec) })
		r.Target = "c1"
		config, err := b.Container(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		if n := config.Linux.SecurityContext.NamespaceOptions; n.Pid != c.pid || n.TargetId != c.id {
			t.Errorf("%s: namespaces %v", name, n)
		}
	}
}
