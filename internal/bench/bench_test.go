package bench_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nodekit-project/nodekit/internal/bench"
)

// counting returns a side that takes base, then base+1 ms, and so on, and
// writes its name to order.
func counting(name string, base time.Duration, order *strings.Builder) bench.Side {
	calls := 0
	return bench.Side{Name: name, Run: func(context.Context) (bench.Sample, error) {
		order.WriteString(name)
		took := base + time.Duration(calls)*time.Millisecond
		calls++
		return bench.Sample{Total: took, Steps: []bench.Step{{"half", took / 4}, {"half", took / 4}}}, nil
	}}
}

func TestRunAlternates(t *testing.T) {
	var order strings.Builder
	a, b := counting("a", 10*time.Millisecond, &order), counting("b", 20*time.Millisecond, &order)
	table, err := bench.Run(t.Context(), []bench.Side{a, b}, &bench.Options{Rounds: 10, WarmUp: 1})
	if err != nil {
		t.Fatal(err)
	}
	if want := strings.Repeat("abba", 5) + "ab"; order.String() != want {
		t.Errorf("order %s, want %s", order.String(), want)
	}
	ms := time.Millisecond
	want := &bench.Row{Side: "b", N: 10, Min: 21 * ms, P50: 25 * ms, P90: 29 * ms, Max: 30 * ms, Ratio: 25.0 / 15.0}
	if diff := cmp.Diff(want, table.Row("b", "")); diff != "" {
		t.Error(diff)
	}
	if half := table.Row("a", "half"); half.Max != 10*ms {
		t.Errorf("steps of one name are not added up: %+v", half)
	}
}

func TestWrite(t *testing.T) {
	var order, out strings.Builder
	table, err := bench.Run(t.Context(), []bench.Side{counting("ours", 1500*time.Microsecond, &order), counting("theirs", time.Second, &order)},
		&bench.Options{Rounds: 1, WarmUp: -1})
	if err != nil {
		t.Fatal(err)
	}
	if err := table.Write(&out); err != nil {
		t.Fatal(err)
	}
	want := `
    side  n    min    p50    p90    max   ratio
    ours  1  1.5ms  1.5ms  1.5ms  1.5ms
  · half  1  750µs  750µs  750µs  750µs
  theirs  1     1s     1s     1s     1s  666.67
  · half  1  500ms  500ms  500ms  500ms  666.67
`
	got := "\n"
	for line := range strings.Lines(out.String()) {
		got += strings.TrimRight(line, " \n") + "\n"
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestTimed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sample, err := bench.Timed(func() error { time.Sleep(time.Second); return nil })
		if sample.Total != time.Second || err != nil {
			t.Errorf("%v, %v", sample, err)
		}
	})
}

func TestRunEnds(t *testing.T) {
	broken := errors.New("broken")
	sides := []bench.Side{{Name: "x", Run: func(context.Context) (bench.Sample, error) { return bench.Sample{}, broken }}}
	if _, err := bench.Run(t.Context(), sides, nil); !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := bench.Run(ctx, sides, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}
