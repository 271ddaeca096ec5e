package pod

import (
	"time"

	"github.com/nodekit-project/nodekit/internal/call"
)

// The reported steps of a Pod's life, for Step.What.
const (
	StepWait      = "wait"      // the Pod waits; Err says for what
	StepVolume    = "volume"    // all volumes are mounted; Name lists them
	StepDevice    = "device"    // devices are allocated; Name lists them
	StepSandbox   = "sandbox"   // the sandbox is ready
	StepNetwork   = "network"   // Name is the Pod's address
	StepImage     = "image"     // an image was pulled; Name is the reference
	StepContainer = "container" // a container was started
	StepExit      = "exit"      // a container ended; Err is nil for code 0
	StepReady     = "ready"     // the Pod became Ready
	StepPhase     = "phase"     // Name is the new phase
	StepEnd       = "end"       // everything of the Pod is gone
)

// Step is one thing that happened to a Pod. It is meant for people: a line on a
// terminal, a row of a timeline.
type Step struct {
	Pod  call.Pod
	What string // one of the Step constants
	// Name is the subject of the step: a container, an image, a phase.
	Name string
	// Took is how long the step's own work lasted, zero for a mere event.
	Took time.Duration
	Err  error
	At   time.Time
}
