// Package spec turns what a kubelet asks for (cri-api v0.37 ContainerConfig)
// and what an image says into what an OCI runtime is given (runtime-spec 1.3
// config.json).
//
// Build is a pure function: it reads no file, no clock and no environment;
// everything it must know of the machine is in its Input. So the translation of
// a security context can be read and tested as a table, without root.
//
// A request that cannot be honoured is an error, never left out. SELinux options mean
// nothing where SELinux is off, as in every runtime, for Pods carry them to every
// machine; selinux_relabel is the caller's, as all that changes the host.
package spec

import (
	"cmp"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// Input is everything that a container's spec is made of.
type Input struct {
	Sandbox   *runtimeapi.PodSandboxConfig
	Container *runtimeapi.ContainerConfig
	Image     v1.Config
	// Rootfs is the host path of the mounted root file system.
	Rootfs string
	// Cgroup is the container's cgroup as the OCI runtime is to be given it: from
	// the root of the hierarchies, or "SLICE:prefix:name".
	Cgroup string
	// Namespaces are the host paths of the namespaces that the container joins.
	Namespaces Namespaces
	// Files are the host paths that every container of the Pod sees.
	Files Files
	// Devices are the container's devices, already looked up on the host.
	Devices []Device
	// Sources are the host paths of those of the container's mounts, by index,
	// that are not what their host path alone says: images, id-mapped and
	// recursively read-only mounts. They have been mounted there.
	Sources map[int]string
	// BlockIO is what the container's block I/O class gives it, nil for nothing;
	// RDTClass is the group of resctrl that it is in, "" for none of its own.
	BlockIO  *specs.LinuxBlockIO
	RDTClass string
	// Users are the image's own user and group files.
	Users Users
	// Labels are the Pod's: see ContainerLabels.
	Labels Labels
	// Seccomp is the content of a localhost profile, when that is asked for.
	Seccomp []byte
	Host    Host
}

// Namespaces are paths to join. An empty path is the host's namespace, except
// for PID, where it is a new one unless HostPID is set. User is there exactly
// when the sandbox has a user namespace of its own; see UserNamespace.
type Namespaces struct {
	Net, IPC, UTS, PID, User string
	HostPID                  bool
}

// Files are bind-mounted over the image's. An empty path leaves the image's.
type Files struct{ ResolvConf, Hostname, Hosts, Shm string }

// Device is a device node and what the container may do with it.
type Device struct {
	Node   specs.LinuxDevice
	Access string // of "r", "w" and "m"
}

// Users are the contents of the image's /etc/passwd and /etc/group.
type Users struct{ Passwd, Group []byte }

// Host is what the spec depends on beside the request.
type Host struct {
	// Capabilities are those that a privileged container gets: "CAP_CHOWN", ...
	Capabilities []string
	// MinOOMScoreAdj is the lowest value that the runtime is allowed to set.
	MinOOMScoreAdj int
	// CgroupV2 says that the host has the unified hierarchy alone.
	CgroupV2 bool
	// AppArmor says that the machine has AppArmor; AppArmorDefault is the name of
	// the runtime's default profile, "" where that could not be loaded.
	AppArmor        bool
	AppArmorDefault string
	// Seccomp makes the filter of RuntimeDefault and of localhost profiles from
	// the profile's text (empty is the default) and the spec so far. nil means
	// that the machine has no seccomp.
	Seccomp func(profile []byte, s *specs.Spec) (*specs.LinuxSeccomp, error)
}

// Build returns the spec of a container. The error is fault.Invalid for what
// can never work, fault.FailedPrecondition for what this machine lacks and
// fault.Unimplemented for what this runtime does not do.
func Build(in Input) (*specs.Spec, error) {
	if err := refuse(in); err != nil {
		return nil, err
	}
	s := &specs.Spec{
		Version: "1.0.2", // of runc 1.1 and crun 1.8, which refuse nothing below 2
		Root:    &specs.Root{Path: in.Rootfs, Readonly: in.security().GetReadonlyRootfs()},
		Linux: &specs.Linux{
			CgroupsPath: in.Cgroup,
			Namespaces:  namespaces(in),
			Resources:   resources(in),
		},
	}
	var err error
	if s.Process, err = process(in); err != nil {
		return nil, err
	}
	if err := mapUsers(in, s); err != nil {
		return nil, err
	}
	if s.Mounts, s.Linux.RootfsPropagation, err = mounts(in); err != nil {
		return nil, err
	}
	for _, d := range in.Devices {
		s.Linux.Devices = append(s.Linux.Devices, d.Node)
	}
	labels, err := ContainerLabels(in.Labels, in.Sandbox, in.Container)
	if err != nil {
		return nil, err
	}
	s.Process.SelinuxLabel, s.Linux.MountLabel = labels.Process, labels.Mount
	if in.RDTClass != "" {
		s.Linux.IntelRdt = &specs.LinuxIntelRdt{ClosID: in.RDTClass}
	}
	if !in.security().GetPrivileged() {
		s.Linux.MaskedPaths = in.security().GetMaskedPaths()
		s.Linux.ReadonlyPaths = in.security().GetReadonlyPaths()
	}
	if s.Linux.Seccomp, err = filter(in, s); err != nil {
		return nil, err
	}
	return s, nil
}

func (in Input) security() *runtimeapi.LinuxContainerSecurityContext {
	return in.Container.GetLinux().GetSecurityContext()
}

// refuse names the first thing that is asked for and not done.
func refuse(in Input) error {
	sec := in.security()
	switch {
	case in.Container.GetWindows() != nil:
		return fault.Unimplemented.Errorf("Windows options are not supported")
	case sec.GetPrivileged() && !in.Sandbox.GetLinux().GetSecurityContext().GetPrivileged():
		return fault.Invalid.Errorf("a privileged container needs a privileged sandbox")
	}
	if err := sameNamespaces(in); err != nil {
		return err
	}
	return sameUserNamespace(in)
}

// CheckNamespaces refuses a sandbox whose containers are not to share their network
// or their IPC namespace, which would be shared all the same.
func CheckNamespaces(sandbox *runtimeapi.PodSandboxConfig) error {
	o := sandbox.GetLinux().GetSecurityContext().GetNamespaceOptions()
	for _, n := range shared(o) {
		if n.mode != runtimeapi.NamespaceMode_POD && n.mode != runtimeapi.NamespaceMode_NODE {
			return fault.Unimplemented.Errorf("a sandbox's %s namespace is its own or the node's, and %v is asked for", n.kind, n.mode)
		}
	}
	return nil
}

// sameNamespaces is CheckNamespaces for a container. POD is what a container says that
// leaves its options out: then it gets the sandbox's, whosever that is.
func sameNamespaces(in Input) error {
	pod := shared(in.Sandbox.GetLinux().GetSecurityContext().GetNamespaceOptions())
	for i, n := range shared(in.security().GetNamespaceOptions()) {
		if n.mode == runtimeapi.NamespaceMode_POD || n.mode == pod[i].mode {
			continue
		}
		if n.mode == runtimeapi.NamespaceMode_NODE {
			return fault.Invalid.Errorf("the container asks for the node's %s namespace, and its sandbox has its own", n.kind)
		}
		return fault.Unimplemented.Errorf("a container's %s namespace is its sandbox's, and %v is asked for", n.kind, n.mode)
	}
	return nil
}

type sharedNamespace struct {
	kind string
	mode runtimeapi.NamespaceMode
}

// shared are the namespaces that all containers of a sandbox have in common.
func shared(o *runtimeapi.NamespaceOption) []sharedNamespace {
	return []sharedNamespace{{"network", o.GetNetwork()}, {"IPC", o.GetIpc()}}
}

// namespaces lists the container's namespaces. One that is missing from the
// list is the host's.
func namespaces(in Input) []specs.LinuxNamespace {
	list := []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	for _, n := range []struct {
		kind specs.LinuxNamespaceType
		path string
	}{
		{specs.UserNamespace, in.Namespaces.User},
		{specs.NetworkNamespace, in.Namespaces.Net},
		{specs.IPCNamespace, in.Namespaces.IPC},
		{specs.UTSNamespace, in.Namespaces.UTS},
	} {
		if n.path != "" {
			list = append(list, specs.LinuxNamespace{Type: n.kind, Path: n.path})
		}
	}
	if !in.Namespaces.HostPID {
		list = append(list, specs.LinuxNamespace{Type: specs.PIDNamespace, Path: in.Namespaces.PID})
	}
	if ownCgroupNamespace(in) {
		list = append(list, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	return list
}

func ownCgroupNamespace(in Input) bool { return in.Host.CgroupV2 && !in.security().GetPrivileged() }

func resources(in Input) *specs.LinuxResources {
	r := Resources(in.Container.GetLinux().GetResources())
	r.BlockIO = in.BlockIO
	if in.security().GetPrivileged() {
		r.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
		return r
	}
	// The OCI runtime adds /dev/null and its kind to every container.
	r.Devices = []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}
	for _, d := range in.Devices {
		major, minor := d.Node.Major, d.Node.Minor
		r.Devices = append(r.Devices, specs.LinuxDeviceCgroup{
			Allow: true, Type: d.Node.Type, Major: &major, Minor: &minor, Access: d.Access,
		})
	}
	return r
}

// Limit puts an update's limits over those of a spec: a zero field leaves what is
// there, and so does what the CRI's limits do not speak of, its devices say.
func Limit(s *specs.Spec, change *runtimeapi.LinuxContainerResources, h Host) {
	next := Resources(change)
	if change.GetOomScoreAdj() != 0 {
		score := OOMScore(change, h)
		s.Process.OOMScoreAdj = &score
	}
	if s.Linux.Resources == nil {
		s.Linux.Resources = &specs.LinuxResources{}
	}
	have := s.Linux.Resources
	if c := next.CPU; c != nil {
		if have.CPU == nil {
			have.CPU = &specs.LinuxCPU{}
		}
		have.CPU.Shares, have.CPU.Quota, have.CPU.Period = cmp.Or(c.Shares, have.CPU.Shares), cmp.Or(c.Quota, have.CPU.Quota), cmp.Or(c.Period, have.CPU.Period)
		have.CPU.Cpus, have.CPU.Mems = cmp.Or(c.Cpus, have.CPU.Cpus), cmp.Or(c.Mems, have.CPU.Mems)
	}
	if m := next.Memory; m != nil {
		if have.Memory == nil {
			have.Memory = &specs.LinuxMemory{}
		}
		have.Memory.Limit, have.Memory.Swap = cmp.Or(m.Limit, have.Memory.Limit), cmp.Or(m.Swap, have.Memory.Swap)
	}
	for _, h := range next.HugepageLimits {
		have.HugepageLimits = slices.DeleteFunc(have.HugepageLimits, func(old specs.LinuxHugepageLimit) bool { return old.Pagesize == h.Pagesize })
		have.HugepageLimits = append(have.HugepageLimits, h)
	}
	if len(next.Unified) > 0 && have.Unified == nil {
		have.Unified = map[string]string{}
	}
	maps.Copy(have.Unified, next.Unified)
}

// CheckLimits refuses limits of cgroup v1 alone where the host has v2, with which OCI
// runtimes pass them over. A spec has them from who adjusted it: the CRI has no word for
// them. The error is fault.FailedPrecondition, and names them as runtime-spec does.
func CheckLimits(s *specs.Spec, h Host) error {
	if !h.CgroupV2 || s.Linux.Resources == nil {
		return nil
	}
	var names []string
	if m := s.Linux.Resources.Memory; m != nil {
		if m.Swappiness != nil {
			names = append(names, "memory.swappiness")
		}
		if m.DisableOOMKiller != nil && *m.DisableOOMKiller {
			names = append(names, "memory.disableOOMKiller")
		}
	}
	if c := s.Linux.Resources.CPU; c != nil && (c.RealtimeRuntime != nil || c.RealtimePeriod != nil) {
		names = append(names, "cpu.realtimeRuntime and cpu.realtimePeriod")
	}
	if len(names) > 0 {
		return fault.FailedPrecondition.Errorf("%s: this machine has cgroup v2, which has no such limits", strings.Join(names, ", "))
	}
	return nil
}

// Resources translates limits alone. A zero field of the CRI means "not set".
func Resources(r *runtimeapi.LinuxContainerResources) *specs.LinuxResources {
	out := &specs.LinuxResources{}
	if r == nil {
		return out
	}
	cpu := &specs.LinuxCPU{Cpus: r.CpusetCpus, Mems: r.CpusetMems}
	cpu.Shares = nonZero(uint64(max(r.CpuShares, 0)))
	cpu.Period = nonZero(uint64(max(r.CpuPeriod, 0)))
	cpu.Quota = nonZero(r.CpuQuota)
	if *cpu != (specs.LinuxCPU{}) {
		out.CPU = cpu
	}
	memory := &specs.LinuxMemory{Limit: nonZero(r.MemoryLimitInBytes), Swap: nonZero(r.MemorySwapLimitInBytes)}
	if *memory != (specs.LinuxMemory{}) {
		out.Memory = memory
	}
	for _, h := range r.HugepageLimits {
		out.HugepageLimits = append(out.HugepageLimits, specs.LinuxHugepageLimit{Pagesize: h.PageSize, Limit: h.Limit})
	}
	if len(r.Unified) > 0 {
		out.Unified = r.Unified
	}
	return out
}

func nonZero[T comparable](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	return &v
}

func cleanAbs(p string) (string, error) {
	if !path.IsAbs(p) {
		return "", fault.Invalid.Errorf("mount path %q is not absolute", p)
	}
	return path.Clean(p), nil
}
