package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/nodekit-project/nodekit/internal/flock"
)

// staged is a layer of an image that is being unpacked.
type staged struct {
	chain string
	layer layerRef
	ready <-chan struct{} // closed when its blob can be read
	below []*staged       // the layers below, the topmost first
	final string          // where its files are once it is visible

	// The state of a layer on its way there. All fields are nil if the layer was there
	// before.
	tmp    string
	lock   *flock.Lock
	filled chan struct{} // closed when it is unpacked, or when failed says why not
	failed error
	dirs   impliedDirs
}

// root returns where the layer's files are now.
func (st *staged) root() string {
	if st.lock == nil {
		return st.final
	}
	return filepath.Join(st.tmp, "fs")
}

// release discards what is not visible yet.
func (st *staged) release() error {
	if st.lock == nil {
		return nil
	}
	err := os.RemoveAll(st.tmp)
	st.lock.Release()
	return err
}

// unpack makes every layer of the chain present. ready[i] is closed when the blob of
// layer i can be read. The caller holds the ingest lock shared. If another goroutine or
// process is unpacking a layer, unpack waits for that.
//
// The layers, of whatever images, are unpacked concurrently, as many as there are CPUs.
// What a layer takes from those below, the attributes of directories, is settled
// afterwards, from the bottom up; as soon as that is done, the layer is available to
// other images that share it, whatever happens to the layers above.
func (s *Store) unpack(ctx context.Context, layers []layerRef, ready []chan struct{}) (err error) {
	all, err := s.stage(ctx, layers, ready)
	defer func() {
		for _, st := range all {
			err = errors.Join(err, st.release())
		}
	}()
	if err != nil {
		return err
	}
	var fresh []*staged
	g, gctx := errgroup.WithContext(ctx)
	for _, st := range all {
		if st.lock == nil {
			continue
		}
		fresh = append(fresh, st)
		g.Go(func() error {
			defer close(st.filled)
			st.failed = st.explain(guarded(func() error { return s.unpackOne(gctx, st) }))
			return st.failed
		})
	}
	g.Go(func() error { return s.commitInOrder(fresh) })
	return g.Wait()
}

// commitInOrder makes layers visible from the bottom up, each as early as possible,
// together with those above it that are ready, too.
func (s *Store) commitInOrder(rest []*staged) error {
	for len(rest) > 0 {
		n := 0
		for _, st := range rest {
			if n > 0 && !isClosed(st.filled) {
				break
			}
			if <-st.filled; st.failed != nil {
				break
			}
			n++
		}
		if n == 0 {
			return rest[0].failed
		}
		if err := s.commitLayers(rest[:n]); err != nil {
			return err
		}
		rest = rest[n:]
	}
	return nil
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// commitLayers makes unpacked layers visible, lowest first, once they are on disk.
func (s *Store) commitLayers(batch []*staged) error {
	for _, st := range batch {
		if err := st.settle(); err != nil {
			return st.explain(err)
		}
	}
	if err := syncFS(s.dir); err != nil {
		return fmt.Errorf("syncing unpacked layers: %w", err)
	}
	for _, st := range batch {
		if err := commit(st.tmp, s.layerPath(st.chain)); err != nil {
			return fmt.Errorf("committing layer: %w", err)
		}
		st.lock.Release()
		st.lock = nil
	}
	return nil
}

func (st *staged) explain(err error) error {
	if err != nil {
		err = fmt.Errorf("unpacking layer %q: %w", st.layer.Blob, err)
	}
	return err
}

// stage prepares a place for each missing layer, and locks it. Everybody takes these
// locks from the bottom up, so that two images that share layers never wait for each
// other. What it returns must be released, even after an error.
func (s *Store) stage(ctx context.Context, layers []layerRef, ready []chan struct{}) (all []*staged, err error) {
	for i, chain := range chainIDs(layers) {
		st := &staged{chain: chain, layer: layers[i], ready: ready[i], below: slices.Clone(all), final: s.layerFS(chain)}
		slices.Reverse(st.below)
		all = append(all, st)
		if exists(s.layerPath(chain)) {
			continue
		}
		lock, err := flock.Acquire(ctx, s.ingestPath("layer-"+chain+".lock"), flock.Exclusive)
		if err != nil {
			return all, err
		}
		if exists(s.layerPath(chain)) { // somebody else was faster
			lock.Release()
			continue
		}
		st.lock, st.filled = lock, make(chan struct{})
		if st.tmp, err = os.MkdirTemp(s.ingestPath(""), "layer-"+chain+".*"); err != nil {
			return all, st.explain(err)
		}
	}
	return all, nil
}

// unpackOne unpacks a layer as soon as its blob is there and a CPU is free.
func (s *Store) unpackOne(ctx context.Context, st *staged) error {
	select {
	case <-st.ready:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case s.busy <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-s.busy }()
	return s.fill(ctx, st.root(), st.layer, &st.dirs)
}

// settle gives the directories that the layer only implies the attributes from the layers
// below, and records the layer's disk usage.
func (st *staged) settle() error {
	var below []string
	for _, b := range st.below {
		below = append(below, b.root())
	}
	for _, dir := range st.dirs.sorted() {
		if err := copyAttributes(st.root(), dir, below); err != nil {
			return fmt.Errorf("directory %q: %w", dir, err)
		}
	}
	return writeLayerInfo(st.tmp)
}
