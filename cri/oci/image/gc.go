package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nodekit-project/nodekit/internal/atomicfile"
	"github.com/nodekit-project/nodekit/internal/flock"
)

// collect removes what nothing refers to. While any process is loading or pulling, it
// does nothing: that process collects when it is done. Partially downloaded layers are
// removed only if nobody has written to them for the duration keep.
func (s *Store) collect(keep time.Duration) error {
	ingest, err := flock.TryAcquire(s.ingestLockPath(), flock.Exclusive)
	if err != nil || ingest == nil {
		return err
	}
	defer ingest.Release()
	if err := s.sweep(); err != nil {
		return fmt.Errorf("collecting unused image content: %w", err)
	}
	return errors.Join(removeOld(s.partialPath(""), keep), removeChildren(s.ingestPath("")))
}

// keepPartial is how long a partially downloaded layer is kept.
const keepPartial time.Duration = 24 * time.Hour

// keepUnderPressure is how long it is kept when images are being removed, which kubelets
// do for lack of space. They retry a pull after at most five minutes.
const keepUnderPressure = 10 * time.Minute

// removeOld removes the files in dir that nobody has written to for the duration keep.
func removeOld(dir string, keep time.Duration) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		fi, err := e.Info()
		if err == nil && time.Since(fi.ModTime()) >= keep {
			err = os.Remove(filepath.Join(dir, e.Name()))
		}
		errs = append(errs, ignoreNotExist(err))
	}
	return errors.Join(errs...)
}

// sweep moves unreferenced layers into the ingest directory, so that a crash never leaves
// a partial one under its name, and removes unreferenced blobs. It holds the store's lock
// only for that; deleting, the long part, comes after.
func (s *Store) sweep() error {
	l, err := flock.Acquire(context.Background(), s.lockPath(), flock.Exclusive)
	if err != nil {
		return err
	}
	defer l.Release()
	blobs, layers, err := s.referenced()
	if err != nil {
		return err
	}
	err = eachUnreferenced(s.layerPath(""), layers, func(path string) error {
		return os.Rename(path, s.ingestPath("trash-"+filepath.Base(path)))
	})
	return errors.Join(err,
		eachUnreferenced(s.blobPath(""), blobs, os.Remove),
		atomicfile.Clean(s.dir), atomicfile.Clean(s.mountsPath("")))
}

// referenced returns the blobs and layers in use by images and by mounted root file
// systems, by the hex form of their IDs.
func (s *Store) referenced() (blobs, layers map[string]bool, err error) {
	snap, err := s.read()
	if err != nil {
		return nil, nil, err
	}
	blobs, layers = map[string]bool{}, map[string]bool{}
	for id, rec := range snap.images {
		blobs[strings.TrimPrefix(id, "sha256:")] = true
		for _, m := range rec.Manifests {
			blobs[m.Hex] = true
		}
		for i, chain := range chainIDs(rec.Layers) {
			blobs[rec.Layers[i].Blob.Hex] = true
			layers[chain] = true
		}
	}
	records, err := filepath.Glob(s.mountsPath("*.json"))
	if err != nil {
		return nil, nil, err
	}
	for _, path := range records {
		m, err := readMount(path)
		if err != nil {
			return nil, nil, err
		}
		if !exists(m.Dir) { // it was unmounted before the directory was removed
			if err := ignoreNotExist(os.Remove(path)); err != nil {
				return nil, nil, err
			}
			continue
		}
		for _, chain := range m.Layers {
			layers[chain] = true
		}
	}
	return blobs, layers, nil
}

func eachUnreferenced(dir string, keep map[string]bool, do func(path string) error) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if !keep[e.Name()] {
			errs = append(errs, do(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}

func removeChildren(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		errs = append(errs, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return errors.Join(errs...)
}
