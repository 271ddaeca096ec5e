// Package deviceplugin is the SDK for Kubernetes device plugins
// (k8s.io/kubelet deviceplugin/v1beta1, as of v0.37).
//
// The author fills in a Plugin: where devices come from and what a container
// needs to use them. Serve does the rest: it listens before it registers,
// registers again whenever the kubelet restarts, gives every watcher the whole
// list and every change of it, derives the plugin's options from the functions
// that are set, and holds both sides to the specification: ids, resource name,
// allocations, message size.
//
// A plugin registers at <kubelet>/device-plugins/kubelet.sock, which every
// kubelet serves, and there alone. The kubelet knows plugins by resource name, so
// a plugin that were also in plugins_registry would be disconnected here when its
// socket there goes (read in the code of Kubernetes 1.36).
//
// See examples/device-hello for a whole plugin, and conformance/devicesuite for
// the suite that holds plugins in any language to the specification. The
// kubelet's side is deviceplugin/client.
package deviceplugin

import (
	"context"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// The kinds of error that the plugin's functions may return, tested with
// errors.Is. They become the gRPC code of the same name. Of other errors a full
// disk's becomes ResourceExhausted, a read-only one's FailedPrecondition, and the rest
// Internal.
const (
	ErrInvalid            = fault.Invalid
	ErrNotFound           = fault.NotFound
	ErrFailedPrecondition = fault.FailedPrecondition
	ErrUnavailable        = fault.Unavailable
	ErrExhausted          = fault.Exhausted
)

// Plugin is what the author fills in. Watch is required; a function left nil is
// not supported, and the kubelet is told so. Functions are called concurrently,
// and after a crash the next process may see the same calls again: each must
// be safe to repeat.
type Plugin struct {
	// Resource is the extended resource that Pods ask for: "example.com/gpu".
	// Required: a name with a domain that is not kubernetes.io.
	Resource string

	// Watch finds the devices. It calls update with the whole list once it
	// knows it (an empty list counts) and again whenever a device comes, goes or
	// changes health, until ctx ends; only then, or with an error, should it
	// return. Returning nil early means that the list is final; an error ends
	// Serve with it. Serve calls Watch once, and registers after the first update.
	//
	// update takes effect at once and does not block on the kubelet. It
	// refuses a list that breaks the specification with ErrInvalid and keeps
	// the list before. Equal lists cause no message.
	Watch func(ctx context.Context, update func([]Device) error) error

	// Allocate says what a container needs to use the devices. The ids are
	// sorted, unique, and of healthy devices of the last list; Serve refuses all
	// else itself. The kubelet never says when a device is free again, may call
	// again with the same ids for another container, and waits for the answer:
	// be quick. The answer must exist on the host when Allocate returns.
	// Nil means that containers need nothing: the resource only counts.
	Allocate func(ctx context.Context, ids []string) (*Allocation, error)

	// Prefer picks the best Count devices of those available, for example
	// those that are close to each other. An answer that breaks the contract
	// of Preference, or an error, is logged and replaced by any valid one,
	// because the kubelet would fail the Pod. Nil means no preference.
	Prefer func(ctx context.Context, p Preference) ([]string, error)

	// PreStart is called before each start of a container with the ids that
	// it holds, for example to reset the devices. The kubelet waits 30 s.
	// Nil means that nothing is needed.
	PreStart func(ctx context.Context, ids []string) error
}

// Device is one device of the resource.
type Device struct {
	// ID names the device in the resource: 1 to 63 printable characters without
	// spaces. It should name the same device after a restart and a reboot.
	ID string
	// Unhealthy takes the device out of what can be allocated. Containers
	// that hold it go on.
	Unhealthy bool
	// NUMA are the NUMA nodes that the device is close to, 0 or more each.
	// Empty means no affinity, or not known.
	NUMA []int
}

// Preference is a question of the kubelet: which Count of the devices in
// Available are best for one container? The answer must hold exactly Count
// different ids out of Available, and all of Must among them. Must is a part of
// Available.
type Preference struct {
	Available, Must []string
	Count           int
}

// Allocation is what a container needs to use its devices. The zero Allocation
// asks for nothing.
type Allocation struct {
	Envs        map[string]string
	Mounts      []Mount
	Nodes       []Node
	Annotations map[string]string // for the container runtime
	CDI         []string          // CDI devices, "vendor.com/class=name", whose spec is in place
}

// Mount is a file or directory of the host for the container. Both paths are
// absolute.
type Mount struct {
	ContainerPath, HostPath string
	ReadOnly                bool
}

// Node is a device node of the host for the container.
type Node struct {
	HostPath      string // absolute
	ContainerPath string // absolute; empty means the same as HostPath
	Permissions   string // some of "rwm" (read, write, mknod); empty means "rw"
}

// Static returns a Watch for devices that never change.
func Static(devices ...Device) func(context.Context, func([]Device) error) error {
	return func(_ context.Context, update func([]Device) error) error { return update(devices) }
}
