package spec_test

import (
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri/oci/spec"
	"github.com/nodekit-project/nodekit/internal/fault"
)

var update = flag.Bool("update", false, "write the golden files anew")

// input is a container that asks for nothing, on a machine of three
// capabilities beyond the default ones.
func input() spec.Input {
	return spec.Input{
		Sandbox:   &runtimeapi.PodSandboxConfig{Hostname: "pod", Linux: &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{}}},
		Container: &runtimeapi.ContainerConfig{Linux: &runtimeapi.LinuxContainerConfig{SecurityContext: &runtimeapi.LinuxContainerSecurityContext{}}},
		Image:     v1.Config{Entrypoint: []string{"/entry"}, Cmd: []string{"cmd"}, Env: []string{"A=image", "B=image"}},
		Rootfs:    "/rootfs", Cgroup: "/pod/container",
		Namespaces: spec.Namespaces{Net: "/ns/net", IPC: "/ns/ipc", UTS: "/ns/uts"},
		Files:      spec.Files{ResolvConf: "/f/resolv.conf", Hostname: "/f/hostname", Hosts: "/f/hosts", Shm: "/f/shm"},
		Users: spec.Users{
			Passwd: []byte("root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/:\nbroken\n"),
			Group:  []byte("root:x:0:\nusers:x:100:app,other\nwheel:x:10:other\n"),
		},
		Host: spec.Host{
			Capabilities: []string{
				"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP",
				"CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SYS_CHROOT", "CAP_MKNOD", "CAP_AUDIT_WRITE", "CAP_SETFCAP",
				"CAP_NET_ADMIN", "CAP_SYS_ADMIN", "CAP_SYS_TIME",
			},
			MinOOMScoreAdj: -1000,
			Seccomp: func(profile []byte, s *specs.Spec) (*specs.LinuxSeccomp, error) {
				return &specs.LinuxSeccomp{DefaultAction: "SCMP_ACT_ERRNO", ListenerMetadata: string(profile)}, nil
			},
		},
	}
}

