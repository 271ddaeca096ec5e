package procstat_test

import (
	"testing"

	"github.com/nodekit-project/nodekit/internal/procstat"
)

// TestParseCPU: the sums over all processors.
func TestParseCPU(t *testing.T) {
	got, err := procstat.ParseCPU("cpu  10 1 20 70 5 1 2 3 9 9\ncpu0 1 2 3\n")
	if want := (procstat.CPU{Busy: 37, Idle: 70, Wait: 5}); err != nil || got != want {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
	if got, err := procstat.ParseCPU("intr 1 2"); err == nil {
		t.Errorf("another line is read as %+v", got)
	}
}
