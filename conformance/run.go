package conformance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"time"

	"golang.org/x/sync/errgroup"
)

// Options of a run. Nil means the defaults, which are the zero values.
type Options struct {
	// Tier is the last tier to run. The zero value is Quick.
	Tier Tier
	// Only names the rules to run: by id, whatever their tier, or by pattern
	// ("CNI-DEL-*", as in path.Match), up to Tier. Empty means every rule up to Tier.
	Only []string
	// Seed makes the choices of every check repeatable. 0 means a new seed, which the
	// report names.
	Seed uint64
	// Profile is what the plugin's author declares. Nil means nothing.
	Profile *Profile
	// Strict makes a failed Should rule fail the report too.
	Strict bool
	// Parallel is how many rules run at a time if the suite and the target allow
	// several. 0 means the number of processors, or a multiple of that: see
	// Suite.PerProcessor.
	Parallel int
	// Progress receives one line per rule, in the suite's order, as soon as its
	// result is known. Nil means none.
	Progress io.Writer
	// Timeout bounds one rule. 0 means 30 s for a quick rule, 2 minutes for
	// a crash rule and 30 minutes for a soak rule.
	Timeout time.Duration
	// Command is the command that started this run, up to --rule and --seed: "nodekit
	// conform cni ./my-plugin". Failures print it for repeating them. Empty means
	// "nodekit conform SUITE TARGET".
	Command string
	// Logger receives what checks log. Nil discards it.
	Logger *slog.Logger
}

// stopGrace is how long a check may take to clean up after its context ended.
const stopGrace = 20 * time.Second

// Run runs the suite's rules and reports on them: one after the other, or several at
// a time if Suite.Concurrent allows it, those with Alone set last. A rule that fails
// is part of the report, not an error: see Report.Failed.
//
// The error is for a run that could not start (an unknown rule, an invalid profile,
// an error of Suite.Prepare or Suite.Open) and for one that was cut short, because
// ctx ended or because a check did not stop at its timeout and so may still be
// running. The report then has the results so far; it is nil only if the run did not
// start.
func (s *Suite[T]) Run(ctx context.Context, target T, opts *Options) (*Report, error) {
	r, rules, err := s.prepare(target, opts)
	if err != nil {
		return nil, err
	}
	if err := s.ready(ctx, target, rules); err != nil {
		return nil, err
	}
	end, err := r.open(ctx, s, rules)
	if err != nil {
		return nil, err
	}
	defer end()
	start := time.Now()
	q := &queue{results: make([]*Result, len(rules)), show: r.progress}
	width := s.width(target, &r.opts)
	beside, alone := split(rules, width)
	err = r.all(ctx, rules, beside, width, q)
	if err == nil {
		err = r.all(ctx, rules, alone, 1, q)
	}
	r.report.Results, r.report.took, r.report.cut = q.made(), time.Since(start), err != nil
	r.samples.measured(r.report)
	return r.report, err
}

func (s *Suite[T]) ready(ctx context.Context, target T, rules []*Rule[T]) error {
	if s.Prepare == nil || len(rules) == 0 {
		return nil
	}
	if err := s.Prepare(ctx, target); err != nil {
		return fmt.Errorf("suite %q cannot start: %w", s.Name, err)
	}
	return nil
}

// open sets up what the checks share; end removes it.
func (r *runner[T]) open(ctx context.Context, s *Suite[T], rules []*Rule[T]) (end func(), err error) {
	if s.Open == nil || len(rules) == 0 {
		return func() {}, nil
	}
	r.target, end, err = s.Open(ctx, r.target)
	if err != nil {
		return nil, fmt.Errorf("suite %q cannot start: %w", s.Name, err)
	}
	return end, nil
}

// width returns how many checks run at a time.
func (s *Suite[T]) width(target T, o *Options) int {
	switch {
	case s.Concurrent == nil || !s.Concurrent(target):
		return 1
	case o.Parallel > 0:
		return o.Parallel
	}
	return runtime.GOMAXPROCS(0) * max(s.PerProcessor, 1)
}

