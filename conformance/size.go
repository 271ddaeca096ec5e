package conformance

import (
	"fmt"
	"io"
)

// Size is how much of something the target uses. Like a Latency it is for people.
type Size struct {
	What  string `json:"what"` // "memory of a Pod"
	Bytes int64  `json:"bytes"`
}

// MeasureBytes adds a size to the report. It may be called concurrently.
func (in *Input[T]) MeasureBytes(what string, bytes int64) { in.samples.addSize(Size{what, bytes}) }

func (s *samples) addSize(size Size) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sizes = append(s.sizes, size)
}

// measured puts what checks measured into the report, after the last check.
func (s *samples) measured(r *Report) {
	r.Latencies = s.latencies()
	s.mu.Lock()
	defer s.mu.Unlock()
	r.Sizes = s.sizes
}

// writeSizes writes a line for each.
func (r *Report) writeSizes(w io.Writer) {
	for _, s := range r.Sizes {
		fmt.Fprintf(w, "%s: %s\n", s.What, s)
	}
	if len(r.Sizes) > 0 {
		fmt.Fprintln(w)
	}
}

// String returns the size as reports show it: "12.3 KiB".
func (s Size) String() string { return fmt.Sprintf("%.1f KiB", float64(s.Bytes)/1024) }
