package bench

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"
)

// Table is the durations of the sides.
type Table struct{ Rows []Row }

// Row is the distribution of a side's total, or of one of its steps.
type Row struct {
	Side string
	Step string // empty for the total
	N    int    // samples
	Min  time.Duration
	P50  time.Duration
	P90  time.Duration
	Max  time.Duration
	// Ratio is the P50 divided by that of the first side's row of the same step; 0 if
	// it has none.
	Ratio float64
}

// Row returns the row of a side's total (step "") or step, or nil.
func (t *Table) Row(side, step string) *Row {
	for i := range t.Rows {
		if t.Rows[i].Side == side && t.Rows[i].Step == step {
			return &t.Rows[i]
		}
	}
	return nil
}

// Write writes the table for people: the steps below their total.
func (t *Table) Write(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tw, "side\tn\tmin\tp50\tp90\tmax\tratio\t")
	for _, r := range t.Rows {
		name := r.Side
		if r.Step != "" {
			name = "· " + r.Step
		}
		ratio := ""
		if r.Ratio > 0 {
			ratio = fmt.Sprintf("%.2f", r.Ratio)
		}
		fmt.Fprintf(tw, "%s\t%d\t%s\t%s\t%s\t%s\t%s\t\n", name, r.N, format(r.Min), format(r.P50), format(r.P90), format(r.Max), ratio)
	}
	return tw.Flush()
}

func newTable(sides []Side, samples [][]Sample) *Table {
	t := &Table{}
	for i, side := range sides {
		names, steps := split(samples[i])
		for _, step := range names {
			row := newRow(side.Name, step, steps[step])
			if first := t.Row(sides[0].Name, step); first != nil && i > 0 && first.P50 > 0 {
				row.Ratio = float64(row.P50) / float64(first.P50)
			}
			t.Rows = append(t.Rows, row)
		}
	}
	return t
}

// split returns the durations by step, the total under "", and the names in
// the order in which they were first seen.
func split(samples []Sample) (names []string, steps map[string][]time.Duration) {
	names, steps = []string{""}, make(map[string][]time.Duration)
	for _, s := range samples {
		steps[""] = append(steps[""], s.Total)
		sum := make(map[string]time.Duration)
		for _, step := range s.Steps {
			sum[step.Name] += step.Took
			if !slices.Contains(names, step.Name) {
				names = append(names, step.Name)
			}
		}
		for name, took := range sum {
			steps[name] = append(steps[name], took)
		}
	}
	return names, steps
}

func newRow(side, step string, took []time.Duration) Row {
	slices.Sort(took)
	return Row{
		Side: side, Step: step, N: len(took),
		Min: Quantile(took, 0), P50: Quantile(took, 50), P90: Quantile(took, 90), Max: Quantile(took, 100),
	}
}

// Quantile returns the smallest value that at least percent of the sorted values do
// not exceed (nearest rank); 0 if there are none.
func Quantile(sorted []time.Duration, percent int) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	rank := (len(sorted)*percent + 99) / 100
	return sorted[max(rank, 1)-1]
}

// format shows three digits: more is noise.
func format(d time.Duration) string {
	switch {
	case d >= 100*time.Millisecond:
		return d.Round(time.Millisecond).String()
	case d >= time.Millisecond:
		return d.Round(10 * time.Microsecond).String()
	}
	return d.Round(time.Microsecond).String()
}
