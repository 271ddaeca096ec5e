package flock_test

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/nodekit-project/nodekit/internal/flock"
)

func take(t *testing.T, path string, how int) *flock.Lock {
	t.Helper()
	l, err := flock.TryAcquire(path, how)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestExclusion(t *testing.T) {
	for name, path := range map[string]string{"file": filepath.Join(t.TempDir(), "lock"), "directory": t.TempDir()} {
		t.Run(name, func(t *testing.T) {
			first, second := take(t, path, flock.Shared), take(t, path, flock.Shared)
			if first == nil || second == nil {
				t.Fatal("two shared locks exclude each other")
			}
			if take(t, path, flock.Exclusive) != nil {
				t.Error("an exclusive lock was given beside shared ones")
			}
			first.Release()
			second.Release()
			third := take(t, path, flock.Exclusive)
			if third == nil {
				t.Fatal("no exclusive lock after the shared ones were released")
			}
			defer third.Release()
			if take(t, path, flock.Shared) != nil {
				t.Error("a shared lock was given beside an exclusive one")
			}
		})
	}
}

func TestAcquireWaits(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	first := take(t, path, flock.Exclusive)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := flock.Acquire(ctx, path, flock.Exclusive); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Acquire: %v, want the context's error", err)
	}
	got := make(chan error, 1)
	go func() {
		l, err := flock.Acquire(t.Context(), path, flock.Exclusive)
		l.Release()
		got <- err
	}()
	select {
	case err := <-got:
		t.Fatalf("Acquire returned beside a held lock (%v)", err)
	case <-time.After(20 * time.Millisecond):
	}
	first.Release()
	if err := <-got; err != nil {
		t.Error(err)
	}
	// The wait that was given up gets the lock too, and must let go of it.
	l, err := flock.Acquire(t.Context(), path, flock.Exclusive)
	if err != nil {
		t.Fatal(err)
	}
	l.Release()
}

func TestReleaseNothing(t *testing.T) {
	var l *flock.Lock
	l.Release()
}

func TestAcquireErrors(t *testing.T) {
	if _, err := flock.Acquire(t.Context(), filepath.Join(t.TempDir(), "no", "lock"), flock.Shared); err == nil {
		t.Error("a lock in a directory that is not there was given")
	}
}