// TestGolden builds whole documents and compares them with testdata.
func TestGolden(t *testing.T) {
	for name, change := range map[string]func(*spec.Input){
		"plain": func(*spec.Input) {},
		"full": func(in *spec.Input) {
			sec := in.Container.Linux.SecurityContext
			sec.RunAsUser = &runtimeapi.Int64Value{Value: 1000}
			sec.SupplementalGroups = []int64{5, 7}
			sec.ReadonlyRootfs, sec.NoNewPrivs = true, true
			sec.MaskedPaths, sec.ReadonlyPaths = []string{"/proc/kcore"}, []string{"/proc/sys"}
			sec.Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
			sec.Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"NET_ADMIN"}, DropCapabilities: []string{"ALL"}}
			in.Container.Envs = []*runtimeapi.KeyValue{{Key: "B", Value: []byte("pod")}, {Key: "C", Value: []byte("x=y")}}
			in.Container.Mounts = []*runtimeapi.Mount{
				{ContainerPath: "/data/deep/er", HostPath: "/h/deep", Propagation: runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL},
				{ContainerPath: "/data", HostPath: "/h/data", Readonly: true},
				{ContainerPath: "/etc/hosts", HostPath: "/h/hosts"},
				{ContainerPath: "/rro", HostPath: "/h/rro", Readonly: true, RecursiveReadOnly: true, MountOptions: []string{"noexec"}},
			}
			in.Container.Linux.Resources = &runtimeapi.LinuxContainerResources{
				CpuShares: 512, CpuQuota: 50000, CpuPeriod: 100000, MemoryLimitInBytes: 1 << 20, OomScoreAdj: 985, CpusetCpus: "0-1",
				HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB", Limit: 4}}, Unified: map[string]string{"memory.high": "9"},
			}
			in.Devices = []spec.Device{{Node: specs.LinuxDevice{Path: "/dev/gpu0", Type: "c", Major: 195, Minor: 3}, Access: "rw"}}
			in.Sources = map[int]string{3: "/prepared/rro"}
			weight := uint16(80)
			in.BlockIO, in.RDTClass = &specs.LinuxBlockIO{Weight: &weight}, "gold"
			in.Container.Tty = true
			in.Host.CgroupV2 = true
		},
		"userns": func(in *spec.Input) {
			inUserNamespace(in)
			in.Container.Linux.SecurityContext.NamespaceOptions = in.Sandbox.Linux.SecurityContext.NamespaceOptions
			in.Container.Mounts = []*runtimeapi.Mount{
				{ContainerPath: "/img", Image: &runtimeapi.ImageSpec{Image: "i"}, ImageSubPath: "x", MountOptions: []string{"noexec"}},
				{ContainerPath: "/data", HostPath: "/h/data", UidMappings: []*runtimeapi.IDMapping{{HostId: 100000, Length: 65536}}, GidMappings: []*runtimeapi.IDMapping{{HostId: 100000, Length: 65536}}},
			}
			in.Sources = map[int]string{0: "/prepared/0", 1: "/prepared/1"}
		},
		"profiles": func(in *spec.Input) { // by the deprecated fields, on a machine with everything
			sec := in.Container.Linux.SecurityContext
			sec.SeccompProfilePath, in.Seccomp = "localhost//etc/strict.json", []byte("strict")            //nolint:staticcheck // old clients send it
			sec.ApparmorProfile = "runtime/default"                                                        //nolint:staticcheck // as above
			in.Sandbox.Linux.SecurityContext.SelinuxOptions = &runtimeapi.SELinuxOption{Level: "s0:c1,c2"} // without SELinux
			in.Host.AppArmor, in.Host.AppArmorDefault = true, "nodekit-default"
		},
		"selinux": func(in *spec.Input) { // the container is of another type than its Pod
			in.Labels = podLabels()
			in.Container.Linux.SecurityContext.SelinuxOptions = &runtimeapi.SELinuxOption{Type: "container_logreader_t"}
		},
		"privileged": func(in *spec.Input) {
			in.Sandbox.Linux.SecurityContext.Privileged = true
			sec := in.Container.Linux.SecurityContext
			sec.Privileged = true
			sec.MaskedPaths = []string{"/proc/kcore"}
			sec.Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
			in.Namespaces = spec.Namespaces{HostPID: true}
			in.Files.Shm = "/dev/shm"
		},
	} {
		t.Run(name, func(t *testing.T) {
			in := input()
			change(&in)
			doc, err := spec.Build(in)
			if err != nil {
				t.Fatal(err)
			}
			got, err := json.MarshalIndent(doc, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join("testdata", name+".json")
			if *update {
				if err := os.WriteFile(file, append(got, '\n'), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(got)+"\n"); diff != "" {
				t.Errorf("%s differs (-want +got):\n%s", file, diff)
			}
		})
	}
}

func TestArgs(t *testing.T) {
	for name, tc := range map[string]struct {
		entrypoint, cmd, command, args, want []string
	}{
		"image alone":          {[]string{"e"}, []string{"c"}, nil, nil, []string{"e", "c"}},
		"args replace cmd":     {[]string{"e"}, []string{"c"}, nil, []string{"a"}, []string{"e", "a"}},
		"command replaces all": {[]string{"e"}, []string{"c"}, []string{"k"}, nil, []string{"k"}},
		"command and args":     {[]string{"e"}, []string{"c"}, []string{"k"}, []string{"a"}, []string{"k", "a"}},
		"cmd alone":            {nil, []string{"c"}, nil, nil, []string{"c"}},
		"args alone":           {nil, nil, nil, []string{"a"}, []string{"a"}},
	} {
		t.Run(name, func(t *testing.T) {
			in := input()
			in.Image.Entrypoint, in.Image.Cmd = tc.entrypoint, tc.cmd
			in.Container.Command, in.Container.Args = tc.command, tc.args
			got, err := spec.Args(in)
			if err != nil || !slices.Equal(got, tc.want) {
				t.Errorf("Args = %q, %v; want %q", got, err, tc.want)
			}
		})
	}
}

func TestUser(t *testing.T) {
	num := func(n int64) *runtimeapi.Int64Value { return &runtimeapi.Int64Value{Value: n} }
	for name, tc := range map[string]struct {
		image  string
		sec    *runtimeapi.LinuxContainerSecurityContext
		uid    uint32
		gid    uint32
		groups []uint32
	}{
		"nobody says":            {"", nil, 0, 0, []uint32{0}},
		"image by name":          {"app", nil, 1000, 1001, []uint32{100, 1001}},
		"image by number":        {"1000", nil, 1000, 1001, []uint32{100, 1001}},
		"image with group name":  {"app:wheel", nil, 1000, 10, []uint32{10, 100}},
		"image of no account":    {"4711:12", nil, 4711, 12, []uint32{12}},
		"pod by number":          {"app", &runtimeapi.LinuxContainerSecurityContext{RunAsUser: num(0)}, 0, 0, []uint32{0}},
		"pod by name":            {"", &runtimeapi.LinuxContainerSecurityContext{RunAsUsername: "app"}, 1000, 1001, []uint32{100, 1001}},
		"pod with group":         {"", &runtimeapi.LinuxContainerSecurityContext{RunAsUser: num(1000), RunAsGroup: num(3)}, 1000, 3, []uint32{3, 100}},
		"pod with more groups":   {"", &runtimeapi.LinuxContainerSecurityContext{RunAsUser: num(9), SupplementalGroups: []int64{4, 2}}, 9, 0, []uint32{0, 2, 4}},
		"groups of the pod only": {"app", &runtimeapi.LinuxContainerSecurityContext{SupplementalGroupsPolicy: runtimeapi.SupplementalGroupsPolicy_Strict}, 1000, 1001, []uint32{1001}},
	} {
		t.Run(name, func(t *testing.T) {
			in := input()
			in.Image.User = tc.image
			if tc.sec != nil {
				in.Container.Linux.SecurityContext = tc.sec
			}
			doc, err := spec.Build(in)
			if err != nil {
				t.Fatal(err)
			}
			want := specs.User{UID: tc.uid, GID: tc.gid, AdditionalGids: tc.groups}
			if diff := cmp.Diff(want, doc.Process.User); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestCapabilities(t *testing.T) {
	for name, tc := range map[string]struct {
		ask  *runtimeapi.Capability
		want []string // of a few that tell the cases apart
		not  []string
	}{
		"default":          {nil, []string{"CAP_CHOWN"}, []string{"CAP_NET_ADMIN"}},
		"drop all add one": {&runtimeapi.Capability{DropCapabilities: []string{"ALL"}, AddCapabilities: []string{"cap_net_admin"}}, []string{"CAP_NET_ADMIN"}, []string{"CAP_CHOWN"}},
		"add all drop one": {&runtimeapi.Capability{AddCapabilities: []string{"all"}, DropCapabilities: []string{"SYS_TIME"}}, []string{"CAP_NET_ADMIN", "CAP_CHOWN"}, []string{"CAP_SYS_TIME"}},
		"drop one":         {&runtimeapi.Capability{DropCapabilities: []string{"CHOWN"}}, []string{"CAP_KILL"}, []string{"CAP_CHOWN"}},
	} {
		t.Run(name, func(t *testing.T) {
			in := input()
			in.Container.Linux.SecurityContext.Capabilities = tc.ask
			doc, err := spec.Build(in)
			if err != nil {
				t.Fatal(err)
			}
			for set, got := range map[string][]string{"bounding": doc.Process.Capabilities.Bounding, "effective": doc.Process.Capabilities.Effective} {
				for _, c := range tc.want {
					if !slices.Contains(got, c) {
						t.Errorf("the %s set lacks %s: %v", set, c, got)
					}
				}
				for _, c := range tc.not {
					if slices.Contains(got, c) {
						t.Errorf("the %s set has %s: %v", set, c, got)
					}
				}
			}
		})
	}
}

func TestOOMScoreAdjIsClamped(t *testing.T) {
	in := input()
	in.Container.Linux.Resources = &runtimeapi.LinuxContainerResources{OomScoreAdj: -997}
	in.Host.MinOOMScoreAdj = 0
	doc, err := spec.Build(in)
	if err != nil || *doc.Process.OOMScoreAdj != 0 {
		t.Errorf("the score is %v, %v; want 0", doc.Process.OOMScoreAdj, err)
	}
}

// TestNumbersAreNoNames: an image must not turn the user that the kubelet
// checked into another one by an account with a number for a name.
func TestNumbersAreNoNames(t *testing.T) {
	in := input()
	in.Users.Passwd = []byte("1000:x:0:0::/:\n")
	in.Users.Group = []byte("2000:x:0:\n")
	for from, change := range map[string]func(){
		"the pod": func() {
			in.Container.Linux.SecurityContext.RunAsUser = &runtimeapi.Int64Value{Value: 1000}
			in.Container.Linux.SecurityContext.RunAsGroup = &runtimeapi.Int64Value{Value: 2000}
		},
		"the image": func() {
			in.Container.Linux.SecurityContext.RunAsUser, in.Container.Linux.SecurityContext.RunAsGroup = nil, nil
			in.Image.User = "1000:2000"
		},
	} {
		change()
		doc, err := spec.Build(in)
		if err != nil {
			t.Fatal(err)
		}
		if u := doc.Process.User; u.UID != 1000 || u.GID != 2000 {
			t.Errorf("1000:2000 of %s became %d:%d", from, u.UID, u.GID)
		}
	}
}

// TestCgroupMount: a container in the host's cgroup namespace must not mount
// cgroup2 anew, which changes the options of the host's mount.
func TestCgroupMount(t *testing.T) {
	for _, privileged := range []bool{false, true} {
		in := input()
		in.Host.CgroupV2 = true
		in.Container.Linux.SecurityContext.Privileged = privileged
		in.Sandbox.Linux = &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{Privileged: privileged}}
		doc, err := spec.Build(in)
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(doc.Mounts, func(m specs.Mount) bool { return m.Destination == "/sys/fs/cgroup" })
		own := slices.ContainsFunc(doc.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.CgroupNamespace })
		if fresh := doc.Mounts[i].Type == "cgroup"; fresh != own || own == privileged {
			t.Errorf("privileged %v: a cgroup namespace of its own: %v, and its mount is %v", privileged, own, doc.Mounts[i])
		}
	}
}

// TestRefused names what is asked for in vain, never leaves it out.
func TestRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		kind   fault.Kind
		change func(*spec.Input)
	}{
		"no command":           {fault.Invalid, func(in *spec.Input) { in.Image = v1.Config{} }},
		"unknown user":         {fault.Invalid, func(in *spec.Input) { in.Image.User = "nobody-here" }},
		"unknown group":        {fault.Invalid, func(in *spec.Input) { in.Image.User = "app:nothing" }},
		"negative user":        {fault.Invalid, func(in *spec.Input) { in.Container.Linux.SecurityContext.RunAsUser = &runtimeapi.Int64Value{Value: -1} }},
		"group without a user": {fault.Invalid, func(in *spec.Input) { in.Container.Linux.SecurityContext.RunAsGroup = &runtimeapi.Int64Value{Value: 1} }},
		"unknown capability": {fault.Invalid, func(in *spec.Input) {
			in.Container.Linux.SecurityContext.Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"FLY"}}
		}},
		"privileged in an unprivileged sandbox": {fault.Invalid, func(in *spec.Input) { in.Container.Linux.SecurityContext.Privileged = true }},
		"relative mount":                        {fault.Invalid, mountOf(&runtimeapi.Mount{ContainerPath: "x", HostPath: "/h"})},
		"mount over the root":                   {fault.Invalid, mountOf(&runtimeapi.Mount{ContainerPath: "/a/..", HostPath: "/h"})},
		"mount of nothing":                      {fault.Invalid, mountOf(&runtimeapi.Mount{ContainerPath: "/x"})},
		"recursive read-only but writable":      {fault.Invalid, mountOf(&runtimeapi.Mount{ContainerPath: "/x", HostPath: "/h", RecursiveReadOnly: true})},
		"image mount unprepared":                {fault.FailedPrecondition, mountOf(&runtimeapi.Mount{ContainerPath: "/x", Image: &runtimeapi.ImageSpec{Image: "i"}})},
		"image and host path":                   {fault.Invalid, mountOf(&runtimeapi.Mount{ContainerPath: "/x", HostPath: "/h", Image: &runtimeapi.ImageSpec{Image: "i"}})},
		"image path without an image":           {fault.Invalid, mountOf(&runtimeapi.Mount{ContainerPath: "/x", HostPath: "/h", ImageSubPath: "p"})},
		"relative host path":                    {fault.Invalid, mountOf(&runtimeapi.Mount{ContainerPath: "/x", HostPath: "h"})},
		"id mapping unprepared":                 {fault.FailedPrecondition, mountOf(&runtimeapi.Mount{ContainerPath: "/x", HostPath: "/h", UidMappings: []*runtimeapi.IDMapping{{}}})},
		"recursive read-only unprepared":        {fault.FailedPrecondition, mountOf(&runtimeapi.Mount{ContainerPath: "/x", HostPath: "/h", Readonly: true, RecursiveReadOnly: true})},
		"mount option that opens":               {fault.Invalid, mountOf(&runtimeapi.Mount{ContainerPath: "/x", HostPath: "/h", MountOptions: []string{"rshared"}})},
		"network of the node in a sandbox that has its own": {fault.Invalid, func(in *spec.Input) {
			in.Container.Linux.SecurityContext.NamespaceOptions = &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE}
		}},
		"IPC namespace of the node in a sandbox that has its own": {fault.Invalid, func(in *spec.Input) {
			in.Container.Linux.SecurityContext.NamespaceOptions = &runtimeapi.NamespaceOption{Ipc: runtimeapi.NamespaceMode_NODE}
		}},
		"network of another container": {fault.Unimplemented, func(in *spec.Input) {
			in.Container.Linux.SecurityContext.NamespaceOptions = &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_TARGET, TargetId: "x"}
		}},
		"IPC namespace of the container's own": {fault.Unimplemented, func(in *spec.Input) {
			in.Container.Linux.SecurityContext.NamespaceOptions = &runtimeapi.NamespaceOption{Ipc: runtimeapi.NamespaceMode_CONTAINER}
		}},
		"user namespace that the sandbox lacks": {fault.Invalid, func(in *spec.Input) { in.Container.Linux.SecurityContext.NamespaceOptions = usersOf(1, 2) }},
		"another user namespace": {fault.Invalid, func(in *spec.Input) {
			inUserNamespace(in)
			in.Container.Linux.SecurityContext.NamespaceOptions = usersOf(200000, 65536)
		}},
		"user namespace of the container": {fault.Invalid, func(in *spec.Input) {
			inUserNamespace(in)
			in.Sandbox.Linux.SecurityContext.NamespaceOptions.UsernsOptions.Mode = runtimeapi.NamespaceMode_CONTAINER
		}},
		"user namespace on the host's network": {fault.Unimplemented, func(in *spec.Input) {
			inUserNamespace(in)
			in.Sandbox.Linux.SecurityContext.NamespaceOptions.Network = runtimeapi.NamespaceMode_NODE
		}},
		"user namespace without a root": {fault.Invalid, func(in *spec.Input) {
			inUserNamespace(in)
			in.Sandbox.Linux.SecurityContext.NamespaceOptions.UsernsOptions.Uids[0].ContainerId = 1
		}},
		"overlapping mappings": {fault.Invalid, func(in *spec.Input) {
			inUserNamespace(in)
			u := in.Sandbox.Linux.SecurityContext.NamespaceOptions.UsernsOptions
			u.Gids = append(u.Gids, &runtimeapi.IDMapping{ContainerId: 65535, HostId: 1, Length: 1})
		}},
		"more mappings than the kernel takes": {fault.Invalid, func(in *spec.Input) {
			inUserNamespace(in)
			u := in.Sandbox.Linux.SecurityContext.NamespaceOptions.UsernsOptions
			u.Uids = nil
			for i := range uint32(341) {
				u.Uids = append(u.Uids, &runtimeapi.IDMapping{ContainerId: i, HostId: 100_000 + 2*i, Length: 1})
			}
		}},
		"user that is not mapped": {fault.Invalid, func(in *spec.Input) {
			inUserNamespace(in)
			in.Container.Linux.SecurityContext.RunAsUser = &runtimeapi.Int64Value{Value: 70000}
		}},
		"group that is not mapped": {fault.Invalid, func(in *spec.Input) {
			inUserNamespace(in)
			in.Container.Linux.SecurityContext.SupplementalGroups = []int64{70000}
		}},
		"user by name and number": {fault.Invalid, func(in *spec.Input) {
			in.Container.Linux.SecurityContext.RunAsUser = &runtimeapi.Int64Value{Value: 1}
			in.Container.Linux.SecurityContext.RunAsUsername = "app"
		}},
		"unknown groups policy": {fault.Invalid, func(in *spec.Input) { in.Container.Linux.SecurityContext.SupplementalGroupsPolicy = 7 }},
		"unknown profile in the old field": {fault.Invalid, func(in *spec.Input) {
			in.Container.Linux.SecurityContext.SeccompProfilePath = "strict" //nolint:staticcheck // old clients send it
		}},
		"old field without a name": {fault.Invalid, func(in *spec.Input) {
			in.Container.Linux.SecurityContext.ApparmorProfile = "localhost/" //nolint:staticcheck // old clients send it
		}},
		"AppArmor profile without AppArmor": {fault.FailedPrecondition, func(in *spec.Input) {
			in.Container.Linux.SecurityContext.Apparmor = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: "strict"}
		}},
		"SELinux level that ends the mount option": {fault.Invalid, func(in *spec.Input) {
			in.Labels = podLabels()
			in.Container.Linux.SecurityContext.SelinuxOptions = &runtimeapi.SELinuxOption{Level: `s0",context="x`}
		}},
		"SELinux type with a level": {fault.Invalid, func(in *spec.Input) {
			in.Labels = podLabels()
			in.Container.Linux.SecurityContext.SelinuxOptions = &runtimeapi.SELinuxOption{Type: "spc_t:s0"}
		}},
		"profile of unknown type": {fault.Invalid, func(in *spec.Input) {
			in.Container.Linux.SecurityContext.Apparmor = &runtimeapi.SecurityProfile{ProfileType: 9}
		}},
		"empty seccomp profile": {fault.Invalid, func(in *spec.Input) {
			in.Container.Linux.SecurityContext.Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: "/p"}
		}},
		"Windows": {fault.Unimplemented, func(in *spec.Input) { in.Container.Windows = &runtimeapi.WindowsContainerConfig{} }},
		"seccomp profile without seccomp": {fault.FailedPrecondition, func(in *spec.Input) {
			in.Host.Seccomp, in.Seccomp = nil, []byte("{}")
			in.Container.Linux.SecurityContext.Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: "/p"}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			in := input()
			tc.change(&in)
			if _, err := spec.Build(in); fault.Of(err) != tc.kind {
				t.Errorf("Build says %v (%s), want an error of kind %q", err, fault.Of(err), tc.kind)
			}
		})
	}
}

