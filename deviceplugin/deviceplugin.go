// Package deviceplugin is the SDK for Kubernetes device plugins (k8s.io/kubelet
// deviceplugin/v1beta1, as of v0.37).
//
// The author fills in a Plugin: where devices come from and what a container needs to
// use them. Serve does the rest. It listens before it registers, registers again
// whenever the kubelet restarts, sends every watcher the full list and every change of
// it, derives the plugin's options from the functions that are set, and enforces the
// specification on both sides: device IDs, resource name, allocations, message size.
//
// A plugin registers only at <kubelet>/device-plugins/kubelet.sock, which every kubelet
// serves. The kubelet knows plugins by resource name: if a plugin were also in
// plugins_registry, the kubelet would disconnect it here when its socket there
// disappears (read in the code of Kubernetes 1.36).
//
// See examples/device-hello for a complete plugin, and conformance/devicesuite for the
// suite that checks plugins in any language against the specification. The kubelet's
// side is deviceplugin/client.
package deviceplugin

import (
	"context"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// The kinds of error that the plugin's functions may return, to be tested with
// errors.Is. Each becomes the gRPC code of the same name. Of other errors, a full disk
// becomes ResourceExhausted, a read-only file system FailedPrecondition, and anything
// else Internal.
const (
	ErrInvalid            = fault.Invalid
	ErrNotFound           = fault.NotFound
	ErrFailedPrecondition = fault.FailedPrecondition
	ErrUnavailable        = fault.Unavailable
	ErrExhausted          = fault.Exhausted
)

// Plugin is what the author fills in. Watch is required; Prefer and PreStart are
// announced to the kubelet if they are set. Functions are called concurrently. They
// must be idempotent: after a crash, the next process may get the same calls again.
type Plugin struct {
	// Resource is the extended resource that Pods request, such as "example.com/gpu".
	// Required: a name with a domain that is not kubernetes.io.
	Resource string

	// Watch discovers the devices. It calls update with the full list once it knows it
	// (an empty list counts), and again whenever a device appears, disappears or
	// changes health. It should return only when ctx ends, or with an error, which ends
	// Serve with it. Returning nil early means that the list is final. Serve calls
	// Watch once, and registers after the first update.
	//
	// update takes effect at once and does not block on the kubelet. It rejects a list
	// that violates the specification with ErrInvalid and keeps the previous list. A
	// list equal to the previous one sends no message.
	Watch func(ctx context.Context, update func([]Device) error) error

	// Allocate returns what a container needs to use the devices. The ids are sorted,
	// unique, and name healthy devices of the last list; Serve rejects all others
	// itself. The kubelet never says when a device is free again, and may call again
	// with the same ids for another container. It waits for the answer: be quick.
	// Everything that the answer names must exist on the host when Allocate returns.
	// Nil means that containers need nothing: the resource is only counted.
	Allocate func(ctx context.Context, ids []string) (*Allocation, error)

	// Prefer picks the best Count of the available devices, for example those that are
	// close to each other. If it returns an error, or an answer that violates the
	// contract of Preference, Serve logs that and answers with any valid choice,
	// because the kubelet would fail the Pod. Nil means no preference.
	Prefer func(ctx context.Context, p Preference) ([]string, error)

	// PreStart is called before each start of a container with the ids of its devices,
	// for example to reset them. The kubelet waits 30 s. Nil means that nothing is
	// needed.
	PreStart func(ctx context.Context, ids []string) error
}

// Device is one device of the resource.
type Device struct {
	// ID identifies the device within the resource: 1 to 63 printable characters
	// without spaces. It should identify the same device after a restart and a reboot.
	ID string
	// Unhealthy excludes the device from allocation. Containers that already hold it
	// keep running.
	Unhealthy bool
	// NUMA are the NUMA nodes that the device is close to, each 0 or greater. Empty
	// means no affinity, or unknown.
	NUMA []int
}

// Preference is the kubelet's question which Count of the devices in Available are best
// for one container. The answer must hold exactly Count different ids from Available,
// including all of Must. Must is a subset of Available.
type Preference struct {
	Available, Must []string
	Count           int
}

// Allocation is what a container needs to use its devices. The zero Allocation adds
// nothing.
type Allocation struct {
	Envs        map[string]string
	Mounts      []Mount
	Nodes       []Node
	Annotations map[string]string // for the container runtime
	CDI         []string          // CDI devices, "vendor.com/class=name", whose spec exists
}

// Mount is a file or directory of the host to mount into the container. Both paths are
// absolute.
type Mount struct {
	ContainerPath, HostPath string
	ReadOnly                bool
}

// Node is a device node of the host to add to the container.
type Node struct {
	HostPath      string // absolute
	ContainerPath string // absolute; empty means the same as HostPath
	Permissions   string // some of "rwm" (read, write, mknod); empty means "rw"
}

// Static returns a Watch function for devices that never change.
func Static(devices ...Device) func(context.Context, func([]Device) error) error {
	return func(_ context.Context, update func([]Device) error) error { return update(devices) }
}
