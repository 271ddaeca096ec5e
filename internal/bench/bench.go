// Package bench compares sides that do the same job. The sides take turns, in
// rotating order, so that what changes on the machine in the meantime (a hot cache, a
// busy neighbour) affects them equally. It compares min, p50, p90 and max: a mean
// hides the tail that users feel.
//
// It is for work of milliseconds and more, with set-up and tear-down between the
// samples; for functions of nanoseconds use testing.B.
package bench

import (
	"context"
	"fmt"
	"io"
	"time"
)

// Side is one of the compared things.
type Side struct {
	Name string
	// Run does the job once and returns how long it took. What it does before and
	// after the timed part does not count. An error ends the benchmark.
	Run func(ctx context.Context) (Sample, error)
}

// Sample is the duration of one run.
type Sample struct {
	Total time.Duration
	// Steps are the parts of the total, as far as the side knows them. If a name
	// occurs twice, its durations are added.
	Steps []Step
}

// Step is a named part of a run.
type Step struct {
	Name string
	Took time.Duration
}

// Timed runs f and returns how long it took.
func Timed(f func() error) (Sample, error) {
	start := time.Now()
	err := f()
	return Sample{Total: time.Since(start)}, err
}

// Options of a benchmark. Nil means the defaults.
type Options struct {
	// Rounds is how often each side runs. 0 means 20.
	Rounds int
	// WarmUp is how often each side runs before that, uncounted. 0 means 2, a
	// negative number none.
	WarmUp int
	// Progress receives a line for each round. Nil means none.
	Progress io.Writer
}

// Run runs the sides in turn and returns the table of their durations. The others are
// compared with the first side.
func Run(ctx context.Context, sides []Side, opts *Options) (*Table, error) {
	var o Options
	if opts != nil {
		o = *opts
	}
	if o.Rounds == 0 {
		o.Rounds = 20
	}
	if o.WarmUp == 0 {
		o.WarmUp = 2
	}
	o.WarmUp = max(o.WarmUp, 0)
	if o.Progress == nil {
		o.Progress = io.Discard
	}
	samples := make([][]Sample, len(sides))
	for round := -o.WarmUp; round < o.Rounds; round++ {
		line := fmt.Sprintf("round %d of %d:", round+1, o.Rounds)
		if round < 0 {
			line = "warm-up:"
		}
		for turn := range sides {
			i := (turn + round + o.WarmUp) % len(sides)
			if err := ctx.Err(); err != nil {
				return nil, fmt.Errorf("benchmark cut short: %w", err)
			}
			sample, err := sides[i].Run(ctx)
			if err != nil {
				return nil, fmt.Errorf("running %q: %w", sides[i].Name, err)
			}
			line += fmt.Sprintf("  %s %s", sides[i].Name, format(sample.Total))
			if round >= 0 {
				samples[i] = append(samples[i], sample)
			}
		}
		if _, err := fmt.Fprintln(o.Progress, line); err != nil {
			return nil, err
		}
	}
	return newTable(sides, samples), nil
}
