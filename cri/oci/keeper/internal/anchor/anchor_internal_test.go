package anchor

import (
	"testing"
	"time"
)

// A keeper that dies as soon as it serves is not replaced as fast as that goes, and
// one that had lived is at once.
func TestPauses(t *testing.T) {
	const ms = time.Millisecond
	before := time.Duration(0)
	for i, step := range []struct {
		served bool
		lived  time.Duration
		want   time.Duration
	}{
		{true, time.Hour, 0},
		{true, 2 * ms, 10 * ms},
		{true, 2 * ms, 20 * ms},
		{true, 2 * ms, 40 * ms},
		{true, 2 * ms, 50 * ms},
		{true, 999 * ms, 50 * ms},
		{false, time.Hour, 100 * ms},
		{false, 0, 200 * ms},
		{false, 0, 400 * ms},
		{false, 0, 800 * ms},
		{false, 0, 1600 * ms},
		{false, 0, 2000 * ms},
		{true, 2 * ms, 50 * ms},
		{true, time.Second, 0},
		{false, 0, 10 * ms},
	} {
		got := pauseAfter(step.served, step.lived, before)
		if got != step.want {
			t.Errorf("step %d: %v, want %v", i, got, step.want)
		}
		before = got
	}
}
