package cnisuite

import (
	"context"
	"errors"
	"sync"
	"testing"
)

// TestFoundOnce holds that rules which ask at the same time have an experiment
// carried out once for each target, and that a failure of the suite is no outcome.
func TestFoundOnce(t *testing.T) {
	known := &experiments{}
	of := func(binary string) *lab { return &lab{target: &Target{Binary: binary, known: known}} }
	runs := 0
	carryOut := func(context.Context, *lab) (int, error) {
		runs++
		if runs == 1 {
			return 0, errors.New("no namespace could be made")
		}
		return runs, nil
	}
	if _, err := found(t.Context(), of("one"), "x", carryOut); err == nil {
		t.Error("the experiment's error got lost")
	}
	var rules sync.WaitGroup
	for range 20 {
		rules.Go(func() {
			if got, err := found(t.Context(), of("one"), "x", carryOut); got != 2 || err != nil {
				t.Errorf("outcome %d, %v, not that of the second try", got, err)
			}
		})
	}
	rules.Wait()
	if got, err := found(t.Context(), of("two"), "x", carryOut); got != 3 || err != nil {
		t.Errorf("outcome %d, %v: not one of its own for another target", got, err)
	}
	if got, err := found(t.Context(), of("two"), "y", carryOut); got != 4 || err != nil {
		t.Errorf("outcome %d, %v: not one of its own for another experiment", got, err)
	}
}

// TestFoundInTime holds that a rule whose time is over does not wait for the one that
// carries an experiment out.
func TestFoundInTime(t *testing.T) {
	l := &lab{target: &Target{known: &experiments{}}}
	begun, end := make(chan struct{}), make(chan struct{})
	var other sync.WaitGroup
	other.Go(func() {
		_, _ = found(t.Context(), l, "x", func(context.Context, *lab) (int, error) {
			close(begun)
			<-end
			return 0, nil
		})
	})
	<-begun
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := found(over, l, "x", func(context.Context, *lab) (int, error) { return 0, nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, not that the time is over", err)
	}
	close(end)
	other.Wait()
}
