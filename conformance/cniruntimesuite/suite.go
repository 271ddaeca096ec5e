// Package cniruntimesuite checks a container runtime against the runtime's side of the
// CNI specification 1.1.0. It gives the runtime a network of plugins that record
// every call (when, with which environment and stdin, in which network namespace)
// and fail, wait or answer with a code on demand; it drives the runtime through a
// small interface and then reads what the plugins saw. It looks at nothing else of
// the runtime.
//
// The interface is a Target: a function that starts a runtime on given directories and
// returns its verbs as functions. Commands makes one from command lines, for any
// runtime with a client. A rule about a verb that the runtime does not have is
// not applicable.
//
// The plugins are this program itself, called as Recorder specifies: a test binary
// calls Main first in its TestMain.
//
// Positions where the specification's text is not clear: whether DEL of a chain
// halts at an error (section 3) or continues is the runtime's choice, because plugins
// must do their best (section 2). A DEL may come without CNI_NETNS once the
// namespace is gone, and a repeated DEL may come without anything that the runtime
// remembered. Arguments and fields have no order, and a number may be written
// differently as long as its value is the same. A runtime may or may not read plugins
// from the directory with the network's name; only loadOnlyInlinedPlugins forbids it.
//
// The suite needs Linux, root and /bin/sh.
package cniruntimesuite

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/nodekit-project/nodekit/conformance"
)

// Target is the runtime under test.
type Target struct {
	// Open starts a runtime that finds network configurations in d.Conf and plugins
	// in d.Bin and keeps everything else below d.State. It is called anew for each
	// rule, after the configuration was written, and in the host's network namespace.
	// Required.
	Open func(ctx context.Context, d Dirs) (*Runtime, error)
	// OwnNetNS says that the runtime creates the containers' network namespaces and
	// chooses their ids, as one behind the CRI does. Otherwise the suite does.
	OwnNetNS bool
	// Ports says that Add passes Container.Ports on as the capability portMappings.
	Ports bool
	// Recorder is the command that runs Main with the arguments appended to it. Empty
	// means this executable.
	Recorder []string
}

// Dirs are where a runtime finds and keeps its files. Each rule has its own.
type Dirs struct{ Conf, Bin, State string }

// Runtime is a started runtime. A nil function is a verb that it does not have; Add
// and Del are required. Some rules call the functions concurrently. They return what
// the runtime reports.
type Runtime struct {
	Add func(ctx context.Context, c Container) error
	// Del disconnects the container, including one whose Add failed. A runtime that
	// creates namespaces itself removes the whole container.
	Del   func(ctx context.Context, c Container) error
	Check func(ctx context.Context, c Container) error
	// GC gets every container that is to be kept.
	GC     func(ctx context.Context, valid []Container) error
	Status func(ctx context.Context) error
	// Restart ends the runtime as SIGKILL does and starts it again on the same
	// directories.
	Restart func(ctx context.Context) error
	// Close ends the runtime and removes what it created. May be nil.
	Close func(ctx context.Context) error
}

// Container is one interface of one container, as the suite requests it. A runtime
// with OwnNetNS uses ID as a name and may ignore the rest.
type Container struct {
	ID, IfName string
	NetNS      string // "" with OwnNetNS
	Ports      []Port
}

// Port is an entry of the capability portMappings.
type Port struct {
	HostPort      int    `json:"hostPort"`
	ContainerPort int    `json:"containerPort"`
	Protocol      string `json:"protocol"`
}

// CapabilityArgs returns the container's capability arguments as JSON.
func (c Container) CapabilityArgs() string {
	if len(c.Ports) == 0 {
		return "{}"
	}
	raw, err := json.Marshal(map[string]any{"portMappings": c.Ports})
	if err != nil { // impossible: it has only numbers and strings
		panic(err)
	}
	return string(raw)
}

// Suite returns the suite's rules.
func Suite() *conformance.Suite[Target] {
	s := &conformance.Suite[Target]{Name: "cni-runtime", Version: "3"}
	for _, rules := range [][]conformance.Rule[Target]{lifeRules(), orderRules(), resultRules(), requestRules(), configRules(), gcRules()} {
		s.Rules = append(s.Rules, rules...)
	}
	return s
}

// Test runs the suite on the runtime inside go test, one subtest for each rule.
// It includes the rules that kill the runtime.
func Test(t *testing.T, target Target) {
	t.Helper()
	Suite().Test(t, target, &conformance.Options{Tier: conformance.Crash})
}

// rule returns a MUST rule from the specification's current version.
func rule(id, title, section, sentence string, check func(context.Context, *lab) error) conformance.Rule[Target] {
	return conformance.Rule[Target]{
		ID: id, Level: conformance.Must, Title: title, Check: inLab(check),
		Spec: conformance.Spec{Document: "CNI", Version: "1.1.0", Section: section, Sentence: sentence},
	}
}

// at gives a rule another level.
func at(level conformance.Level, r conformance.Rule[Target]) conformance.Rule[Target] {
	r.Level = level
	return r
}
