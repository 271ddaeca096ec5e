package nri

import (
	"maps"
	"slices"
	"time"

	"github.com/containerd/nri/pkg/api"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nodekit-project/nodekit/cri"
)

// podMessage returns a sandbox in NRI's form.
func podMessage(s *cri.Sandbox) *api.PodSandbox {
	meta := s.Config.GetMetadata()
	return &api.PodSandbox{
		Id: s.ID, Name: meta.GetName(), Uid: meta.GetUid(), Namespace: meta.GetNamespace(),
		Labels: s.Config.GetLabels(), Annotations: s.Config.GetAnnotations(),
		RuntimeHandler: s.Handler, Ips: s.IPs,
		Linux: &api.LinuxPodSandbox{
			CgroupParent: s.Config.GetLinux().GetCgroupParent(),
			PodOverhead:  resourcesMessage(s.Config.GetLinux().GetOverhead()),
			PodResources: resourcesMessage(s.Config.GetLinux().GetResources()),
		},
	}
}

// message returns a container in NRI's form. If its spec is not available, because the
// container is being removed, that is left out.
func (p *Plugins) message(c *cri.Container) *api.Container {
	doc, err := p.methods.Spec(c)
	if err != nil {
		p.cfg.Logger.Debug("a container's spec for NRI plugins", "container", c.ID, "err", err)
		doc = &specs.Spec{}
	}
	return containerMessage(c, doc)
}

// containerMessage shares no map or slice with what it describes: NRI's package writes
// the plugins' adjustments into it.
func containerMessage(c *cri.Container, doc *specs.Spec) *api.Container {
	m := &api.Container{
		Id: c.ID, PodSandboxId: c.Sandbox.ID, Name: c.Config.GetMetadata().GetName(), State: stateOf(c),
		Labels: maps.Clone(c.Config.GetLabels()), Annotations: annotations(c, doc),
		Mounts: api.FromOCIMounts(doc.Mounts), Hooks: api.FromOCIHooks(doc.Hooks),
		CreatedAt: nanoseconds(c.CreatedAt), StartedAt: nanoseconds(c.StartedAt),
		Image: &api.Image{Name: c.Config.GetImage().GetUserSpecifiedImage(), ConfigDigest: c.ImageRef},
	}
	if m.Image.Name == "" {
		m.Image.Name = c.Config.GetImage().GetImage()
	}
	if e := c.Exit; e != nil {
		m.FinishedAt, m.ExitCode, m.StatusReason, m.StatusMessage = nanoseconds(e.At), e.Code, e.Reason, e.Message
	}
	for _, d := range c.Config.GetCDIDevices() {
		m.CDIDevices = append(m.CDIDevices, &api.CDIDevice{Name: d.GetName()})
	}
	if doc.Process != nil {
		describeProcess(m, doc.Process)
	}
	if doc.Linux != nil {
		m.Linux = linuxMessage(doc)
	}
	return m
}

// annotations returns the requested annotations of the container and those of its spec,
// to which plugins may have added some.
func annotations(c *cri.Container, doc *specs.Spec) map[string]string {
	all := map[string]string{}
	maps.Copy(all, c.Config.GetAnnotations())
	maps.Copy(all, doc.Annotations)
	return all
}

func describeProcess(m *api.Container, process *specs.Process) {
	m.Args, m.Env = slices.Clone(process.Args), slices.Clone(process.Env)
	m.User = &api.User{Uid: process.User.UID, Gid: process.User.GID, AdditionalGids: process.User.AdditionalGids}
	for _, l := range process.Rlimits {
		m.Rlimits = append(m.Rlimits, &api.POSIXRlimit{Type: l.Type, Hard: l.Hard, Soft: l.Soft})
	}
}

func linuxMessage(doc *specs.Spec) *api.LinuxContainer {
	linux := doc.Linux
	m := &api.LinuxContainer{
		Namespaces: api.FromOCILinuxNamespaces(linux.Namespaces), Devices: api.FromOCILinuxDevices(linux.Devices),
		Resources: api.FromOCILinuxResources(linux.Resources, nil), CgroupsPath: linux.CgroupsPath, Sysctl: maps.Clone(linux.Sysctl),
		NetDevices: api.FromOCILinuxNetDevices(linux.NetDevices),
	}
	if rdt := linux.IntelRdt; rdt != nil {
		m.Rdt = &api.LinuxRdt{ClosId: api.String(rdt.ClosID), Schemata: api.RepeatedString(rdt.Schemata), EnableMonitoring: api.Bool(rdt.EnableMonitoring)}
	}
	if linux.Seccomp != nil {
		m.SeccompPolicy = api.FromOCILinuxSeccomp(linux.Seccomp)
	}
	if doc.Process != nil {
		m.OomScoreAdj = api.Int(doc.Process.OOMScoreAdj)
		m.IoPriority = api.FromOCILinuxIOPriority(doc.Process.IOPriority)
		m.Scheduler = api.FromOCILinuxScheduler(doc.Process.Scheduler)
	}
	return m
}

func stateOf(c *cri.Container) api.ContainerState {
	switch {
	case c.Exit != nil:
		return api.ContainerState_CONTAINER_STOPPED
	case !c.StartedAt.IsZero():
		return api.ContainerState_CONTAINER_RUNNING
	}
	return api.ContainerState_CONTAINER_CREATED
}

// nanoseconds returns a time in NRI's form: nanoseconds since 1970, 0 for no time.
func nanoseconds(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}
