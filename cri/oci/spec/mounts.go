package spec

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// mounts returns the container's mounts, those nearer to the root first, and
// the propagation that its root needs for them.
func mounts(in Input) (list []specs.Mount, rootPropagation string, err error) {
	for i, m := range in.Container.GetMounts() {
		one, err := userMount(m, in.Sources[i])
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
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: devptsOptions(in)},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", access}},
		cgroupMount(in, access),
	}
	if in.Files.Shm != "" {
		list = append(list, specs.Mount{Destination: "/dev/shm", Type: "bind", Source: in.Files.Shm, Options: []string{"rbind", "rw"}})
	}
	return list
}

// devptsOptions give terminals to group tty, where the container has it.
func devptsOptions(in Input) []string {
	const tty = 5
	list := []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}
	if in.Namespaces.User != "" {
		gids := in.Sandbox.GetLinux().GetSecurityContext().GetNamespaceOptions().GetUsernsOptions().GetGids()
		if _, ok := HostID(gids, tty); !ok {
			return list
		}
	}
	return append(list, fmt.Sprint("gid=", tty))
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

// userMount is a mount that the Pod brings along; source is where it has been
// mounted already, if it had to be.
func userMount(m *runtimeapi.Mount, source string) (specs.Mount, error) {
	to, err := cleanAbs(m.GetContainerPath())
	if err == nil {
		err = checkMount(m, to, source)
	}
	if err != nil {
		return specs.Mount{}, err
	}
	options := []string{"rbind", propagation(m)}
	if m.GetReadonly() || m.GetImage().GetImage() != "" {
		options = append(options, "ro")
	} else {
		options = append(options, "rw")
	}
	return specs.Mount{
		Destination: to, Type: "bind", Source: firstOf(source, m.GetHostPath()), Options: append(options, m.GetMountOptions()...),
	}, nil
}

func propagation(m *runtimeapi.Mount) string {
	switch m.GetPropagation() {
	case runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER:
		return "rslave"
	case runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL:
		return "rshared"
	}
	return "rprivate"
}

func checkMount(m *runtimeapi.Mount, to, source string) error {
	private := m.GetPropagation() == runtimeapi.MountPropagation_PROPAGATION_PRIVATE
	image := m.GetImage().GetImage() != ""
	switch {
	case to == "/":
		return fault.Invalid.Errorf("a mount cannot replace the root")
	case image == (m.GetHostPath() != ""):
		return fault.Invalid.Errorf("the mount at %q needs a host path or an image, and not both", to)
	case !image && !path.IsAbs(m.GetHostPath()):
		return fault.Invalid.Errorf("the mount at %q has the relative host path %q", to, m.GetHostPath())
	case !image && m.GetImageSubPath() != "":
		return fault.Invalid.Errorf("the mount at %q has the path of an image, and no image", to)
	case image && !private:
		return fault.Invalid.Errorf("the image mounted at %q must be private", to)
	case runtimeapi.MountPropagation_name[int32(m.GetPropagation())] == "":
		return fault.Invalid.Errorf("the mount at %q has unknown propagation %d", to, m.GetPropagation())
	case m.GetRecursiveReadOnly() && (!m.GetReadonly() || !private):
		return fault.Invalid.Errorf("the recursive read-only mount at %q must be read-only and private", to)
	case NeedsSource(m) && source == "":
		return fault.FailedPrecondition.Errorf("the mount at %q has not been prepared", to)
	}
	for _, o := range m.GetMountOptions() {
		if !slices.Contains([]string{"noexec", "nodev", "nosuid", "noatime", "nodiratime", "relatime", "strictatime"}, o) {
			return fault.Invalid.Errorf("the mount at %q has the option %q, which restricts nothing", to, o)
		}
	}
	return nil
}

// NeedsSource reports whether a mount has to be made on the host before it is
// given to an OCI runtime, whichever that is; see Input.Sources.
func NeedsSource(m *runtimeapi.Mount) bool {
	return m.GetImage().GetImage() != "" || m.GetRecursiveReadOnly() || len(m.GetUidMappings())+len(m.GetGidMappings()) > 0
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
