package nri

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/containerd/nri/pkg/api"
	nrigenerate "github.com/containerd/nri/pkg/runtime-tools/generate"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-tools/generate"

	"github.com/nodekit-project/nodekit/cri"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// Adjust asks the plugins about a new container and applies their adjustments to its
// spec. CreateContainer calls it once, after everything else has been decided, and uses
// the spec only if it returns nil: after an error, which fails the creation, the spec may
// be partly changed. Adjustments of the cgroup or the PID namespace, which belong to the
// runtime, are refused with fault.Invalid. If plugins change limits, c.Config is replaced
// by a copy with the new ones.
func (p *Plugins) Adjust(ctx context.Context, c *cri.Container, doc *specs.Spec) error {
	if err := p.ran(ctx, c.Sandbox); err != nil { // a sandbox that was restored with its containers
		return err
	}
	var resp *api.CreateContainerResponse
	err := p.tell(func() (err error) {
		k, m := p.know(c), containerMessage(c, doc)
		resp, err = p.nri.CreateContainer(ctx, &api.CreateContainerRequest{Pod: podMessage(c.Sandbox), Container: m})
		if err != nil {
			return refused("CreateContainer", err)
		}
		before := limitsIn(doc)
		if err := p.adjust(doc, resp.GetAdjust()); err != nil {
			return fmt.Errorf("adjusting the container as NRI plugins want it: %w", err)
		}
		c.Config = inForce(c.Config, before, limitsIn(doc))
		p.mu.Lock()
		k.draft = containerMessage(c, doc)
		p.mu.Unlock()
		return nil
	})
	if err != nil {
		return err
	}
	return p.applyAll(ctx, resp.GetUpdate())
}

// generator applies the adjustments.
type generator struct{ *generate.Generator }

func (g generator) Spec() *specs.Spec { return g.Config }

func (p *Plugins) adjust(doc *specs.Spec, a *api.ContainerAdjustment) error {
	if a == nil {
		return nil
	}
	if err := p.refuse(doc, a); err != nil {
		return err
	}
	g := generate.NewFromSpec(doc)
	err := nrigenerate.SpecGenerator(generator{&g},
		nrigenerate.WithCDIDeviceInjector(p.methods.InjectCDI),
		nrigenerate.WithBlockIOResolver(p.methods.BlockIO),
		nrigenerate.WithRdtResolver(p.methods.RDT),
		nrigenerate.WithResourceChecker(sparingSwap(doc)),
	).Adjust(a)
	if err != nil {
		return err
	}
	limitMemory(doc, a.GetLinux().GetResources().GetMemory())
	unlimitPIDs(doc, a.GetLinux().GetResources().GetPids())
	return nil
}

// unlimitPIDs removes a PID limit, which the generator leaves as it is.
func unlimitPIDs(doc *specs.Spec, want *api.LinuxPids) {
	if want.GetLimit() < 0 {
		none := int64(nrigenerate.UnlimitedPidsLimit)
		doc.Linux.Resources.Pids = &specs.LinuxPids{Limit: &none}
	}
}

// limitMemory applies the memory limits that the generator omits.
func limitMemory(doc *specs.Spec, want *api.LinuxMemory) {
	m := (&api.LinuxResources{Memory: want}).ToOCI().Memory
	if m.Swap == nil && m.Reservation == nil && m.Swappiness == nil && m.DisableOOMKiller == nil {
		return
	}
	if doc.Linux.Resources == nil {
		doc.Linux.Resources = &specs.LinuxResources{}
	}
	if doc.Linux.Resources.Memory == nil {
		doc.Linux.Resources.Memory = &specs.LinuxMemory{}
	}
	have := doc.Linux.Resources.Memory
	have.Swap, have.Reservation = cmp.Or(m.Swap, have.Swap), cmp.Or(m.Reservation, have.Reservation)
	have.Swappiness, have.DisableOOMKiller = cmp.Or(m.Swappiness, have.Swappiness), cmp.Or(m.DisableOOMKiller, have.DisableOOMKiller)
}

// sparingSwap removes the swap limit that the generator sets along with a memory limit,
// if there was none: the machine may not account for swap.
func sparingSwap(doc *specs.Spec) func(*specs.LinuxResources) error {
	limited := doc.Linux.Resources != nil && doc.Linux.Resources.Memory != nil && doc.Linux.Resources.Memory.Swap != nil
	return func(r *specs.LinuxResources) error {
		if !limited && r != nil && r.Memory != nil {
			r.Memory.Swap = nil
		}
		return nil
	}
}

// refuse returns an error for adjustments that would be silently ignored, or would take
// the container out of the runtime's control.
func (p *Plugins) refuse(doc *specs.Spec, a *api.ContainerAdjustment) error {
	l, m := a.GetLinux(), p.methods
	memory := l.GetResources().GetMemory()
	switch {
	case l.GetCgroupsPath() != "" && l.GetCgroupsPath() != doc.Linux.CgroupsPath:
		return fault.Invalid.Errorf("the container's cgroup cannot be another (%q): the runtime counts and limits by it", l.GetCgroupsPath())
	case slices.ContainsFunc(l.GetNamespaces(), ofPIDs):
		return fault.Invalid.Errorf("the container's PID namespace cannot be another: the runtime ends the container by it")
	case len(a.GetCDIDevices()) > 0 && m.InjectCDI == nil:
		return fault.Unimplemented.Errorf("this runtime has no CDI devices")
	case memory.GetKernel() != nil || memory.GetKernelTcp() != nil:
		return fault.Unimplemented.Errorf("memory.kernel and memory.kernel_tcp: OCI runtimes have given up these limits")
	case memory.GetUseHierarchy() != nil && !memory.GetUseHierarchy().GetValue():
		return fault.Unimplemented.Errorf("memory.use_hierarchy false: cgroups are always counted with those below them")
	case l.GetResources().GetBlockioClass().GetValue() != "" && m.BlockIO == nil:
		return fault.Unimplemented.Errorf("this runtime has no block I/O classes")
	case l.GetResources().GetRdtClass().GetValue() != "" && m.RDT == nil:
		return fault.Unimplemented.Errorf("this runtime has no RDT classes")
	}
	return p.refuseRDT(l.GetRdt())
}

// refuseRDT returns an error for what the RDT classes do not offer. The shares of a group
// are not those of a single container, and nobody would remove a group made for one
// container.
func (p *Plugins) refuseRDT(r *api.LinuxRdt) error {
	group := r.GetClosId()
	switch {
	case len(r.GetSchemata().GetValue()) > 0:
		return fault.Unimplemented.Errorf("rdt.schemata: what a container gets is said by its class, and not for it alone")
	case r.GetEnableMonitoring().GetValue():
		return fault.Unimplemented.Errorf("rdt.enable_monitoring: this runtime would not remove the group that it makes")
	case group == nil:
		return nil
	case p.methods.RDT == nil:
		return fault.Unimplemented.Errorf("rdt.clos_id: this runtime has no RDT classes")
	}
	means, err := p.methods.RDT(group.GetValue())
	switch {
	case err != nil:
		return fmt.Errorf("rdt.clos_id: %w", err)
	case means == nil || means.ClosID != group.GetValue():
		return fault.Invalid.Errorf("rdt.clos_id %q: no RDT class means this group", group.GetValue())
	}
	return nil
}

func ofPIDs(n *api.LinuxNamespace) bool {
	name, _ := n.IsMarkedForRemoval()
	return name == string(specs.PIDNamespace)
}
