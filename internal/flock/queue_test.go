package flock_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/nodekit-project/nodekit/internal/flock"
)

// TestQueue: one at a time for each key, in order; whoever gives up is passed over,
// and other keys do not wait.
func TestQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var q flock.Queue
		leave, err := q.Enter(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		impatient, giveUp := context.WithCancel(t.Context())
		var order []int
		done := make(chan struct{})
		for i, ctx := range []context.Context{t.Context(), impatient, t.Context()} {
			go func() {
				defer func() { done <- struct{}{} }()
				leave, err := q.Enter(ctx, "a")
				if err != nil {
					if i != 1 || !errors.Is(err, context.Canceled) {
						t.Errorf("%d: %v", i, err)
					}
					return
				}
				order = append(order, i)
				leave()
			}()
			synctest.Wait()
		}
		other, err := q.Enter(t.Context(), "b")
		if err != nil {
			t.Fatal(err)
		}
		other()
		giveUp()
		<-done
		if len(order) > 0 {
			t.Errorf("%v came in beside another", order)
		}
		leave()
		<-done
		<-done
		if len(order) != 2 || order[0] != 0 || order[1] != 2 {
			t.Errorf("they came in the order %v", order)
		}
		again, err := q.Enter(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		again()
	})
}
