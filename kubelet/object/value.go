package object

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

// An unknown value would be treated as the default and so be ignored. The following
// functions reject it by name.

func oneOf[T ~string](v *problems, field string, value T, known ...T) {
	if value == "" || slices.Contains(known, value) {
		return
	}
	names := make([]string, len(known))
	for i, k := range known {
		names[i] = string(k)
	}
	v.add(field, "%q is none of %s", value, strings.Join(names, ", "))
}

// values checks the Pod's own fields.
func (v *problems) values(s *v1.PodSpec) {
	oneOf(v, "spec.dnsPolicy", s.DNSPolicy, v1.DNSClusterFirst, v1.DNSClusterFirstWithHostNet, v1.DNSDefault, v1.DNSNone)
	if s.OS != nil {
		oneOf(v, "spec.os.name", s.OS.Name, v1.Linux)
	}
	for field, name := range map[string]string{"spec.hostname": s.Hostname, "spec.subdomain": s.Subdomain} {
		if name != "" {
			v.check(field, validation.IsDNS1123Label(name))
		}
	}
	if s.HostPID && s.ShareProcessNamespace != nil && *s.ShareProcessNamespace {
		v.add("spec.shareProcessNamespace", "excludes hostPID")
	}
	for i, a := range s.HostAliases {
		if _, err := netip.ParseAddr(a.IP); err != nil {
			v.add(fmt.Sprintf("spec.hostAliases[%d].ip", i), "%q is not an IP address", a.IP)
		}
	}
	if sc := s.SecurityContext; sc != nil {
		if sc.FSGroupChangePolicy != nil {
			oneOf(v, "spec.securityContext.fsGroupChangePolicy", *sc.FSGroupChangePolicy, v1.FSGroupChangeAlways, v1.FSGroupChangeOnRootMismatch)
		}
		v.seccomp("spec.securityContext.seccompProfile", sc.SeccompProfile)
	}
}

func (v *problems) seccomp(field string, p *v1.SeccompProfile) {
	if p == nil {
		return
	}
	oneOf(v, field+".type", p.Type, v1.SeccompProfileTypeRuntimeDefault, v1.SeccompProfileTypeUnconfined, v1.SeccompProfileTypeLocalhost)
	if local := p.Type == v1.SeccompProfileTypeLocalhost; local != (p.LocalhostProfile != nil && *p.LocalhostProfile != "") {
		v.add(field+".localhostProfile", "goes with type Localhost, and only with that")
	}
}

// containerValues checks one container's fields.
func (v *problems) containerValues(field string, c *v1.Container) {
	oneOf(v, field+".terminationMessagePolicy", c.TerminationMessagePolicy, v1.TerminationMessageReadFile, v1.TerminationMessageFallbackToLogsOnError)
	names := map[string]bool{}
	for i, p := range c.Ports {
		at := fmt.Sprintf("%s.ports[%d]", field, i)
		oneOf(v, at+".protocol", p.Protocol, v1.ProtocolTCP, v1.ProtocolUDP, v1.ProtocolSCTP)
		if p.Name != "" && names[p.Name] {
			v.add(at+".name", "%q is there twice", p.Name)
		}
		names[p.Name] = true
	}
	for i, r := range c.ResizePolicy {
		at := fmt.Sprintf("%s.resizePolicy[%d]", field, i)
		oneOf(v, at+".resourceName", r.ResourceName, v1.ResourceCPU, v1.ResourceMemory)
		oneOf(v, at+".restartPolicy", r.RestartPolicy, v1.NotRequired, v1.RestartContainer)
	}
	privileged := c.SecurityContext != nil && c.SecurityContext.Privileged != nil && *c.SecurityContext.Privileged
	for i, m := range c.VolumeMounts {
		if m.MountPropagation == nil {
			continue
		}
		at := fmt.Sprintf("%s.volumeMounts[%d].mountPropagation", field, i)
		oneOf(v, at, *m.MountPropagation, v1.MountPropagationNone, v1.MountPropagationHostToContainer, v1.MountPropagationBidirectional)
		if *m.MountPropagation == v1.MountPropagationBidirectional && !privileged {
			v.add(at, "Bidirectional is for privileged containers")
		}
	}
	for _, list := range []v1.ResourceList{c.Resources.Requests, c.Resources.Limits} {
		for name := range list {
			if strings.HasPrefix(string(name), v1.ResourceHugePagesPrefix) {
				v.add(field+".resources", "%s is not supported by nodekit: remove it", name)
			}
		}
	}
	if s := c.SecurityContext; s != nil {
		v.seccomp(field+".securityContext.seccompProfile", s.SeccompProfile)
		if s.ProcMount != nil {
			oneOf(v, field+".securityContext.procMount", *s.ProcMount, v1.DefaultProcMount, v1.UnmaskedProcMount)
		}
	}
}

// unenforced returns notices for values that have no effect although their
// field works.
func unenforced(object string, p *v1.Pod) []Notice {
	const onDisk = "the space that a Pod takes on disk is not limited"
	var notices []Notice
	for i, vol := range p.Spec.Volumes {
		if e := vol.EmptyDir; e != nil && e.Medium == v1.StorageMediumDefault && e.SizeLimit != nil {
			notices = append(notices, Notice{object, fmt.Sprintf("spec.volumes[%d].emptyDir.sizeLimit", i), onDisk})
		}
	}
	for kind, list := range map[string][]v1.Container{"initContainers": p.Spec.InitContainers, "containers": p.Spec.Containers} {
		for i := range list {
			if _, ok := list[i].Resources.Limits[v1.ResourceEphemeralStorage]; ok {
				notices = append(notices, Notice{object, fmt.Sprintf("spec.%s[%d].resources.limits[ephemeral-storage]", kind, i), onDisk})
			}
		}
	}
	return notices
}
