package conformance

import (
	"fmt"
	"io"
	"slices"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/nodekit-project/nodekit/internal/bench"
)

// Latency is how long something of the target took: a command, a call. It is for
// people: no verdict depends on it, because a busy machine is slow too.
type Latency struct {
	What  string `json:"what"` // "ADD"
	Count int    `json:"count"`
	// In seconds: the shortest, the ones that half and nine in ten did not exceed,
	// and the longest.
	Min float64 `json:"min"`
	P50 float64 `json:"p50"`
	P90 float64 `json:"p90"`
	Max float64 `json:"max"`
}

// Measure adds a sample of how long something took to the report's latencies. A check
// measures only what ran alone, see Rule.Alone. It may be called concurrently.
func (in *Input[T]) Measure(what string, took time.Duration) { in.samples.add(what, took) }

// samples are the measurements of a run. A nil *samples ignores them.
type samples struct {
	mu    sync.Mutex
	names []string // in the order of their first samples
	took  map[string][]time.Duration
	sizes []Size
}

func (s *samples) add(what string, took time.Duration) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.took == nil {
		s.took = map[string][]time.Duration{}
	}
	if s.took[what] == nil {
		s.names = append(s.names, what)
	}
	s.took[what] = append(s.took[what], took)
}

func (s *samples) latencies() (out []Latency) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range s.names {
		took := slices.Sorted(slices.Values(s.took[name]))
		at := func(percent int) float64 { return bench.Quantile(took, percent).Seconds() }
		out = append(out, Latency{What: name, Count: len(took), Min: at(0), P50: at(50), P90: at(90), Max: at(100)})
	}
	return out
}

// writeLatencies writes a table for people.
func (r *Report) writeLatencies(w io.Writer) error {
	if len(r.Latencies) == 0 {
		return nil
	}
	const columnGap = 2
	out := tabwriter.NewWriter(w, 0, 0, columnGap, ' ', tabwriter.AlignRight)
	fmt.Fprintln(out, "took\tn\tmin\tp50\tp90\tmax\t")
	for _, l := range r.Latencies {
		fmt.Fprintf(out, "%s\t%d\t%s\t%s\t%s\t%s\t\n", l.What, l.Count, l.Milliseconds(l.Min), l.Milliseconds(l.P50), l.Milliseconds(l.P90), l.Milliseconds(l.Max))
	}
	if err := out.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintln(w)
	return err
}

// Milliseconds returns seconds as reports show them: "12.3 ms".
func (Latency) Milliseconds(seconds float64) string { return fmt.Sprintf("%.1f ms", seconds*1e3) }
