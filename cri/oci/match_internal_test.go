package oci

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// savable is an ordinary container's spec.
func savable() *specs.Spec {
	s := bareSpec("/program", "/cgroup", "/program", "argument")
	s.Process.Env = []string{"HOSTNAME=a", "A=1"}
	s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActErrno}
	s.Mounts = append(s.Mounts, specs.Mount{Destination: "/etc/hosts", Type: "bind", Source: "/one/hosts", Options: []string{"rbind", "ro"}})
	return s
}

// TestMatches: what the processes of a checkpoint keep must match the request; everything
// else may differ.
func TestMatches(t *testing.T) {
	text, err := json.Marshal(savable())
	if err != nil {
		t.Fatal(err)
	}
	var saved specs.Spec
	if err := json.Unmarshal(text, &saved); err != nil {
		t.Fatal(err)
	}
	score := 5
	for name, change := range map[string]func(s *specs.Spec){
		"nothing":            func(*specs.Spec) {},
		"where mounts lie":   func(s *specs.Spec) { s.Mounts[len(s.Mounts)-1].Source = "/two/hosts" },
		"the root":           func(s *specs.Spec) { s.Root.Path = "/elsewhere" },
		"the cgroup":         func(s *specs.Spec) { s.Linux.CgroupsPath = "/other" },
		"limits":             func(s *specs.Spec) { s.Linux.Resources.Memory = &specs.LinuxMemory{} },
		"the oom score":      func(s *specs.Spec) { s.Process.OOMScoreAdj = &score },
		"a path to join":     func(s *specs.Spec) { s.Linux.Namespaces[0].Path = "/run/ns" },
		"an empty list":      func(s *specs.Spec) { s.Process.Rlimits = []specs.POSIXRlimit{} },
		"hooks that are not": func(s *specs.Spec) { s.Hooks = &specs.Hooks{} },
	} {
		now := savable()
		change(now)
		if err := matches(side{&saved, "a"}, side{now, "a"}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for part, change := range map[string]func(s *specs.Spec){
		"arguments":         func(s *specs.Spec) { s.Process.Args = []string{"/program"} },
		"environment":       func(s *specs.Spec) { s.Process.Env = []string{"HOSTNAME=a", "A=2"} },
		"working directory": func(s *specs.Spec) { s.Process.Cwd = "/tmp" },
		"user":              func(s *specs.Spec) { s.Process.User.UID = 0 },
		"terminal":          func(s *specs.Spec) { s.Process.Terminal = true },
		"capabilities":      func(s *specs.Spec) { s.Process.Capabilities.Bounding = []string{"CAP_SYS_ADMIN"} },
		"noNewPrivileges":   func(s *specs.Spec) { s.Process.NoNewPrivileges = false },
		"rlimits":           func(s *specs.Spec) { s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_CORE"}} },
		"AppArmor profile":  func(s *specs.Spec) { s.Process.ApparmorProfile = "p" },
		"SELinux label":     func(s *specs.Spec) { s.Process.SelinuxLabel = "l" },
		"seccomp profile":   func(s *specs.Spec) { s.Linux.Seccomp = nil },
		"read-only root":    func(s *specs.Spec) { s.Root.Readonly = false },
		"masked paths":      func(s *specs.Spec) { s.Linux.MaskedPaths = nil },
		"read-only paths":   func(s *specs.Spec) { s.Linux.ReadonlyPaths = []string{"/proc/sys"} },
		"devices":           func(s *specs.Spec) { s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/kvm"}} },
		"propagation":       func(s *specs.Spec) { s.Linux.RootfsPropagation = "rshared" },
		"mounts":            func(s *specs.Spec) { s.Mounts[len(s.Mounts)-1].Options = []string{"rbind", "rw"} },
		"namespaces":        func(s *specs.Spec) { s.Linux.Namespaces = s.Linux.Namespaces[:1] },
		"hooks":             func(s *specs.Spec) { s.Hooks = &specs.Hooks{Poststop: []specs.Hook{{Path: "/hook"}}} },
	} {
		now := savable()
		change(now)
		if err := matches(side{&saved, "a"}, side{now, "a"}); !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), part) {
			t.Errorf("other %s: %v", part, err)
		}
	}
	renamed := savable()
	renamed.Process.Env[0] = "HOSTNAME=b"
	if err := matches(side{&saved, "a"}, side{renamed, "b"}); err != nil {
		t.Errorf("a Pod of another name: %v", err)
	}
	if err := matches(side{&saved, "a"}, side{renamed, "c"}); !errors.Is(err, fault.Invalid) {
		t.Errorf("a container that sets HOSTNAME itself: %v", err)
	}
	one := savable()
	one.Mounts = append(one.Mounts, specs.Mount{Destination: "/more", Type: "tmpfs", Source: "tmpfs"})
	if err := matches(side{&saved, "a"}, side{one, "a"}); !errors.Is(err, fault.Invalid) {
		t.Errorf("one mount more: %v", err)
	}
}

// TestJoinOptions: criu gets those of the Pod's namespaces that the OCI runtime does not
// pass on.
func TestJoinOptions(t *testing.T) {
	doc := savable()
	doc.Linux.Namespaces = []specs.LinuxNamespace{
		{Type: specs.NetworkNamespace, Path: "/run/net"}, {Type: specs.IPCNamespace, Path: "/run/ipc"}, {Type: specs.UTSNamespace, Path: "/run/uts"}, {Type: specs.PIDNamespace},
	}
	if text, err := joinOptions(doc); err != nil || text != "join-ns ipc:/run/ipc\njoin-ns uts:/run/uts\n" {
		t.Errorf("the options are %q, %v", text, err)
	}
	doc.Linux.Namespaces[1].Path = "/run/with space/ipc"
	if _, err := joinOptions(doc); !errors.Is(err, fault.FailedPrecondition) {
		t.Errorf("of a path with a space: %v", err)
	}
}
