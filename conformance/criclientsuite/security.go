package criclientsuite

import (
	"errors"
	"fmt"
	"slices"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	userID  = 1234
	groupID = 4321
)

func securityRules() []rule {
	return []rule{
		must("CRIC-SEC-001", "passes user and group on, the container's before the Pod's",
			"LinuxContainerSecurityContext.run_as_user", "UID to run the container process as.", secured(func(p *v1.PodSecurityContext, c *v1.SecurityContext) {
				p.RunAsUser, c.RunAsUser, p.RunAsGroup = number(1), number(userID), number(groupID)
			}, func(s *runtimeapi.LinuxContainerSecurityContext) error {
				return errors.Join(want("run_as_user", s.GetRunAsUser().GetValue(), userID), want("run_as_group", s.GetRunAsGroup().GetValue(), groupID),
					want("run_as_username", s.GetRunAsUsername(), ""))
			})),
		should("CRIC-SEC-002", "sets a group only with a user",
			"LinuxContainerSecurityContext.run_as_group", "run_as_group should only be specified when run_as_user or run_as_username is specified; otherwise, the runtime MUST error.",
			secured(func(_ *v1.PodSecurityContext, c *v1.SecurityContext) {
				c.RunAsGroup = number(groupID)
			}, func(s *runtimeapi.LinuxContainerSecurityContext) error {
				if s.GetRunAsGroup() != nil && s.GetRunAsUser() == nil && s.GetRunAsUsername() == "" {
					return errors.New("run_as_group is set, and no user")
				}
				return nil
			})),
		must("CRIC-SEC-003", "passes capabilities on",
			"LinuxContainerSecurityContext.capabilities", "Capabilities to add or drop.", secured(func(_ *v1.PodSecurityContext, c *v1.SecurityContext) {
				c.Capabilities = &v1.Capabilities{Add: []v1.Capability{"NET_BIND_SERVICE", "CHOWN"}, Drop: []v1.Capability{"ALL"}}
			}, func(s *runtimeapi.LinuxContainerSecurityContext) error {
				return errors.Join(wantList("add_capabilities", s.GetCapabilities().GetAddCapabilities(), []string{"NET_BIND_SERVICE", "CHOWN"}),
					wantList("drop_capabilities", s.GetCapabilities().GetDropCapabilities(), []string{"ALL"}))
			})),
		must("CRIC-SEC-004", "asks for a privileged container where the Pod does",
			"LinuxContainerSecurityContext.privileged", "If set, run container in privileged mode.", secured(func(_ *v1.PodSecurityContext, c *v1.SecurityContext) {
				c.Privileged = yes()
			}, func(s *runtimeapi.LinuxContainerSecurityContext) error {
				return want("privileged", s.GetPrivileged(), true)
			})),
		must("CRIC-SEC-005", "asks for nothing of the kind for a plain container",
			"LinuxContainerSecurityContext.privileged", "If set, run container in privileged mode.", secured(nil, func(s *runtimeapi.LinuxContainerSecurityContext) error {
				return errors.Join(want("privileged", s.GetPrivileged(), false), want("readonly_rootfs", s.GetReadonlyRootfs(), false), want("no_new_privs", s.GetNoNewPrivs(), false),
					want("the number of added capabilities", len(s.GetCapabilities().GetAddCapabilities()), 0))
			})),
		must("CRIC-SEC-006", "asks for a read-only root file system",
			"LinuxContainerSecurityContext.readonly_rootfs", "If set, the root filesystem of the container is read-only.", secured(func(_ *v1.PodSecurityContext, c *v1.SecurityContext) {
				c.ReadOnlyRootFilesystem = yes()
			}, func(s *runtimeapi.LinuxContainerSecurityContext) error {
				return want("readonly_rootfs", s.GetReadonlyRootfs(), true)
			})),
		must("CRIC-SEC-007", "forbids new privileges where the Pod does",
			"LinuxContainerSecurityContext.no_new_privs", "no_new_privs defines if the flag for no_new_privs should be set on the container.", secured(func(_ *v1.PodSecurityContext, c *v1.SecurityContext) {
				c.AllowPrivilegeEscalation = new(bool)
			}, func(s *runtimeapi.LinuxContainerSecurityContext) error {
				return want("no_new_privs", s.GetNoNewPrivs(), true)
			})),
	}
}

