// Package image is the image store of the reference runtime: it loads and pulls container
// images, keeps their layers unpacked, and mounts writable root file systems made of
// them.
//
// It follows the OCI image specification v1.1 (layout, manifest, config, layer change
// sets), reads docker archives, and speaks the OCI distribution protocol. It is not a
// build tool, does not push, and is not a general snapshot store: a layer is always one
// read-only directory, and a root file system always one overlay mount.
//
// # On disk
//
//	DIR/index.json           names and images; replaced atomically; versioned
//	DIR/blobs/sha256/HEX     configs, manifests and layers as they were received
//	DIR/layers/HEX/fs        an unpacked layer, named by its chain ID
//	DIR/layers/HEX/layer.json  its disk usage; versioned
//	DIR/mounts/HEX.json      one record for each root file system in use
//	DIR/partial/HEX          partially downloaded layers
//	DIR/ingest/              unfinished work; worthless after a crash
//	DIR/reserve              space for removing images when the disk is full
//	DIR/lock, DIR/ingest.lock
//
// Content becomes visible by one rename after it is on disk (fsync for a blob, syncfs for
// a layer), so neither a kill nor a power loss leaves a visible blob or layer that is
// wrong. What no image and no root file system refers to is collected when an image is
// removed, a root file system released or the store opened; if some process is loading or
// pulling then, it is collected when that has ended. A partially downloaded layer is kept
// for a day, so that the next pull of the layer can continue.
//
// # Concurrency
//
// A Store is safe for concurrent use, and any number of processes may have one directory
// open: changes are serialised by flock(2). Reads take no lock. They are answered from
// memory as long as index.json has not been replaced.
package image

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/nodekit-project/nodekit/cri/oci/layer"
	"github.com/nodekit-project/nodekit/internal/atomicfile"
	"github.com/nodekit-project/nodekit/internal/topdir"
)

// Store is an open image store. It holds no descriptors and need not be closed.
type Store struct {
	dir      string
	log      *slog.Logger
	limits   layer.Limits
	current  atomic.Pointer[snapshot]
	pulls    flights
	from     sources
	busy     chan struct{} // holds one element for each layer being unpacked
	written  measurements
	progress func(ref string, p Progress) // of pulls over CRI; may be nil
}

// Options configure a Store. nil means the defaults.
type Options struct {
	// Logger receives what an operator may want to know. nil discards it.
	Logger *slog.Logger
	// Progress is called with the progress of every layer of pulls through the CRI, which
	// itself cannot report it. It is called like PullOptions.Progress, concurrently for
	// different references. nil means that progress is not reported.
	Progress func(ref string, p Progress)
	// Hosts is the directory that configures the mirrors of registries, in the layout of
	// containerd's certs.d; see package registry/hosts. It is read anew for each pull.
	// Empty means that there are none.
	Hosts string
	// PullStall is how long a registry may send nothing before the request is repeated,
	// there or elsewhere. Zero means a minute.
	PullStall time.Duration
	// MaxLayerBytes bounds the size of a layer in bytes, both compressed and unpacked. A
	// larger layer is refused. Zero means 64 GiB.
	MaxLayerBytes int64
	// MaxLayerEntries bounds the number of files in a layer. Zero means 4 million.
	MaxLayerEntries int
}

// sources configures how registries are reached.
type sources struct {
	hosts string
	stall time.Duration
}

const (
	defaultMaxLayerBytes   = 64 << 30
	defaultMaxLayerEntries = 4 << 20
)

// Open opens the store in dir, which it creates if it does not exist, and removes what an
// interrupted process left. The directory is accessible to root only, because images may
// contain set-uid programs. A store written by a newer version is refused with
// fault.FailedPrecondition.
func Open(dir string, opts *Options) (*Store, error) {
	if opts == nil {
		opts = &Options{}
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("opening image store %q: %w", dir, err)
	}
	s := &Store{
		dir: abs, log: opts.Logger, limits: layer.Limits{Bytes: opts.MaxLayerBytes, Entries: opts.MaxLayerEntries},
		from: sources{opts.Hosts, opts.PullStall}, busy: make(chan struct{}, runtime.GOMAXPROCS(0)), progress: opts.Progress,
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.limits.Bytes == 0 {
		s.limits.Bytes = defaultMaxLayerBytes
	}
	if s.limits.Entries == 0 {
		s.limits.Entries = defaultMaxLayerEntries
	}
	if err := s.prepare(); err != nil {
		return nil, fmt.Errorf("opening image store %q: %w", dir, s.explainDisk(err))
	}
	return s, nil
}

func (s *Store) prepare() error {
	if err := topdir.Make(s.dir, 0o700); err != nil {
		return err
	}
	for _, sub := range []string{"blobs/sha256", "layers", "mounts", "partial", "ingest"} {
		if err := os.MkdirAll(filepath.Join(s.dir, sub), 0o700); err != nil {
			return err
		}
	}
	if _, err := s.read(); err != nil {
		return err
	}
	s.fillReserve()
	return s.collect(keepPartial)
}

func (s *Store) indexPath() string           { return filepath.Join(s.dir, "index.json") }
func (s *Store) reservePath() string         { return filepath.Join(s.dir, "reserve") }
func (s *Store) lockPath() string            { return filepath.Join(s.dir, "lock") }
func (s *Store) ingestLockPath() string      { return filepath.Join(s.dir, "ingest.lock") }
func (s *Store) ingestPath(n string) string  { return filepath.Join(s.dir, "ingest", n) }
func (s *Store) partialPath(n string) string { return filepath.Join(s.dir, "partial", n) }
func (s *Store) blobPath(hex string) string  { return filepath.Join(s.dir, "blobs", "sha256", hex) }
func (s *Store) layerPath(hex string) string { return filepath.Join(s.dir, "layers", hex) }
func (s *Store) layerFS(hex string) string   { return filepath.Join(s.dir, "layers", hex, "fs") }
func (s *Store) spread() topdir.Spread       { return topdir.Spread(filepath.Join(s.dir, "spread")) }
func (s *Store) mountsPath(n string) string  { return filepath.Join(s.dir, "mounts", n) }

// commit makes a finished file or directory visible under its final name.
func commit(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err
	}
	return atomicfile.SyncDir(filepath.Dir(to))
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func ignoreNotExist(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
