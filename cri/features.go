package cri

import (
	"context"
	"fmt"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Handler is a RuntimeClass handler and its features.
type Handler struct {
	// Name is the handler's name, "" for the default handler. Names are unique.
	Name string
	// RecursiveReadOnlyMounts says that a read-only mount can be made read-only
	// together with all mounts below it.
	RecursiveReadOnlyMounts bool
	// UserNamespaces says that a Pod can have its own user namespace, with idmapped
	// mounts.
	UserNamespaces bool
}

// Features are optional capabilities of a runtime. The kubelet rejects Pods that need
// one that is missing.
type Features struct {
	// SupplementalGroupsPolicy says that the policy Strict is enforced and that
	// Container.User is set.
	SupplementalGroupsPolicy bool
	// UserNamespacesHostNetwork says that a Pod on the host's network can have a user
	// namespace.
	UserNamespacesHostNetwork bool
	// MountOptions says that the mount options noexec, nodev and nosuid are applied.
	MountOptions bool
}

// Info adds to verbose statuses, which people read for troubleshooting (crictl
// inspect). Values are encoded as JSON; a key that the SDK uses itself ("dir", "state",
// "sandboxID") is replaced. Each function may be nil. They are called at any time, also
// while the object changes, and should not block for long.
type Info struct {
	Runtime   func(context.Context) map[string]any
	Sandbox   func(context.Context, *Sandbox) map[string]any
	Container func(context.Context, *Container) map[string]any
}

// handler returns the handler with this name.
func (rt *Runtime) handler(name string) (Handler, error) {
	for _, h := range rt.handlers() {
		if h.Name == name {
			return h, nil
		}
	}
	var known []string
	for _, h := range rt.Handlers {
		known = append(known, h.Name)
	}
	return Handler{}, ErrInvalid.Errorf("runtime handler %q: unknown, this runtime has %q", name, known)
}

// handlers returns all handlers, the default one first.
func (rt *Runtime) handlers() []Handler {
	all := []Handler{{}}
	for _, h := range rt.Handlers {
		if h.Name == "" {
			all[0] = h
			continue
		}
		all = append(all, h)
	}
	return all
}

// describe fills in the handlers and features in the answer of Status.
func (rt *Runtime) describe(resp *runtimeapi.StatusResponse) {
	for _, h := range rt.handlers() {
		resp.RuntimeHandlers = append(resp.RuntimeHandlers, &runtimeapi.RuntimeHandler{
			Name: h.Name,
			Features: &runtimeapi.RuntimeHandlerFeatures{
				RecursiveReadOnlyMounts: h.RecursiveReadOnlyMounts, UserNamespaces: h.UserNamespaces,
			},
		})
	}
	resp.Features = &runtimeapi.RuntimeFeatures{
		SupplementalGroupsPolicy:  rt.Features.SupplementalGroupsPolicy,
		UserNamespacesHostNetwork: rt.Features.UserNamespacesHostNetwork,
		MountOptions:              rt.Features.MountOptions,
	}
}

// refuseSandbox returns an error for a sandbox that requests what the runtime does not
// have. Ignoring the request would run something different, and often less safe, than
// what was requested.
func (rt *Runtime) refuseSandbox(h Handler, c *runtimeapi.PodSandboxConfig) error {
	sec := c.GetLinux().GetSecurityContext()
	return rt.refuse(h, sec.GetNamespaceOptions(), sec.GetSupplementalGroupsPolicy())
}

// refuseContainer is refuseSandbox for a container of a sandbox of the handler.
func (rt *Runtime) refuseContainer(handler string, c *runtimeapi.ContainerConfig) error {
	h, err := rt.handler(handler)
	if err != nil {
		return err
	}
	if _, err := rt.handler(c.GetImage().GetRuntimeHandler()); err != nil {
		return fmt.Errorf("image %q: %w", c.GetImage().GetImage(), err)
	}
	for _, m := range c.GetMounts() {
		if _, err := rt.handler(m.GetImage().GetRuntimeHandler()); err != nil {
			return fmt.Errorf("mount %q: image %q: %w", m.GetContainerPath(), m.GetImage().GetImage(), err)
		}
		switch {
		case m.GetRecursiveReadOnly() && !h.RecursiveReadOnlyMounts:
			return ErrUnimplemented.Errorf("mount %q: recursive read-only mounts are not supported by the runtime handler %q", m.GetContainerPath(), h.Name)
		case len(m.GetMountOptions()) > 0 && !rt.Features.MountOptions:
			return ErrUnimplemented.Errorf("mount %q: mount options are not supported by this runtime", m.GetContainerPath())
		}
	}
	sec := c.GetLinux().GetSecurityContext()
	return rt.refuse(h, sec.GetNamespaceOptions(), sec.GetSupplementalGroupsPolicy())
}

func (rt *Runtime) refuse(h Handler, o *runtimeapi.NamespaceOption, groups runtimeapi.SupplementalGroupsPolicy) error {
	userns := o.GetUsernsOptions() != nil && o.GetUsernsOptions().GetMode() == runtimeapi.NamespaceMode_POD
	switch {
	case userns && !h.UserNamespaces:
		return ErrUnimplemented.Errorf("user namespaces are not supported by the runtime handler %q", h.Name)
	case userns && o.GetNetwork() == runtimeapi.NamespaceMode_NODE && !rt.Features.UserNamespacesHostNetwork:
		return ErrUnimplemented.Errorf("user namespaces on the host's network are not supported by this runtime")
	case groups == runtimeapi.SupplementalGroupsPolicy_Strict && !rt.Features.SupplementalGroupsPolicy:
		return ErrUnimplemented.Errorf("the supplemental groups policy Strict is not supported by this runtime")
	}
	return nil
}
