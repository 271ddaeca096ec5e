package oci

import (
	"bytes"
	"encoding/json"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// side is one of two specs of a container, in a Pod with a hostname.
type side struct {
	*specs.Spec

	hostname string
}

// environment omits the variable that follows from the Pod's hostname, which may differ.
func (s side) environment() []string {
	return slices.DeleteFunc(slices.Clone(s.Process.Env), func(v string) bool { return v == "HOSTNAME="+s.hostname })
}

// matches returns an error if the spec of a container to be restored differs from the one
// that it ran with in something that criu would not apply. These may differ: the paths of
// the root and of mount sources on the host, the cgroup and its limits, and the OOM
// score.
func matches(saved, now side) error {
	s, n := saved.Process, now.Process
	for _, part := range []struct {
		name       string
		saved, now any
	}{
		{"arguments", s.Args, n.Args},
		{"environment", saved.environment(), now.environment()},
		{"working directory", s.Cwd, n.Cwd},
		{"user", s.User, n.User},
		{"terminal", s.Terminal, n.Terminal},
		{"capabilities", s.Capabilities, n.Capabilities},
		{"noNewPrivileges", s.NoNewPrivileges, n.NoNewPrivileges},
		{"rlimits", s.Rlimits, n.Rlimits},
		{"AppArmor profile", s.ApparmorProfile, n.ApparmorProfile},
		{"SELinux label", s.SelinuxLabel, n.SelinuxLabel},
		{"seccomp profile", saved.Linux.Seccomp, now.Linux.Seccomp},
		{"read-only root", saved.Root.Readonly, now.Root.Readonly},
		{"masked paths", saved.Linux.MaskedPaths, now.Linux.MaskedPaths},
		{"read-only paths", saved.Linux.ReadonlyPaths, now.Linux.ReadonlyPaths},
		{"devices", saved.Linux.Devices, now.Linux.Devices},
		{"propagation of the root", saved.Linux.RootfsPropagation, now.Linux.RootfsPropagation},
		{"mounts", withoutSources(saved.Mounts), withoutSources(now.Mounts)},
		{"namespaces", kinds(saved.Linux.Namespaces), kinds(now.Linux.Namespaces)},
		{"hooks", saved.Hooks, now.Hooks},
	} {
		same, err := sameJSON(part.saved, part.now)
		if err != nil {
			return err
		}
		if !same { // the values may be secret
			return fault.Invalid.Errorf("its %s is not what the checkpoint has, and a process that goes on keeps what it had", part.name)
		}
	}
	return nil
}

// sameJSON compares in the form in which the saved spec was written, which does not
// distinguish nil from empty.
func sameJSON(a, b any) (bool, error) {
	one, err := json.Marshal(a)
	if err != nil {
		return false, err
	}
	other, err := json.Marshal(b)
	if isEmpty(one) && isEmpty(other) {
		return true, err
	}
	return bytes.Equal(one, other), err
}

func isEmpty(text []byte) bool {
	return slices.Contains([]string{"null", "[]", "{}"}, string(text))
}

// withoutSources returns the mounts as the container sees them.
func withoutSources(mounts []specs.Mount) []specs.Mount {
	out := slices.Clone(mounts)
	for i := range out {
		if out[i].Type == "bind" {
			out[i].Source = ""
		}
	}
	return out
}

func kinds(namespaces []specs.LinuxNamespace) (list []specs.LinuxNamespaceType) {
	for _, n := range namespaces {
		list = append(list, n.Type)
	}
	return list
}