func usersOf(host, n uint32) *runtimeapi.NamespaceOption {
	one := func() []*runtimeapi.IDMapping { return []*runtimeapi.IDMapping{{HostId: host, Length: n}} }
	return &runtimeapi.NamespaceOption{UsernsOptions: &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_POD, Uids: one(), Gids: one()}}
}

func inUserNamespace(in *spec.Input) {
	in.Sandbox.Linux.SecurityContext.NamespaceOptions = usersOf(100000, 65536)
	in.Namespaces.User = "/ns/user"
}

func mountOf(m *runtimeapi.Mount) func(*spec.Input) {
	return func(in *spec.Input) { in.Container.Mounts = []*runtimeapi.Mount{m} }
}

// FuzzUsers: an image's own files must never break anything but the image.
func FuzzUsers(f *testing.F) {
	f.Add([]byte("a:x:1:2:::\n"), []byte("g:x:3:a,b\n"), "a:g")
	f.Add([]byte(":::::\n\x00"), []byte("::::"), ":")
	f.Fuzz(func(t *testing.T, passwd, group []byte, user string) {
		in := input()
		in.Users, in.Image.User = spec.Users{Passwd: passwd, Group: group}, user
		doc, err := spec.Build(in)
		if err == nil && (doc.Process.User.UID > 1<<31-1 || doc.Process.User.GID > 1<<31-1) {
			t.Errorf("user %v", doc.Process.User)
		}
	})
}

