package runtime

import (
	"context"
	"fmt"
	"math"
	"path/filepath"

	"golang.org/x/sync/semaphore"

	"github.com/nodekit-project/nodekit/internal/flock"
)

// guard excludes operations as the specification requires (CNI 1.1.0, Lifecycle &
// Ordering): operations of one container exclude each other, and GC excludes all.
// Within the process this is done by fair queues in which waiting ends with the
// context; between processes by the lock files of the state directory, see the
// package comment.
type guard struct {
	dir        string
	containers flock.Queue
	gc         *semaphore.Weighted // GC acquires all of it, any other operation 1
}

func newGuard(dir string) *guard {
	return &guard{dir: dir, gc: semaphore.NewWeighted(math.MaxInt64)}
}

func (g *guard) containerFile() string { return filepath.Join(g.dir, "containers.lock") }
func (g *guard) gcFile() string        { return filepath.Join(g.dir, "gc.lock") }

// enter waits until neither another operation of the container nor GC runs, here or
// in another process.
func (g *guard) enter(ctx context.Context, container string) (leave func(), err error) {
	unlock, err := g.containers.Enter(ctx, container)
	if err != nil {
		return nil, fmt.Errorf("waiting for another operation of the container: %w", err)
	}
	file, err := flock.AcquireName(ctx, g.containerFile(), container)
	if err != nil {
		unlock()
		return nil, err
	}
	out, err := g.pass(ctx, 1, flock.Shared)
	if err != nil {
		file.Release()
		unlock()
		return nil, err
	}
	return func() { out(); file.Release(); unlock() }, nil
}

// alone waits until no operation of any container runs, and holds back new ones.
func (g *guard) alone(ctx context.Context) (leave func(), err error) {
	return g.pass(ctx, math.MaxInt64, flock.Exclusive)
}

func (g *guard) pass(ctx context.Context, weight int64, how int) (leave func(), err error) {
	if err := g.gc.Acquire(ctx, weight); err != nil {
		return nil, fmt.Errorf("waiting for garbage collection: %w", err)
	}
	file, err := flock.Acquire(ctx, g.gcFile(), how)
	if err != nil {
		g.gc.Release(weight)
		return nil, err
	}
	return func() { file.Release(); g.gc.Release(weight) }, nil
}
