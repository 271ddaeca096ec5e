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

// Endpoint, Manifests and State are placeholders in commands for what the suite gives
// the kubelet; see Place.
const (
	Endpoint  = "$(CONTAINER_RUNTIME_ENDPOINT)"
	Manifests = "$(MANIFEST_DIRECTORY)"
	State     = "$(STATE_DIRECTORY)"
)

// Target is the kubelet under test.
type Target struct {
	// Start starts a kubelet at a place of its own. Command.Start is one for a command
	// line. Required.
	Start func(ctx context.Context, p Place) (*Kubelet, error)
	// Lacks are the features that the kubelet does not have, or not for Pods from a
	// manifest directory.
	Lacks []Feature
	// Device is an extended resource of which the kubelet has one, from a device plugin
	// that runs beside it. If empty, rules about devices do not apply.
	Device string
	// Patience is how long the kubelet may take for one step; the suite watches for an
	// eighth of it for what the kubelet must not do. Zero means 20 s, which is enough for
	// a kubelet that looks for changes once a second.
	Patience time.Duration

	house *house // of the run; set by Open
}

// Place is where a kubelet runs.
type Place struct {
	Endpoint  string // of the runtime, "unix:///..."
	Manifests string // a directory of Pod manifests, the kubelet's staticPodPath
	State     string // an empty directory for everything that the kubelet keeps
}

// Kubelet is a started kubelet.
type Kubelet struct {
	// Kill ends the kubelet as SIGKILL does; Revive starts it again at the same place.
	// Nil if it cannot be killed: rules that kill it do not apply then.
	Kill   func() error
	Revive func(ctx context.Context) error
	// Close ends the kubelet and removes what it left on the machine. The runtime
	// keeps running meanwhile.
	Close func(ctx context.Context) error
	// Said returns the end of what the kubelet printed. May be nil.
	Said func() string
}

// Feature is a part of a kubelet that may be missing if the kubelet's author says so.
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

// features returns all features.
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
	// calmShare divides the patience into the time in which something must not happen.
	calmShare = 8
)

func (t *Target) patience() time.Duration {
	if t.Patience > 0 {
		return t.Patience
	}
	return defaultPatience
}

// calm returns how long the suite watches for what must not happen.
func (t *Target) calm() time.Duration { return t.patience() / calmShare }

// Declare applies what a profile says to the target, except for the kubelet's start:
// see CommandOf. A nil profile says nothing.
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

// missing returns NotApplicable for the first needed feature that the target lacks.
func (t *Target) missing(needs []Feature) error {
	for _, f := range needs {
		if slices.Contains(t.Lacks, f) {
			return conformance.NotApplicable("the kubelet's author declares that it lacks %q", f)
		}
	}
	return nil
}