// TestCheckLimits: what cgroup v2 does not have is refused there, by name.
func TestCheckLimits(t *testing.T) {
	swappiness, yes, no, period := uint64(0), true, false, uint64(1000)
	for name, c := range map[string]struct {
		r    *specs.LinuxResources
		says string
	}{
		"none":            {nil, ""},
		"others":          {&specs.LinuxResources{Memory: &specs.LinuxMemory{DisableOOMKiller: &no}, CPU: &specs.LinuxCPU{Period: &period}}, ""},
		"swappiness":      {&specs.LinuxResources{Memory: &specs.LinuxMemory{Swappiness: &swappiness}}, "memory.swappiness"},
		"no OOM killer":   {&specs.LinuxResources{Memory: &specs.LinuxMemory{DisableOOMKiller: &yes}}, "memory.disableOOMKiller"},
		"realtime":        {&specs.LinuxResources{CPU: &specs.LinuxCPU{RealtimePeriod: &period}}, "cpu.realtimePeriod"},
		"several of them": {&specs.LinuxResources{Memory: &specs.LinuxMemory{Swappiness: &swappiness, DisableOOMKiller: &yes}}, "memory.swappiness, memory.disableOOMKiller"},
	} {
		s := &specs.Spec{Linux: &specs.Linux{Resources: c.r}}
		if err := spec.CheckLimits(s, spec.Host{}); err != nil {
			t.Errorf("%s, on v1: %v", name, err)
		}
		err := spec.CheckLimits(s, spec.Host{CgroupV2: true})
		if (err != nil) != (c.says != "") || err != nil && (!errors.Is(err, fault.FailedPrecondition) || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%s, on v2: %v, want %q", name, err, c.says)
		}
	}
}
