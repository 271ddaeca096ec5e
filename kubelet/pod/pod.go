// Package pod holds the plain data that the parts of the kubelet exchange, and the pure
// decisions based on it: the plan (what to do next with a Pod) and its helpers. Nothing
// here does I/O, reads a clock or starts a goroutine, so all of it is tested without
// root.
//
// The parts of the kubelet import this package and never each other.
package pod

import (
	"errors"
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/nodekit-project/nodekit/internal/call"
)

// CallOf returns the Pod's identity for calls made on its behalf.
func CallOf(p *v1.Pod) call.Pod {
	return call.Pod{Namespace: p.Namespace, Name: p.Name, UID: string(p.UID)}
}

// Volume is a Pod's volume, ready on the host.
type Volume struct {
	// HostPath is the directory that containers mount, or the file of a file hostPath.
	HostPath string
	// ReadOnly forces every mount of the volume read-only.
	ReadOnly bool
	// Relabel makes the runtime give the volume's files the Pod's SELinux label. It is
	// set for every volume that is created for Pods; what belongs to the host keeps its
	// own label.
	Relabel bool
	// Refresh is how often the volume is to be mounted again while the Pod runs, to
	// update its contents; zero means only after an object has changed.
	Refresh time.Duration
}

// Volumes are a Pod's volumes by their name in the spec.
type Volumes map[string]Volume

// Devices is what device plugins returned for one container, merged over all its
// resources.
type Devices struct {
	Envs        map[string]string
	Mounts      []DeviceMount
	Nodes       []DeviceNode
	Annotations map[string]string
	CDI         []string // fully qualified CDI device names
}

// DeviceMount is a mount requested by a device plugin.
type DeviceMount struct {
	ContainerPath, HostPath string
	ReadOnly                bool
}

// DeviceNode is a device node requested by a device plugin. Permissions is some of
// "rwm".
type DeviceNode struct {
	ContainerPath, HostPath, Permissions string
}

// WaitError says that a Pod cannot proceed yet and what it waits for: a plugin that has
// not registered, an object that does not exist. It is not a failure: the worker shows
// it in the Pod's status and retries, at once when a source that it watches changes,
// and otherwise with back-off.
type WaitError struct {
	// Reason is one CamelCase word for the status, e.g. "FailedMount".
	Reason string
	// For is what the Pod waits for, and what the user can do about it.
	For string
	Err error
}

// Error returns what the Pod waits for, with the cause.
func (w *WaitError) Error() string {
	if w.Err == nil {
		return "waiting for " + w.For
	}
	return fmt.Sprintf("waiting for %s: %v", w.For, w.Err)
}

// Unwrap returns the cause.
func (w *WaitError) Unwrap() error { return w.Err }

// Waiting returns the WaitError in err's chain, or nil.
func Waiting(err error) *WaitError {
	var w *WaitError
	if errors.As(err, &w) {
		return w
	}
	return nil
}

// RejectError says that a Pod can never run here. Its phase becomes Failed with the
// reason, for good.
type RejectError struct {
	Reason  string // one CamelCase word: "UnexpectedAdmissionError", ...
	Message string
}

// Error returns the message.
func (r *RejectError) Error() string { return r.Message }

// StartError says that a container could not be started, with the reason that
// its waiting state shows: "CreateContainerConfigError", "ErrImagePull", ...
type StartError struct {
	Reason string
	Err    error
	// Pull is set for a failed image pull, which a change of a pull Secret may resolve.
	Pull bool
}

// Error returns the cause's text.
func (s *StartError) Error() string { return s.Err.Error() }

// Unwrap returns the cause.
func (s *StartError) Unwrap() error { return s.Err }

// Request is the input for a container's configuration, apart from the node.
type Request struct {
	Pod       *v1.Pod
	Container *v1.Container
	Start     Start
	Volumes   Volumes
	Devices   Devices
	Sandbox   Sandbox // for its addresses
	// Target is the ID of the container whose processes an ephemeral container is to
	// see, or "".
	Target string
	// ImageID is the image's ID. ImageUserName and ImageUser are the user that the
	// image names: a name, or an ID.
	ImageID, ImageUserName string
	ImageUser              *int64
}
