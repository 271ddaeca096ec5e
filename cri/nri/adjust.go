package nri

import (
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

// Adjust asks the plugins about a new container and changes its spec as they say.
// CreateContainer calls it once, with all that is decided without plugins, and
// uses the spec only when it returns nil: after an error, which fails the
// creation, the spec may be half changed. A spec that plugins may not have is
// refused with fault.Invalid: its cgroup and its PID namespace are the runtime's.
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
		if err := p.adjust(doc, resp.GetAdjust()); err != nil {
			return fmt.Errorf("adjusting the container as NRI plugins want it: %w", err)
		}
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

// generator is what the adjustments are made with.
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
	return nrigenerate.SpecGenerator(generator{&g},
		nrigenerate.WithCDIDeviceInjector(p.methods.InjectCDI),
		nrigenerate.WithBlockIOResolver(p.methods.BlockIO),
		nrigenerate.WithRdtResolver(p.methods.RDT),
		nrigenerate.WithResourceChecker(sparingSwap(doc)),
	).Adjust(a)
}

// sparingSwap takes back that a limit of memory is one of swap, too, where there was
// none: the machine need not count swap.
func sparingSwap(doc *specs.Spec) func(*specs.LinuxResources) error {
	limited := doc.Linux.Resources != nil && doc.Linux.Resources.Memory != nil && doc.Linux.Resources.Memory.Swap != nil
	return func(r *specs.LinuxResources) error {
		if !limited && r != nil && r.Memory != nil {
			r.Memory.Swap = nil
		}
		return nil
	}
}

// refuse returns an error for what would be left out silently, or would take the
// container from the runtime's hands.
func (p *Plugins) refuse(doc *specs.Spec, a *api.ContainerAdjustment) error {
	l, m := a.GetLinux(), p.methods
	switch {
	case l.GetCgroupsPath() != "" && l.GetCgroupsPath() != doc.Linux.CgroupsPath:
		return fault.Invalid.Errorf("the container's cgroup cannot be another (%q): the runtime counts and limits by it", l.GetCgroupsPath())
	case slices.ContainsFunc(l.GetNamespaces(), ofPIDs):
		return fault.Invalid.Errorf("the container's PID namespace cannot be another: the runtime ends the container by it")
	case len(a.GetCDIDevices()) > 0 && m.InjectCDI == nil:
		return fault.Unimplemented.Errorf("this runtime has no CDI devices")
	case l.GetResources().GetBlockioClass().GetValue() != "" && m.BlockIO == nil:
		return fault.Unimplemented.Errorf("this runtime has no block I/O classes")
	case l.GetResources().GetRdtClass().GetValue() != "" && m.RDT == nil:
		return fault.Unimplemented.Errorf("this runtime has no RDT classes")
	}
	return nil
}

func ofPIDs(n *api.LinuxNamespace) bool {
	name, _ := n.IsMarkedForRemoval()
	return name == string(specs.PIDNamespace)
}
