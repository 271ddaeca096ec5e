package record

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"github.com/nodekit-project/nodekit/internal/mount"
)

// bin takes directories in by one rename(2) and deletes them afterwards, one at a
// time, while nobody waits: what a container has written can be a million files.
// What a killed process has not come to, the next one's bin deletes.
type bin struct {
	dir  string
	log  *slog.Logger
	turn sync.Mutex // of the deletion under way
	work sync.WaitGroup
}

// openBin makes the directory of the bin, if need be, and begins to empty it.
func openBin(dir string, log *slog.Logger) (*bin, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	left, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	b := &bin{dir: dir, log: log}
	for _, e := range left {
		b.empty(filepath.Join(dir, e.Name()))
	}
	return b, nil
}

// throw takes a directory in, whose name no other has. One that is gone is no error.
// One with a mount below is refused: what that shows must not be deleted.
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
	b.empty(to)
	return nil
}

// empty deletes a directory of the bin when it is its turn. What cannot be deleted is
// tried again by the next bin.
func (b *bin) empty(dir string) {
	b.work.Go(func() {
		b.turn.Lock()
		defer b.turn.Unlock()
		if err := os.RemoveAll(dir); err != nil {
			b.log.Error("deleting what a sandbox or container has left", "err", err)
		}
	})
}

// close waits until the bin is empty.
func (b *bin) close() { b.work.Wait() }
