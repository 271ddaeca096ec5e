package spec

import (
	"cmp"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// mounts returns the container's mounts, those nearer to the root first, and
// the propagation that its root needs for them.
func mounts(in Input) (list []specs.Mount, rootPropagation string, err error) {
	for _, m := range in.Container.GetMounts() {
		one, err := userMount(m)
		if err != nil {
			return nil, "", err
		}
		list = append(list, one)
		rootPropagation = stronger(rootPropagation, m.Propagation)
	}
	var base []specs.Mount
	for _, m := range append(systemMounts(in), fileMounts(in)...) {
		// A mount that the Pod brings along takes the place of ours.
		if !slices.ContainsFunc(list, func(u specs.Mount) bool { return u.Destination == m.Destination }) {
			base = append(base, m)
		}
	}
	list = append(base, list...)
	SortMounts(list)
	return list, rootPropagation, nil
}

// SortMounts puts mounts nearer to the root first, because one hides what was
// mounted below it before. Mounts of one depth keep their order.
func SortMounts(list []specs.Mount) {
	slices.SortStableFunc(list, func(a, b specs.Mount) int {
		return cmp.Compare(strings.Count(a.Destination, "/"), strings.Count(b.Destination, "/"))
	})
}

func systemMounts(in Input) []specs.Mount {
	access := "ro"
	if in.security().GetPrivileged() {
		access = "rw"
	}
	list := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", access}},
		cgroupMount(in, access),
	}
	if in.Files.Shm != "" {
		list = append(list, specs.Mount{Destination: "/dev/shm", Type: "bind", Source: in.Files.Shm, Options: []string{"rbind", "rw"}})
	}
	return list
}

// cgroupMount shows the container its cgroups. In the host's cgroup namespace
// that is the host's own mount: mounting cgroup2 anew there would take the
// options nsdelegate and memory_recursiveprot away from the whole machine.
func cgroupMount(in Input, access string) specs.Mount {
	m := specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", access}}
	if in.Host.CgroupV2 && !ownCgroupNamespace(in) {
		m.Type, m.Source, m.Options = "bind", m.Destination, append([]string{"rbind", "rprivate"}, m.Options...)
	}
	return m
}

func fileMounts(in Input) (list []specs.Mount) {
	for _, f := range []struct{ to, from string }{
		{"/etc/resolv.conf", in.Files.ResolvConf}, {"/etc/hostname", in.Files.Hostname}, {"/etc/hosts", in.Files.Hosts},
	} {
		if f.from == "" {
			continue
		}
		access := "rw"
		if in.security().GetReadonlyRootfs() {
			access = "ro"
		}
		list = append(list, specs.Mount{Destination: f.to, Type: "bind", Source: f.from, Options: []string{"rbind", "rprivate", access}})
	}
	return list
}

func userMount(m *runtimeapi.Mount) (specs.Mount, error) {
	to, err := cleanAbs(m.GetContainerPath())
	if err != nil {
		return specs.Mount{}, err
	}
	switch {
	case m.GetImage().GetImage() != "":
		return specs.Mount{}, fault.Unimplemented.Errorf("mounting an image at %q is not supported", to)
	case len(m.GetUidMappings())+len(m.GetGidMappings()) > 0:
		return specs.Mount{}, fault.Unimplemented.Errorf("id-mapped mounts (%q) are not supported", to)
	case m.GetHostPath() == "":
		return specs.Mount{}, fault.Invalid.Errorf("the mount at %q has no host path", to)
	case to == "/":
		return specs.Mount{}, fault.Invalid.Errorf("a mount cannot replace the root")
	}
	options := []string{"rbind"}
	switch m.GetPropagation() {
	case runtimeapi.MountPropagation_PROPAGATION_PRIVATE:
		options = append(options, "rprivate")
	case runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER:
		options = append(options, "rslave")
	case runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL:
		options = append(options, "rshared")
	default:
		return specs.Mount{}, fault.Invalid.Errorf("the mount at %q has unknown propagation %d", to, m.GetPropagation())
	}
	access, err := access(m)
	if err != nil {
		return specs.Mount{}, err
	}
	options = append(append(options, access), m.GetMountOptions()...)
	return specs.Mount{Destination: to, Type: "bind", Source: m.GetHostPath(), Options: options}, nil
}

func access(m *runtimeapi.Mount) (string, error) {
	switch {
	case m.GetRecursiveReadOnly() && (!m.GetReadonly() || m.GetPropagation() != runtimeapi.MountPropagation_PROPAGATION_PRIVATE):
		return "", fault.Invalid.Errorf("the recursive read-only mount at %q must be read-only and private", m.GetContainerPath())
	case m.GetRecursiveReadOnly():
		return "rro", nil
	case m.GetReadonly():
		return "ro", nil
	}
	return "rw", nil
}

// stronger returns the root propagation that both need. A mount can only
// propagate as far as the root it lies on does.
func stronger(have string, p runtimeapi.MountPropagation) string {
	switch {
	case p == runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL || have == "rshared":
		return "rshared"
	case p == runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER || have == "rslave":
		return "rslave"
	}
	return ""
}
