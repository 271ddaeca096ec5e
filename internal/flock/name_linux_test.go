package flock_test

import (
	"context"
	"errors"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nodekit-project/nodekit/internal/flock"
)

// TestNames has many take the lock of a name and looks whether two ever had it, and
// whether other names and the file itself stay free meanwhile.
func TestNames(t *testing.T) {
	path := filepath.Join(t.TempDir(), "locks")
	var inside atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				l, err := flock.AcquireName(t.Context(), path, "mine")
				if err != nil {
					t.Error(err)
					return
				}
				if inside.Add(1) != 1 {
					t.Error("two have the lock")
				}
				if other, err := flock.TryAcquireName(path, "mine"); other != nil || err != nil {
					t.Errorf("a held lock was given: %v", err)
				}
				inside.Add(-1)
				l.Release()
			}
		})
	}
	wg.Wait()
	held, err := flock.TryAcquireName(path, "mine")
	if held == nil || err != nil {
		t.Fatalf("a free lock is not given: %v", err)
	}
	defer held.Release()
	other, err := flock.TryAcquireName(path, "yours")
	if other == nil || err != nil {
		t.Errorf("the lock of another name is not given: %v", err)
	}
	other.Release()
	take(t, path, flock.Exclusive).Release()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := flock.AcquireName(ctx, path, "mine"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("waiting for a held lock: %v", err)
	}
}
