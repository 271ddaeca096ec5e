package criclientsuite

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nodekit-project/nodekit/conformance"
)

// Endpoint, Manifests and State stand in commands for what the suite gives the
// kubelet; see Place.
const (
	Endpoint  = "$(CONTAINER_RUNTIME_ENDPOINT)"
	Manifests = "$(MANIFEST_DIRECTORY)"
	State     = "$(STATE_DIRECTORY)"
)

// Target is the kubelet under test.
type Target struct {
	// Start starts a kubelet at a place that is its own. Command makes one of a
	// command line. Required.
	Start func(ctx context.Context, p Place) (*Kubelet, error)
	// Lacks are the features that the kubelet does not have, or not for Pods of a
	// manifest directory.
	Lacks []Feature
	// Device is an extended resource of which the kubelet has one, of a device plugin
	// that runs beside it. Empty: rules about devices do not apply.
	Device string
	// Patience is how long the kubelet may take for one step, and eight times as long
	// as it is watched for what it must not do. Zero means 20 s, which is enough for a
	// kubelet that looks for changes once a second.
	Patience time.Duration

	house *house // of the run; set by Open
}

// Place is where a kubelet works.
type Place struct {
	Endpoint  string // of the runtime, "unix:///..."
	Manifests string // a directory of Pod manifests, the kubelet's staticPodPath
	State     string // an empty directory for all that the kubelet keeps
}

// Kubelet is a kubelet that was started.
type Kubelet struct {
	// Kill ends the kubelet as SIGKILL does, Revive starts it again at the same
	// place. Nil where it cannot be killed: rules that do so do not apply.
	Kill   func() error
	Revive func(ctx context.Context) error
	// Close ends the kubelet and takes down what it has put on the machine. The
	// runtime runs meanwhile.
	Close func(ctx context.Context) error
	// Said returns the end of what the kubelet printed. May be nil.
	Said func() string
}

// Feature is a part of a kubelet that one may do without when its author says so.
type Feature string

// The features.
const (
	RuntimeClasses     Feature = "runtimeClasses"     // handlers of RuntimeClass objects in the manifest directory
	UserNamespaces     Feature = "userNamespaces"     // hostUsers: false
	AppArmor           Feature = "appArmor"           // appArmorProfile
	SupplementalGroups Feature = "supplementalGroups" // supplementalGroupsPolicy
	StopSignals        Feature = "stopSignals"        // lifecycle.stopSignal
	LogRotation        Feature = "logRotation"        // rotates the logs of running containers, at 1 MiB at the latest
	Propagation        Feature = "propagation"        // mounts that propagate
	RecursiveReadOnly  Feature = "recursiveReadOnly"  // recursiveReadOnly of a mount
	ImageVolumes       Feature = "imageVolumes"       // images as volumes
)

// features are all of them.
func features() []Feature {
	return []Feature{
		RuntimeClasses, UserNamespaces, AppArmor, SupplementalGroups, StopSignals, LogRotation, Propagation, RecursiveReadOnly, ImageVolumes,
	}
}

func facts() map[string]string {
	var names []string
	for _, f := range features() {
		names = append(names, string(f))
	}
	return map[string]string{
		"exec":     "the command that starts the kubelet, for --exec",
		"env":      "further environment of the command, NAME=value, separated by spaces",
		"setup":    "a shell command that is run before the kubelet is started",
		"cleanup":  "a shell command that is run after the kubelet has ended",
		"lacks":    "features that the kubelet does not have, separated by commas: " + strings.Join(names, ", "),
		"device":   "an extended resource of which the kubelet has one",
		"patience": "how long the kubelet may take for one step, as 20s",
	}
}

const (
	defaultPatience = 20 * time.Second
	// calmShare is the part of the patience for which something must not happen.
	calmShare = 8
)

func (t *Target) patience() time.Duration {
	if t.Patience > 0 {
		return t.Patience
	}
	return defaultPatience
}

// calm is how long the suite waits for what must not happen.
func (t *Target) calm() time.Duration { return t.patience() / calmShare }

// Declare puts what a profile says into the target, the start of the kubelet
// excepted: see CommandOf. A nil profile says nothing.
func (t *Target) Declare(profile *conformance.Profile) error {
	if device, declared := profile.Fact("device"); declared {
		t.Device = device
	}
	if text, declared := profile.Fact("patience"); declared {
		patience, err := time.ParseDuration(text)
		if err != nil {
			return fmt.Errorf("fact patience: %w", err)
		}
		t.Patience = patience
	}
	for _, name := range profile.List("lacks") {
		t.Lacks = append(t.Lacks, Feature(name))
	}
	return t.validate()
}

func (t *Target) validate() error {
	for _, f := range t.Lacks {
		if !slices.Contains(features(), f) {
			return fmt.Errorf("fact lacks: %q is none of %q", f, features())
		}
	}
	if t.Patience < 0 {
		return fmt.Errorf("a patience of %v: want more than nothing", t.Patience)
	}
	if t.Start == nil {
		return errors.New("there is no kubelet to test: Target.Start is nil")
	}
	return nil
}

// missing returns NotApplicable for the first of the needs that the target lacks.
func (t *Target) missing(needs []Feature) error {
	for _, f := range needs {
		if slices.Contains(t.Lacks, f) {
			return conformance.NotApplicable("the kubelet's author declares that it lacks %q", f)
		}
	}
	return nil
}
