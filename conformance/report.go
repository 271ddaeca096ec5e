package conformance

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
)

// Schema names the format of a report's JSON. JSONSchema returns the published JSON
// schema.
const Schema = "nodekit.conformance/v1"

// Status is the outcome of one rule.
type Status string

// The statuses. NA means that the target does not claim what the rule is about;
// Waived that its author declared, with a reason, that the rule does not apply.
const (
	Pass   Status = "pass"
	Fail   Status = "fail"
	Waived Status = "waived"
	NA     Status = "na"
)

// Result is the outcome of one rule.
type Result struct {
	ID     string `json:"id"`
	Level  Level  `json:"level"`
	Status Status `json:"status"`
	Title  string `json:"title"`
	// Spec is the place and the sentence in the specification.
	Spec string `json:"spec"`
	// Message is what was seen, for a failure, or the reason, for waived and na. It
	// is empty for a pass.
	Message string  `json:"message"`
	Seconds float64 `json:"seconds"`

	broken bool // the check itself broke: the failure proves nothing
	strict bool // see Options.Strict
}

// Report is the outcome of one run of a suite, in the suite's order. It is
// plain data: WriteText, WriteJSON, WriteJUnit and WriteHTML only read it.
type Report struct {
	Schema  string `json:"schema"`
	Suite   string `json:"suite"`
	Version string `json:"version"`
	Tier    string `json:"tier"`
	// Seed repeats the choices of every check: --seed.
	Seed uint64 `json:"seed"`
	// Command is how the run was started, without --rule and --seed.
	Command string    `json:"command"`
	Started time.Time `json:"started"`
	Results []Result  `json:"results"`
	// Latencies are what checks measured, in the order of the first samples.
	Latencies []Latency `json:"latencies,omitempty"`
	Sizes     []Size    `json:"sizes,omitempty"`

	took time.Duration // 0 if the rules ran one after the other
	cut  bool          // the run was cut short
	test string        // the prefix of a rule's id for go test -run, if a test made the report
}

// Failed reports whether a rule of level Must failed or, in a strict run, one of
// level Should. Other failures are reported but do not count here.
func (r *Report) Failed() bool {
	for i := range r.Results {
		if r.Results[i].violation() {
			return true
		}
	}
	return false
}

// Count returns how many results have a status.
func (r *Report) Count(status Status) int {
	n := 0
	for i := range r.Results {
		if r.Results[i].Status == status {
			n++
		}
	}
	return n
}

// Result returns the result of a rule, or nil if the rule was not run.
func (r *Report) Result(id string) *Result {
	for i := range r.Results {
		if r.Results[i].ID == id {
			return &r.Results[i]
		}
	}
	return nil
}

// Repeat returns the command line that runs one rule again with the same
// choices.
func (r *Report) Repeat(id string) string {
	if r.test != "" {
		return fmt.Sprintf("go test -run '%s^%s$' . # with conformance.Options.Seed %d", r.test, id, r.Seed)
	}
	return fmt.Sprintf("%s --rule %s --seed %d", r.Command, id, r.Seed)
}

// Seconds returns how long the run took.
func (r *Report) Seconds() float64 {
	if r.took > 0 {
		return r.took.Seconds()
	}
	var sum float64
	for i := range r.Results {
		sum += r.Results[i].Seconds
	}
	return sum
}

// judge sets status and message from what the check returned.
func (r *Result) judge(seen error, late bool, limit time.Duration) {
	if seen == nil {
		r.Status = Pass
		return
	}
	if reason, na := naReason(seen); na {
		r.Status, r.Message = NA, printable(reason)
		return
	}
	var p *panicked
	r.broken = errors.As(seen, &p)
	r.Status, r.Message = Fail, printable(seen.Error())
	if late {
		r.Message = fmt.Sprintf("not done after %s: %s", limit, r.Message)
	}
}

// violation reports whether the result makes the whole report fail.
func (r *Result) violation() bool {
	return r.Status == Fail && (r.Level == Must || r.strict && r.Level == Should)
}

// printable replaces control characters that a terminal would interpret: plugins
// print anything.
func printable(s string) string {
	return strings.Map(func(c rune) rune {
		if unicode.IsControl(c) && c != '\n' && c != '\t' {
			return '\uFFFD'
		}
		return c
	}, s)
}
