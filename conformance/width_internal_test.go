package conformance

import (
	"runtime"
	"testing"
)

func TestWidth(t *testing.T) {
	s := &Suite[bool]{Concurrent: func(apart bool) bool { return apart }}
	cpus := runtime.GOMAXPROCS(0)
	for _, c := range []struct{ perProcessor, parallel, want int }{{0, 0, cpus}, {2, 0, 2 * cpus}, {2, 5, 5}} {
		s.PerProcessor = c.perProcessor
		if got := s.width(true, &Options{Parallel: c.parallel}); got != c.want {
			t.Errorf("%+v: %d at a time", c, got)
		}
		if got := s.width(false, &Options{Parallel: c.parallel}); got != 1 {
			t.Errorf("%+v: %d at a time, of checks that meet", c, got)
		}
	}
}
