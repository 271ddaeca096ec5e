// Package conformance is the core that all suites share: what a rule is, how a
// suite of them runs against a plugin, and what its report looks like.
//
// A suite (conformance/cnisuite and its siblings) is a table of rules for one kind of
// target. Each rule checks the target against one sentence of a published
// specification and looks only at the wire and the kernel, never at how a plugin is
// implemented. `nodekit conform` and a plugin's own `go test` run the same table.
//
// Every rule is proven: for each there is a mutant, a plugin with one fault, that the
// rule must catch (see Mutant). Rule ids are stable and never reused.
package conformance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
)

// Level is how binding the specification makes a rule's sentence.
type Level string

// The levels, in the sense of RFC 2119. A failed Advisory or Should rule is reported
// but does not make a report fail; see Options.Strict.
const (
	Must     Level = "MUST"
	Should   Level = "SHOULD"
	Advisory Level = "ADVISORY"
)

// Tier says how long a rule may take, and therefore when it runs. Quick rules
// together take seconds; crash rules kill the plugin; soak rules run for minutes. A
// run of one tier includes the tiers before it.
type Tier int

// The tiers.
const (
	Quick Tier = iota
	Crash
	Soak
)

// Spec is the place in a specification that a rule comes from.
type Spec struct {
	Document string // "CNI", "CSI", "CRI", "device plugin API", ...
	Version  string // the version of the document that the sentence is quoted from
	Section  string // the document's own heading or method name
	Sentence string // the duty, in the specification's words, at most shortened
}

// String returns "CNI 1.1.0, DEL: ...".
func (s Spec) String() string {
	return fmt.Sprintf("%s %s, %s: %s", s.Document, s.Version, s.Section, s.Sentence)
}

// Rule is one requirement, checked on a target of type T.
type Rule[T any] struct {
	// ID is stable across releases and never reused: "CNI-DEL-001".
	ID    string
	Level Level
	Tier  Tier
	// Title says in a few words what a conforming plugin does.
	Title string
	Spec  Spec
	// Check returns nil if the target conforms, an error that says what was seen (and
	// what was expected) if it does not, and NotApplicable if the target does not
	// claim what the rule is about. A check must leave the machine as it found it,
	// even if it fails, and must stop when ctx ends.
	Check func(ctx context.Context, in *Input[T]) error
	// Alone is for a check that measures time or loads the machine: no other check
	// runs at the same time.
	Alone bool
}

// Input is what a check gets. It is created anew for every run of a rule.
type Input[T any] struct {
	Target T
	// Profile is what the target's author declares, or nil. Its methods accept nil.
	Profile *Profile
	// Rand is seeded only from the run's seed and the rule's id, so that `--rule ID
	// --seed N` repeats exactly this rule's choices.
	Rand *rand.Rand
	// Log goes to the user with --verbose. It is never nil.
	Log *slog.Logger
	// TempDir is an empty directory that is removed after the check.
	TempDir string

	samples *samples // nil: Measure ignores its samples
}

// Suite is a table of rules for one interface.
type Suite[T any] struct {
	Name    string // "cni", "csi", "deviceplugin", "cri", "pod"
	Version string // the suite's own version, which changes with its rules
	Rules   []Rule[T]
	// Prepare, if set, is called once before a run with at least one rule. Its error
	// is why the run cannot start: what the machine lacks, or what is wrong with what
	// the author declares. It is not a verdict on the target.
	Prepare func(ctx context.Context, target T) error
	// Open, if set, is called once after Prepare. The checks of the run get the
	// target that it returns, which has what they share; close is called after the
	// last of them. Its error is why the run cannot start.
	Open func(ctx context.Context, target T) (opened T, close func(), err error)
	// Concurrent reports whether checks of the target can run at the same time,
	// because each sets up an environment of its own. Nil means never.
	Concurrent func(target T) bool
	// PerProcessor is how many checks run at a time per processor: more than one if a
	// check mostly waits for the kernel. 0 means 1.
	PerProcessor int
	// Facts are the names that a profile may declare for this suite, with their
	// meanings. A profile that declares another is refused.
	Facts map[string]string
}

// NotApplicable returns the error by which a check says that the target does not
// claim what the rule is about; the result is "na" with the reason.
func NotApplicable(format string, args ...any) error {
	return &notApplicable{fmt.Sprintf(format, args...)}
}

type notApplicable struct{ reason string }

func (n *notApplicable) Error() string { return n.reason }

// naReason returns the reason of a NotApplicable error in err's chain: the first, if
// several are joined. If it is joined with another error, such as one of a check's
// clean-up, that error is not hidden.
func naReason(err error) (string, bool) {
	for err != nil {
		switch e := err.(type) { //nolint:errorlint // each link of the chain is looked at
		case *notApplicable:
			return e.reason, true
		case interface{ Unwrap() []error }:
			return naReasons(e.Unwrap())
		default:
			err = errors.Unwrap(err)
		}
	}
	return "", false
}

func naReasons(errs []error) (first string, na bool) {
	for _, err := range errs {
		reason, ok := naReason(err)
		if !ok {
			return "", false
		}
		if first == "" {
			first = reason
		}
	}
	return first, len(errs) > 0
}
