package pod

import (
	v1 "k8s.io/api/core/v1"

	"github.com/nodekit-project/nodekit/internal/call"
)

// The reasons of events: those of the upstream kubelet, because people and
// tools look for them.
const (
	EventPulling          = "Pulling"
	EventPulled           = "Pulled"
	EventInspectFailed    = "InspectFailed"
	EventNeverPull        = "ErrImageNeverPull"
	EventPullSecret       = "FailedToRetrieveImagePullSecret"
	EventCreated          = "Created"
	EventStarted          = "Started"
	EventKilling          = "Killing"
	EventFailed           = "Failed"
	EventBackOff          = "BackOff"
	EventSandboxChanged   = "SandboxChanged"
	EventUnhealthy        = "Unhealthy"
	EventProbeWarning     = "ProbeWarning"
	EventFailedPostStart  = "FailedPostStartHook"
	EventFailedPreStop    = "FailedPreStopHook"
	EventFailedSync       = "FailedSync"
	EventResizeCompleted  = "ResizeCompleted"
	EventResizeDeferred   = "ResizeDeferred"
	EventResizeInfeasible = "ResizeInfeasible"
	EventResizeError      = "ResizeError"
)

// Event is an event of a Pod for users of the Kubernetes API. The recipient counts
// similar events. A reason is one of the Event constants, or that of a WaitError or
// RejectError ("FailedMount", "NetworkNotReady", "OutOfcpu").
type Event struct {
	Pod call.Pod
	// Field is the part of the Pod that the event is about, as the fieldPath of an
	// object reference; "" means the whole Pod.
	Field   string
	Type    string // v1.EventTypeNormal or v1.EventTypeWarning
	Reason  string // one CamelCase word
	Message string // a sentence
}

// FieldOf returns the field path of the named container: "spec.containers{web}". It
// returns "" for "" and for a container that the Pod does not have.
func FieldOf(p *v1.Pod, container string) string {
	switch {
	case isApp(p, container):
		return "spec.containers{" + container + "}"
	case IsInit(p, container):
		return "spec.initContainers{" + container + "}"
	case Ephemeral(p, container) != nil:
		return "spec.ephemeralContainers{" + container + "}"
	}
	return ""
}

// StartEvent returns the reason of the event for a failed start, given the StartError's
// reason.
func StartEvent(reason string) string {
	switch reason {
	case "ErrImageNeverPull":
		return EventNeverPull
	case "InvalidImageName", "ImageInspectError":
		return EventInspectFailed
	default:
		return EventFailed
	}
}