// split returns the indexes of the rules that may run at the same time, and of those
// that must run alone. With a width of one, all keep the suite's order.
func split[T any](rules []*Rule[T], width int) (beside, alone []int) {
	for i, rule := range rules {
		if rule.Alone && width > 1 {
			alone = append(alone, i)
		} else {
			beside = append(beside, i)
		}
	}
	return beside, alone
}

// all runs the rules at the indexes, width at a time, until one cuts the run short.
func (r *runner[T]) all(ctx context.Context, rules []*Rule[T], places []int, width int, q *queue) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(width)
	for _, i := range places {
		g.Go(func() error {
			result, err := r.run(ctx, rules[i])
			q.put(i, result)
			return err
		})
	}
	return g.Wait()
}

// runner is one run of a suite. Its rules may run at the same time; one goroutine
// completes the report.
type runner[T any] struct {
	target  T
	opts    Options
	report  *Report
	samples samples
	told    map[string]string // the rule that first reported a cause, for the progress
}

func (s *Suite[T]) prepare(target T, opts *Options) (*runner[T], []*Rule[T], error) {
	r := &runner[T]{target: target, told: map[string]string{}}
	if opts != nil {
		r.opts = *opts
	}
	if r.opts.Logger == nil {
		r.opts.Logger = slog.New(slog.DiscardHandler)
	}
	if r.opts.Seed == 0 {
		r.opts.Seed = uint64(rand.Uint32()) + 1 // short enough to type, and exact in every JSON reader
	}
	if r.opts.Command == "" {
		r.opts.Command = fmt.Sprintf("nodekit conform %s TARGET", s.Name)
	}
	if err := s.Validate(); err != nil {
		return nil, nil, err
	}
	if err := s.CheckProfile(r.opts.Profile); err != nil {
		return nil, nil, err
	}
	rules, err := s.selected(r.opts.Tier, r.opts.Only)
	if err != nil {
		return nil, nil, err
	}
	r.report = &Report{
		Schema: Schema, Suite: s.Name, Version: s.Version,
		Tier: r.opts.Tier.String(), Seed: r.opts.Seed, Command: r.opts.Command,
		Started: time.Now().UTC().Truncate(time.Millisecond), Results: []Result{},
	}
	return r, rules, nil
}

// run runs one rule. The result is nil if the run was cut short during the rule.
func (r *runner[T]) run(ctx context.Context, rule *Rule[T]) (*Result, error) {
	result := &Result{ID: rule.ID, Level: rule.Level, Title: rule.Title, Spec: rule.Spec.String(), strict: r.opts.Strict}
	if reason, waived := r.opts.Profile.waiver(rule.ID); waived {
		result.Status, result.Message = Waived, reason
		return result, nil
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("run of suite %q cut short before %s: %w", r.report.Suite, rule.ID, err)
	}
	limit := r.limit(rule.Tier)
	ruleCtx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	start := time.Now()
	seen, stopped := r.check(ruleCtx, rule)
	result.Seconds = time.Since(start).Seconds()
	if !stopped {
		result.Status = Fail
		result.Message = fmt.Sprintf("the check did not stop %s after its timeout of %s", stopGrace, limit)
		return result, fmt.Errorf("run of suite %q cut short in %s: the check does not stop", r.report.Suite, rule.ID)
	}
	if err := ctx.Err(); err != nil && seen != nil {
		return nil, fmt.Errorf("run of suite %q cut short in %s: %w", r.report.Suite, rule.ID, err)
	}
	result.judge(seen, errors.Is(ruleCtx.Err(), context.DeadlineExceeded), limit)
	return result, nil
}

func (r *runner[T]) limit(tier Tier) time.Duration {
	switch {
	case r.opts.Timeout > 0:
		return r.opts.Timeout
	case tier == Quick:
		return 30 * time.Second
	case tier == Crash:
		return 2 * time.Minute
	}
	return 30 * time.Minute
}

// progress prints the line of a result. A broken terminal does not end the run.
func (r *runner[T]) progress(result Result) {
	if r.opts.Progress != nil {
		cause := result.cause()
		if first := r.told[cause]; first != "" {
			result.Message = "the same as " + first
		} else if cause != "" {
			r.told[cause] = result.ID
		}
		_, _ = fmt.Fprintln(r.opts.Progress, result.line())
	}
}
