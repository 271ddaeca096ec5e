package criconfig

import (
	"path/filepath"
	"strings"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// What an unprivileged container must not see or write in /proc and /sys. CRI
// leaves the lists to the kubelet; these are the defaults that runtimes of the
// OCI family agree on.
func maskedPaths() []string {
	return []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware",
	}
}

func readonlyPaths() []string {
	return []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
}

// security merges the Pod's and the container's security contexts; the container's
// takes precedence.
func (b *Builder) security(r *pod.Request) (*runtimeapi.LinuxContainerSecurityContext, error) {
	common, own := podSecurity(r.Pod), r.Container.SecurityContext
	if own == nil {
		own = &v1.SecurityContext{}
	}
	s := &runtimeapi.LinuxContainerSecurityContext{
		NamespaceOptions:   containerNamespaces(r),
		Privileged:         isTrue(own.Privileged),
		ReadonlyRootfs:     isTrue(own.ReadOnlyRootFilesystem),
		NoNewPrivs:         own.AllowPrivilegeEscalation != nil && !*own.AllowPrivilegeEscalation,
		SupplementalGroups: supplementalGroups(common), SupplementalGroupsPolicy: groupsPolicy(common),
		Capabilities: capabilities(own.Capabilities),
	}
	if !s.Privileged && (own.ProcMount == nil || *own.ProcMount == v1.DefaultProcMount) {
		s.MaskedPaths, s.ReadonlyPaths = maskedPaths(), readonlyPaths()
	}
	if err := b.user(r, common, own, s); err != nil {
		return nil, err
	}
	profile := own.SeccompProfile
	if profile == nil {
		profile = common.SeccompProfile
	}
	s.Seccomp = b.seccomp(profile)
	selinux := own.SELinuxOptions
	if selinux == nil {
		selinux = common.SELinuxOptions
	}
	s.SelinuxOptions = selinuxOptions(selinux)
	return s, nil
}

// user determines the user that the container runs as, and enforces runAsNonRoot.
func (b *Builder) user(r *pod.Request, common *v1.PodSecurityContext, own *v1.SecurityContext, s *runtimeapi.LinuxContainerSecurityContext) error {
	uid, gid, nonRoot := either(own.RunAsUser, common.RunAsUser), either(own.RunAsGroup, common.RunAsGroup), own.RunAsNonRoot
	if nonRoot == nil {
		nonRoot = common.RunAsNonRoot
	}
	if uid == nil {
		uid = r.ImageUser
	}
	if uid == nil && r.ImageUserName == "" {
		uid = new(int64) // an image without a user runs as root, and the CRI requires a user with every group
	}
	if uid != nil {
		s.RunAsUser = &runtimeapi.Int64Value{Value: *uid}
	} else {
		s.RunAsUsername = r.ImageUserName
	}
	if gid != nil {
		s.RunAsGroup = &runtimeapi.Int64Value{Value: *gid}
	}
	if !isTrue(nonRoot) {
		return nil
	}
	switch {
	case uid == nil && r.ImageUserName != "":
		return fault.Invalid.Errorf("runAsNonRoot is set and the image's user %q is a name, which cannot be shown not to be root: set runAsUser", r.ImageUserName)
	case uid == nil || *uid == 0:
		return fault.Invalid.Errorf("runAsNonRoot is set and container %q would run as root: set runAsUser", r.Container.Name)
	}
	return nil
}

func podSecurity(p *v1.Pod) *v1.PodSecurityContext {
	if p.Spec.SecurityContext == nil {
		return &v1.PodSecurityContext{}
	}
	return p.Spec.SecurityContext
}

func either(a, b *int64) *int64 {
	if a != nil {
		return a
	}
	return b
}

func supplementalGroups(s *v1.PodSecurityContext) []int64 {
	groups := append([]int64(nil), s.SupplementalGroups...)
	if s.FSGroup != nil {
		groups = append(groups, *s.FSGroup)
	}
	return groups
}

func groupsPolicy(s *v1.PodSecurityContext) runtimeapi.SupplementalGroupsPolicy {
	if p := s.SupplementalGroupsPolicy; p != nil && *p == v1.SupplementalGroupsPolicyStrict {
		return runtimeapi.SupplementalGroupsPolicy_Strict
	}
	return runtimeapi.SupplementalGroupsPolicy_Merge
}

func capabilities(c *v1.Capabilities) *runtimeapi.Capability {
	if c == nil {
		return nil
	}
	out := &runtimeapi.Capability{}
	for _, name := range c.Add {
		out.AddCapabilities = append(out.AddCapabilities, string(name))
	}
	for _, name := range c.Drop {
		out.DropCapabilities = append(out.DropCapabilities, string(name))
	}
	return out
}

// seccomp translates a profile. None means Unconfined, as for a kubelet without
// seccompDefault.
func (b *Builder) seccomp(p *v1.SeccompProfile) *runtimeapi.SecurityProfile {
	out := &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}
	if p == nil {
		return out
	}
	switch p.Type {
	case v1.SeccompProfileTypeRuntimeDefault:
		out.ProfileType = runtimeapi.SecurityProfile_RuntimeDefault
	case v1.SeccompProfileTypeLocalhost:
		out.ProfileType = runtimeapi.SecurityProfile_Localhost
		if p.LocalhostProfile != nil {
			// Clean of a rooted path: a profile is never outside the directory.
			out.LocalhostRef = filepath.Join(b.node.SeccompDir, filepath.Clean("/"+*p.LocalhostProfile))
		}
	}
	return out
}

func selinuxOptions(o *v1.SELinuxOptions) *runtimeapi.SELinuxOption {
	if o == nil {
		return nil
	}
	return &runtimeapi.SELinuxOption{User: o.User, Role: o.Role, Type: o.Type, Level: o.Level}
}

// sandboxSecurity adds the Pod's security context to the sandbox.
func sandboxSecurity(p *v1.Pod, linux *runtimeapi.LinuxPodSandboxConfig) {
	s := podSecurity(p)
	context := linux.SecurityContext
	context.SupplementalGroups, context.SupplementalGroupsPolicy = supplementalGroups(s), groupsPolicy(s)
	context.SelinuxOptions = selinuxOptions(s.SELinuxOptions)
	if s.RunAsUser != nil {
		context.RunAsUser = &runtimeapi.Int64Value{Value: *s.RunAsUser}
		if s.RunAsGroup != nil {
			context.RunAsGroup = &runtimeapi.Int64Value{Value: *s.RunAsGroup}
		}
	}
	for _, sysctl := range s.Sysctls {
		if linux.Sysctls == nil {
			linux.Sysctls = map[string]string{}
		}
		linux.Sysctls[strings.ReplaceAll(sysctl.Name, "/", ".")] = sysctl.Value
	}
}

func anyPrivileged(p *v1.Pod) bool {
	for _, list := range [][]v1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			if s := list[i].SecurityContext; s != nil && isTrue(s.Privileged) {
				return true
			}
		}
	}
	for i := range p.Spec.EphemeralContainers {
		if s := p.Spec.EphemeralContainers[i].SecurityContext; s != nil && isTrue(s.Privileged) {
			return true
		}
	}
	return false
}
