//go:build !linux

package log

import (
	"context"
	"time"
)

// lookEvery is how often a follower looks where there is no inotify.
const lookEvery = 50 * time.Millisecond

// watcher looks at intervals.
type watcher struct{}

func watch(string) (*watcher, error) { return &watcher{}, nil }

// Wait returns nil after the interval or when ended is closed, and the
// context's error when that ended.
func (*watcher) Wait(ctx context.Context, ended <-chan struct{}) error {
	t := time.NewTimer(lookEvery)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-ended:
	case <-t.C:
	}
	return nil
}

// Close does nothing.
func (*watcher) Close() error { return nil }
