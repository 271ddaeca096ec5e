package record

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/nodekit-project/nodekit/internal/mount"
)

// bin takes directories in by a single rename(2) and deletes them afterwards, one at a
// time, while nobody waits: a container may have written a million files. It starts when
// nothing has come for a moment (lull), or when too much waits for that (brim, patience).
// What a killed process did not get to, the next one's bin deletes.
type bin struct {
	dir   string
	log   *slog.Logger
	hurry chan struct{} // closed by close
	close func()        // waits until the bin is empty; throw must not be called any more
	work  sync.WaitGroup

	mu      sync.Mutex
	full    []string  // directories to delete
	since   time.Time // when it was last empty
	thrown  time.Time // when the last of them came
	working bool      // a goroutine deletes, or waits for a lull
}

const (
	// lull is how long nothing must come before deletion begins or continues: otherwise
	// the next removals would have to wait for the disk.
	lull = 200 * time.Millisecond
	// brim is how many directories may wait for that, and patience how long: they may
	// fill the disk.
	brim     = 1000
	patience = 5 * time.Second
)

// openBin creates the directory of the bin, if necessary, and starts to empty it.
func openBin(dir string, log *slog.Logger) (*bin, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	left, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	b := &bin{dir: dir, log: log, hurry: make(chan struct{})}
	b.close = sync.OnceFunc(func() {
		close(b.hurry)
		b.work.Wait()
	})
	for _, e := range left {
		b.take(filepath.Join(dir, e.Name()))
	}
	return b, nil
}

// throw takes a directory in, whose name must be unique. A missing directory is no error.
// One with a mount below is refused: the mounted files must not be deleted.
func (b *bin) throw(dir string) error {
	if err := mount.Free(dir); err != nil && !errors.Is(err, mount.ErrUnsupported) {
		return err
	}
	to := filepath.Join(b.dir, filepath.Base(dir))
	switch err := os.Rename(dir, to); {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("removing %q: %w", dir, err)
	}
	b.take(to)
	return nil
}

func (b *bin) take(dir string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.thrown = time.Now()
	if len(b.full) == 0 {
		b.since = b.thrown
	}
	b.full = append(b.full, dir)
	if !b.working {
		b.working = true
		b.work.Go(b.empty)
	}
}

// empty deletes what is in the bin. The next bin tries again what could not be deleted.
func (b *bin) empty() {
	for dir := b.next(); dir != ""; dir = b.next() {
		if err := os.RemoveAll(dir); err != nil {
			b.log.Error("deleting what a sandbox or container has left", "err", err)
		}
	}
}

// next waits for a lull and takes a directory out; it returns "" if there is none.
func (b *bin) next() string {
	for {
		dir, rest := b.look()
		if rest <= 0 {
			return dir
		}
		select {
		case <-time.After(rest):
		case <-b.hurry:
		}
	}
}

// look takes a directory out, or returns how long to wait.
func (b *bin) look() (dir string, rest time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.full) == 0 {
		b.working = false
		return "", 0
	}
	rest = min(lull-time.Since(b.thrown), patience-time.Since(b.since))
	if rest > 0 && len(b.full) <= brim && !b.closing() {
		return "", rest
	}
	dir, b.full = b.full[0], b.full[1:]
	return dir, 0
}

func (b *bin) closing() bool {
	select {
	case <-b.hurry:
		return true
	default:
		return false
	}
}
