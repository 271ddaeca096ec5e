package conformance

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"
)

// Test runs the suite inside go test, one subtest per rule. A failed Must rule fails
// its subtest, and with Options.Strict so does a failed Should rule; any other result
// that is not a pass is logged by the subtest. opts may be nil; its Progress is not
// used.
//
// Where Suite.Concurrent allows it, rules run in parallel as in Run, as subtests of
// "beside", and then those of "alone": go test -run 'TestX//ID' runs one of either.
//
// The context of the checks ends shortly before the test's deadline, so that
// checks clean up before go test kills the process.
func (s *Suite[T]) Test(t *testing.T, target T, opts *Options) {
	t.Helper()
	r, rules, err := s.prepare(target, opts)
	if err != nil {
		t.Fatal(err)
	}
	width := s.width(target, &r.opts)
	if opts == nil || opts.Command == "" {
		r.report.test = "^" + t.Name() + "$/"
		if width > 1 {
			r.report.test += "/"
		}
	}
	ctx, cancel := testContext(t)
	defer cancel()
	if err := s.ready(ctx, target, rules); err != nil {
		t.Fatal(err)
	}
	end, err := r.open(ctx, s, rules)
	if err != nil {
		t.Fatal(err)
	}
	defer end()
	q := &queue{results: make([]*Result, len(rules)), show: func(Result) {}}
	if beside, alone := split(rules, width); width > 1 {
		t.Run("beside", func(t *testing.T) { r.subtests(ctx, t, rules, beside, q, make(chan struct{}, width)) })
		t.Run("alone", func(t *testing.T) { r.subtests(ctx, t, rules, alone, q, nil) })
	} else {
		r.subtests(ctx, t, rules, beside, q, nil)
	}
	r.report.Results = q.made()
	r.samples.measured(r.report)
	t.Log(r.report.summary())
}

// subtests runs the rules at the indexes, one after the other or, with slots, as many
// at a time as there are slots.
func (r *runner[T]) subtests(ctx context.Context, t *testing.T, rules []*Rule[T], places []int, q *queue, slots chan struct{}) {
	for _, i := range places {
		t.Run(rules[i].ID, func(t *testing.T) {
			if slots != nil {
				t.Parallel()
				slots <- struct{}{}
				defer func() { <-slots }()
			}
			result, err := r.run(ctx, rules[i])
			q.put(i, result)
			if result != nil {
				r.log(t, result)
			}
			if err != nil {
				t.Fatal(err)
			}
		})
	}
}

func (r *runner[T]) log(t *testing.T, result *Result) {
	t.Helper()
	switch {
	case result.violation():
		t.Error("\n" + r.report.failure(result))
	case result.Status == Fail:
		t.Log("\n" + r.report.failure(result))
	case result.Status != Pass:
		t.Logf("%s: %s", result.word(), result.Message)
	}
}

func testContext(t *testing.T) (context.Context, context.CancelFunc) {
	const margin = 10 * time.Second
	if deadline, ok := t.Deadline(); ok {
		return context.WithDeadline(t.Context(), deadline.Add(-margin))
	}
	return context.WithCancel(t.Context())
}

// Mutant is a target with one fault. It proves that a rule can fail.
type Mutant[T any] struct {
	// Name says what is wrong with it: "forgets the second address".
	Name string
	// Rule is the id of the rule that must catch it.
	Rule string
	// Seen, if set, is a part of what the rule must have seen: proof that it failed
	// because of this fault and no other.
	Seen string
	// Target creates the faulty target. It may use t.Cleanup.
	Target func(t testing.TB) T
	// Parallel allows the mutant to run at the same time as others with Parallel:
	// nothing that its rule measures or looks at is shared with them.
	Parallel bool
}

// TestMutants proves a suite: it runs each mutant's rule on the mutant and fails
// unless the rule fails. It also fails for each rule, of any level, without a mutant,
// and for a mutant of a rule that does not exist. A check that panics has caught
// nothing.
func TestMutants[T any](t *testing.T, s *Suite[T], mutants []Mutant[T]) {
	t.Helper()
	proven := make(map[string]bool, len(mutants))
	for _, m := range mutants {
		if s.rule(m.Rule) == nil {
			t.Errorf("mutant %q: suite %q has no rule %q", m.Name, s.Name, m.Rule)
			continue
		}
		proven[m.Rule] = true
		t.Run(m.Rule+"/"+m.Name, func(t *testing.T) {
			if m.Parallel {
				t.Parallel()
			}
			if err := s.catches(t, m); err != "" {
				t.Error(err)
			}
		})
	}
	for _, id := range s.unproven(proven) {
		t.Errorf("rule %q has no mutant that it catches", id)
	}
}

// catches runs a mutant's rule and returns why it did not catch the mutant.
func (s *Suite[T]) catches(t *testing.T, m Mutant[T]) (problem string) {
	t.Helper()
	report, err := s.Run(t.Context(), m.Target(t), &Options{Only: []string{m.Rule}})
	if err != nil {
		return err.Error()
	}
	result := report.Result(m.Rule)
	if result.Status != Fail {
		return "the rule did not catch the mutant: " + result.line()
	}
	if result.broken {
		return "the check itself broke: " + result.Message
	}
	if !strings.Contains(result.Message, m.Seen) {
		return fmt.Sprintf("the rule failed, and not for the mutant's fault: it saw %q, want %q in it", result.Message, m.Seen)
	}
	t.Logf("caught: %s", result.Message)
	return ""
}

func (s *Suite[T]) unproven(proven map[string]bool) []string {
	var ids []string
	for i := range s.Rules {
		if !proven[s.Rules[i].ID] {
			ids = append(ids, s.Rules[i].ID)
		}
	}
	return ids
}