// profileRules are the second half of the rules about security contexts.
func profileRules() []rule {
	return []rule{
		must("CRIC-SEC-008", "passes the seccomp profile on, the container's before the Pod's",
			"LinuxContainerSecurityContext.seccomp", "Seccomp profile for the container.", secured(func(p *v1.PodSecurityContext, c *v1.SecurityContext) {
				p.SeccompProfile = &v1.SeccompProfile{Type: v1.SeccompProfileTypeUnconfined}
				c.SeccompProfile = &v1.SeccompProfile{Type: v1.SeccompProfileTypeRuntimeDefault}
			}, func(s *runtimeapi.LinuxContainerSecurityContext) error {
				if s.GetSeccomp() == nil {
					return errors.New("the seccomp profile is not set")
				}
				return want("the seccomp profile", s.GetSeccomp().GetProfileType(), runtimeapi.SecurityProfile_RuntimeDefault)
			})),
		must("CRIC-SEC-009", "names a seccomp profile of the node by its full path",
			"SecurityProfile.localhost_ref", "For seccomp, it must be an absolute path to the seccomp profile.", secured(func(p *v1.PodSecurityContext, _ *v1.SecurityContext) {
				profile := "suite/strict.json"
				p.SeccompProfile = &v1.SeccompProfile{Type: v1.SeccompProfileTypeLocalhost, LocalhostProfile: &profile}
			}, lookLocalhost)),
		must("CRIC-SEC-011", "passes supplemental groups and the group of volumes on",
			"LinuxContainerSecurityContext.supplemental_groups", "List of groups applied to the first process run in each container.", secured(func(p *v1.PodSecurityContext, _ *v1.SecurityContext) {
				p.SupplementalGroups, p.FSGroup = []int64{5001}, number(5002)
			}, func(s *runtimeapi.LinuxContainerSecurityContext) error {
				for _, g := range []int64{5001, 5002} {
					if !slices.Contains(s.GetSupplementalGroups(), g) {
						return fmt.Errorf("supplemental_groups are %v: %d is missing", s.GetSupplementalGroups(), g)
					}
				}
				return nil
			})),
		must("CRIC-SEC-012", "passes the policy of supplemental groups on",
			"LinuxContainerSecurityContext.supplemental_groups_policy", "supplemental_groups_policy can control how groups will be calculated.", secured(func(p *v1.PodSecurityContext, _ *v1.SecurityContext) {
				strict := v1.SupplementalGroupsPolicyStrict
				p.SupplementalGroupsPolicy = &strict
			}, func(s *runtimeapi.LinuxContainerSecurityContext) error {
				return want("supplemental_groups_policy", s.GetSupplementalGroupsPolicy(), runtimeapi.SupplementalGroupsPolicy_Strict)
			}), SupplementalGroups),
		must("CRIC-SEC-013", "passes the AppArmor profile on",
			"LinuxContainerSecurityContext.apparmor", "AppArmor profile for the container.", secured(func(_ *v1.PodSecurityContext, c *v1.SecurityContext) {
				c.AppArmorProfile = &v1.AppArmorProfile{Type: v1.AppArmorProfileTypeUnconfined}
			}, func(s *runtimeapi.LinuxContainerSecurityContext) error {
				return want("the AppArmor profile", s.GetApparmor().GetProfileType(), runtimeapi.SecurityProfile_Unconfined)
			}), AppArmor),
		must("CRIC-SEC-014", "passes SELinux options on",
			"LinuxContainerSecurityContext.selinux_options", "SELinux context to be optionally applied.", secured(func(p *v1.PodSecurityContext, _ *v1.SecurityContext) {
				p.SELinuxOptions = &v1.SELinuxOptions{User: "system_u", Role: "system_r", Type: "suite_t", Level: "s0:c123,c456"}
			}, func(s *runtimeapi.LinuxContainerSecurityContext) error {
				o := s.GetSelinuxOptions()
				return errors.Join(want("the SELinux level", o.GetLevel(), "s0:c123,c456"), want("the SELinux type", o.GetType(), "suite_t"),
					want("the SELinux role", o.GetRole(), "system_r"), want("the SELinux user", o.GetUser(), "system_u"))
			})),
	}
}

