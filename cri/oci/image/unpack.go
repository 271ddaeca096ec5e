package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"github.com/nodekit-project/nodekit/internal/flock"
)

// staged is a layer that is being unpacked and is not visible yet.
type staged struct {
	chain string
	layer layerRef
	ready <-chan struct{} // closed when its blob can be read
	below []string        // where the layers below are, the topmost first
	tmp   string
	lock  *flock.Lock
	dirs  impliedDirs
}

func (st *staged) root() string { return filepath.Join(st.tmp, "fs") }

// unpack makes every layer of the chain present. ready[i] is closed when the
// blob of layer i can be read. The caller holds the ingest lock shared. Layers
// that another goroutine or process is unpacking are waited for.
//
// The layers are unpacked at the same time, as many as there are CPUs, whatever
// images they are of. What a layer takes from those below it, the attributes of
// directories, is settled afterwards, from the bottom up.
func (s *Store) unpack(ctx context.Context, layers []layerRef, ready []chan struct{}) (err error) {
	fresh, err := s.stage(ctx, layers, ready)
	defer func() {
		for _, st := range fresh {
			err = errors.Join(err, os.RemoveAll(st.tmp))
			st.lock.Release()
		}
	}()
	if err != nil || len(fresh) == 0 {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	for _, st := range fresh {
		g.Go(func() error { return st.explain(s.unpackOne(gctx, st)) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, st := range fresh {
		if err := st.settle(); err != nil {
			return st.explain(err)
		}
	}
	if err := syncFS(s.dir); err != nil {
		return fmt.Errorf("syncing unpacked layers: %w", err)
	}
	for _, st := range fresh {
		if err := commit(st.tmp, s.layerPath(st.chain)); err != nil {
			return fmt.Errorf("committing layer: %w", err)
		}
	}
	return nil
}

func (st *staged) explain(err error) error {
	if err != nil {
		err = fmt.Errorf("unpacking layer %q: %w", st.layer.Blob, err)
	}
	return err
}

// stage makes a place for each layer that is missing, and locks it. The locks
// are taken from the bottom up by everybody, so that two images which share layers
// never wait for each other. What it returns has to be released, also with an
// error.
func (s *Store) stage(ctx context.Context, layers []layerRef, ready []chan struct{}) (fresh []*staged, err error) {
	var below []string
	for i, chain := range chainIDs(layers) {
		root := s.layerFS(chain)
		if !exists(s.layerPath(chain)) {
			lock, err := flock.Acquire(ctx, s.ingestPath("layer-"+chain+".lock"), flock.Exclusive)
			if err != nil {
				return fresh, err
			}
			if exists(s.layerPath(chain)) { // somebody else was faster
				lock.Release()
			} else {
				st := &staged{chain: chain, layer: layers[i], ready: ready[i], below: below, lock: lock}
				fresh = append(fresh, st)
				if st.tmp, err = os.MkdirTemp(s.ingestPath(""), "layer-"+chain+".*"); err != nil {
					return fresh, st.explain(err)
				}
				root = st.root()
			}
		}
		below = append([]string{root}, below...)
	}
	return fresh, nil
}

// unpackOne unpacks a layer, as soon as its blob is there and a CPU is free.
func (s *Store) unpackOne(ctx context.Context, st *staged) error {
	for _, wait := range []func() bool{
		func() bool {
			select {
			case <-st.ready:
				return true
			case <-ctx.Done():
				return false
			}
		},
		func() bool {
			select {
			case s.busy <- struct{}{}:
				return true
			case <-ctx.Done():
				return false
			}
		},
	} {
		if !wait() {
			return ctx.Err()
		}
	}
	defer func() { <-s.busy }()
	return s.fill(ctx, st.root(), st.layer, &st.dirs)
}

// settle gives the directories that the layer only implies the attributes of
// those below, and records what the layer takes.
func (st *staged) settle() error {
	for _, dir := range st.dirs.sorted() {
		if err := copyAttributes(st.root(), dir, st.below); err != nil {
			return fmt.Errorf("directory %q: %w", dir, err)
		}
	}
	return writeLayerInfo(st.tmp)
}