// procRules are the rules about what a container sees of /proc and /sys.
func procRules() []rule {
	return []rule{
		must("CRIC-SEC-010", "masks paths of a container that is not privileged",
			"LinuxContainerSecurityContext.masked_paths", "masked_paths is a slice of paths that should be masked by the container runtime, this can be passed directly to the OCI spec.",
			secured(nil, func(s *runtimeapi.LinuxContainerSecurityContext) error {
				if !slices.Contains(s.GetMaskedPaths(), "/proc/kcore") || !slices.Contains(s.GetReadonlyPaths(), "/proc/sys") {
					return fmt.Errorf("masked_paths are %q and readonly_paths %q: want /proc/kcore and /proc/sys in them", s.GetMaskedPaths(), s.GetReadonlyPaths())
				}
				return nil
			})),
		must("CRIC-SEC-015", "names all paths to mask, or to make read-only, of a container with the default proc mount",
			"LinuxContainerSecurityContext.readonly_paths", "readonly_paths is a slice of paths that should be set as readonly by the container runtime, this can be passed directly to the OCI spec.",
			secured(func(_ *v1.PodSecurityContext, c *v1.SecurityContext) {
				mount := v1.DefaultProcMount
				c.ProcMount = &mount
			}, lookProtected)),
		must("CRIC-SEC-016", "masks no paths of a container with an unmasked proc mount",
			"LinuxContainerSecurityContext.masked_paths", "masked_paths is a slice of paths that should be masked by the container runtime, this can be passed directly to the OCI spec.",
			asksContainer(func(p *v1.Pod) {
				mount := v1.UnmaskedProcMount
				p.Spec.HostUsers, p.Spec.Containers[0].SecurityContext = new(bool), &v1.SecurityContext{ProcMount: &mount}
			}, func(r *runtimeapi.CreateContainerRequest) error {
				s := r.GetConfig().GetLinux().GetSecurityContext()
				return errors.Join(wantList("masked_paths", s.GetMaskedPaths(), nil), wantList("readonly_paths", s.GetReadonlyPaths(), nil))
			}), UserNamespaces),
	}
}

// secured returns a check of the container's security context that follows from a
// change of the Pod's and the container's.
func secured(change func(*v1.PodSecurityContext, *v1.SecurityContext), look func(*runtimeapi.LinuxContainerSecurityContext) error) look {
	return asksContainer(func(p *v1.Pod) {
		if change == nil {
			return
		}
		p.Spec.SecurityContext, p.Spec.Containers[0].SecurityContext = &v1.PodSecurityContext{}, &v1.SecurityContext{}
		change(p.Spec.SecurityContext, p.Spec.Containers[0].SecurityContext)
	}, func(r *runtimeapi.CreateContainerRequest) error {
		return look(r.GetConfig().GetLinux().GetSecurityContext())
	})
}

// lookProtected wants what Kubernetes has always masked, and made read-only. A path that
// is masked cannot be written to, either.
func lookProtected(s *runtimeapi.LinuxContainerSecurityContext) error {
	for _, path := range []string{
		"/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/firmware",
	} {
		if !slices.Contains(s.GetMaskedPaths(), path) {
			return fmt.Errorf("masked_paths are %q: %s is missing", s.GetMaskedPaths(), path)
		}
	}
	for _, path := range []string{"/proc/asound", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"} {
		if !slices.Contains(s.GetReadonlyPaths(), path) && !slices.Contains(s.GetMaskedPaths(), path) {
			return fmt.Errorf("masked_paths are %q and readonly_paths %q: %s is in neither", s.GetMaskedPaths(), s.GetReadonlyPaths(), path)
		}
	}
	return nil
}

func number(n int64) *int64 { return &n }

func yes() *bool {
	b := true
	return &b
}

func lookLocalhost(s *runtimeapi.LinuxContainerSecurityContext) error {
	p := s.GetSeccomp()
	if p.GetProfileType() != runtimeapi.SecurityProfile_Localhost || p.GetLocalhostRef() == "" || p.GetLocalhostRef()[0] != '/' {
		return fmt.Errorf("the seccomp profile is %v: want Localhost and an absolute path", p)
	}
	return nil
}
