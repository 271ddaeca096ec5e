package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/nodekit-project/nodekit/internal/bootid"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/flock"
	"github.com/nodekit-project/nodekit/internal/overlay"
)

// Rootfs is a mounted root file system.
type Rootfs struct {
	// Path is the mount point, below the directory given to Store.Mount.
	Path string
	// ImageID is the image it was made from.
	ImageID string
	// Config says how the image's program is to be run (OCI image spec v1.1 config.md):
	// Entrypoint, Cmd, Env, User, WorkingDir, StopSignal, Volumes.
	Config v1.Config
}

const mountVersion = 1

// mountRecord is the content of a file in mounts/. It is written before the mount is
// made, removed after everything below Dir, and keeps the layers from being collected. It
// is not synced: a power loss takes the mounts as well.
type mountRecord struct {
	Version int           `json:"version"`
	Dir     string        `json:"dir"`
	At      string        `json:"at,omitempty"` // where it is mounted, if not below Dir
	Image   string        `json:"image"`
	Layers  []string      `json:"layers"` // chain ids, the bottom first
	Boot    string        `json:"boot"`   // boot id of the machine at that time
	Config  v1.ConfigFile `json:"config"`
}

// View configures how an image is mounted. The zero View is a writable file system with
// the file owners of the image.
type View struct {
	// At is the absolute path at which the file system is mounted, in an existing
	// directory. Mount creates it, and releasing removes it. Empty means a place below
	// the directory that Mount is called with. The one of the first call counts.
	At string
	// ReadOnly omits the writable layer: nobody can write to the file system, and it
	// takes no disk space.
	ReadOnly bool
	// UserNS is the path of a pinned user namespace with whose ID mapping the files are
	// mounted: those of user 0 belong to the namespace's root, and so forth. Empty means
	// the host's. It requires a file system that supports ID-mapped mounts
	// (fault.FailedPrecondition).
	UserNS string
	// RootUID and RootGID are the host IDs of the namespace's root.
	RootUID, RootGID int
	// Label is the SELinux label of all files, including files created later; nobody can
	// change it. If it is empty, each file keeps its own.
	Label string
}

// Rootfs is Mount with the zero View.
func (s *Store) Rootfs(ctx context.Context, image, dir string) (*Rootfs, error) {
	return s.Mount(ctx, image, dir, View{})
}

// Mount mounts a file system of the image below dir and returns it. image is an ID or any
// reference. What is written is stored in dir as well. The runtime calls it when it
// creates a container, with a directory that belongs to that container alone and is not
// itself on an overlay.
//
// It may be called again, even after a crash of this process: a mounted root file system
// is returned as it is; one that is not mounted is mounted again with what was written to
// it. Neither needs the image to exist any more. After a reboot it starts anew, as every
// container does; therefore, and so that releasing costs no sync of the disk, fsync(2) in
// it does nothing. If Mount returns an error, nothing new is left below dir. Every call
// for one dir must have the same View.
//
// If the image does not exist, the error is fault.NotFound; if dir has a root file system
// of another image, fault.AlreadyExists.
func (s *Store) Mount(ctx context.Context, image, dir string, v View) (*Rootfs, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("root file system of image %q: %w", image, err)
	}
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, fmt.Errorf("root file system of image %q: %w", image, err)
	}
	l, err := flock.Acquire(ctx, dir, flock.Exclusive)
	if err != nil {
		return nil, err
	}
	defer l.Release()
	m, fresh, err := s.reserve(ctx, image, dir, v.At)
	if err == nil {
		err = s.mount(ctx, m, v)
	}
	if err != nil && fresh {
		err = errors.Join(err, s.releaseLocked(dir, deleteWritten))
	}
	if err != nil {
		return nil, fmt.Errorf("root file system of image %q in %q: %w", image, dir, s.explainDisk(err))
	}
	return &Rootfs{Path: m.point(), ImageID: m.Image, Config: m.Config.Config}, nil
}

// ReleaseRootfs unmounts what Mount mounted below dir and deletes what was written to it;
// dir itself stays. All processes of the container must have ended. It may be called at
// any time and repeatedly: if dir has no root file system, or a partial one, or does not
// exist, it returns nil.
func (s *Store) ReleaseRootfs(dir string) error { return s.release(dir, deleteWritten) }

// ForgetRootfs is ReleaseRootfs, but leaves what was written to whoever deletes dir,
// which must not get another root file system before.
func (s *Store) ForgetRootfs(dir string) error { return s.release(dir, leaveWritten) }

// deleteWritten deletes what was written to a root file system, and its mount point: that
// is removed as one empty directory, never as a tree.
func deleteWritten(m mountRecord) error {
	return errors.Join(ignoreNotExist(os.Remove(m.point())), os.RemoveAll(upperDir(m.Dir)), os.RemoveAll(workDir(m.Dir)))
}

// leaveWritten leaves what is below m.Dir.
func leaveWritten(m mountRecord) error {
	if m.At == "" {
		return nil
	}
	return ignoreNotExist(os.Remove(m.At))
}

func (s *Store) release(dir string, written func(mountRecord) error) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("releasing root file system: %w", err)
	}
	if exists(dir) {
		l, err := flock.Acquire(context.Background(), dir, flock.Exclusive)
		if err != nil {
			return err
		}
		defer l.Release()
	}
	if err := s.releaseLocked(dir, written); err != nil {
		return fmt.Errorf("releasing root file system in %q: %w", dir, err)
	}
	s.written.forget(upperDir(dir))
	return nil
}

func workDir(dir string) string { return filepath.Join(dir, "work") }

// point is where the root file system is mounted.
func (m mountRecord) point() string {
	if m.At != "" {
		return m.At
	}
	return filepath.Join(m.Dir, "rootfs")
}

// reserve records that dir is about to hold a root file system of the image, or returns
// the existing record. While it holds the store's lock, nothing is collected.
func (s *Store) reserve(ctx context.Context, image, dir, at string) (m mountRecord, fresh bool, err error) {
	l, err := flock.Acquire(ctx, s.lockPath(), flock.Shared)
	if err != nil {
		return m, false, err
	}
	defer l.Release()
	snap, err := s.read()
	if err != nil {
		return m, false, err
	}
	id, err := snap.find(image)
	if err != nil {
		return m, false, err
	}
	path := s.mountsPath(mountKey(dir))
	if m, err = readMount(path); err != nil {
		return m, false, err
	}
	if m.Image != "" && (m.Image == id || m.Image == imageID(image)) {
		return m, false, nil
	}
	if m.Image != "" {
		return m, false, fault.AlreadyExists.Errorf("it has one of image %q", m.Image)
	}
	if id == "" {
		return m, false, fault.NotFound.Errorf("the image is not in the store: load or pull it")
	}
	boot, err := bootid.Read()
	if err != nil {
		return m, false, err
	}
	m = mountRecord{mountVersion, dir, at, id, chainIDs(snap.images[id].Layers), boot, *snap.configs[id]}
	return m, true, s.writeMount(path, m)
}

func (s *Store) mount(ctx context.Context, m mountRecord, v View) error {
	target := m.point()
	if mounted, err := overlay.IsMounted(target); mounted || err != nil {
		return err
	}
	if err := s.restore(ctx, m); err != nil {
		return err
	}
	if err := makeOpen(target); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	lower, err := s.lowerDirs(m, v)
	if err != nil {
		return err
	}
	o := overlay.Options{Target: target, Lower: lower, Context: v.Label}
	if !v.ReadOnly {
		if o, err = s.writable(o, m, v); err != nil {
			return err
		}
	}
	if v.UserNS == "" {
		return overlay.Mount(o)
	}
	return mountMapped(o, filepath.Join(m.Dir, mappedDir), v.UserNS)
}

// lowerDirs returns the visible layers, topmost first, and at least as many as overlay
// requires.
func (s *Store) lowerDirs(m mountRecord, v View) (dirs []string, err error) {
	least := 1
	if v.ReadOnly {
		least = 2
	}
	for _, chain := range slices.Backward(m.Layers) {
		dirs = append(dirs, s.layerFS(chain))
		alone, err := hidesAllBelow(s.layerFS(chain))
		if err != nil {
			return nil, err
		}
		if alone {
			break
		}
	}
	for i := 0; len(dirs) < least; i++ {
		empty := filepath.Join(s.dir, "empty"+strconv.Itoa(i))
		if err := os.MkdirAll(empty, 0o755); err != nil {
			return nil, err
		}
		dirs = append(dirs, empty)
	}
	return dirs, nil
}

// writable adds the directories for what is written to the mount.
func (s *Store) writable(o overlay.Options, m mountRecord, v View) (overlay.Options, error) {
	o.Upper, o.Work, o.Volatile = upperDir(m.Dir), workDir(m.Dir), true
	if err := s.reuse(o, m); err != nil {
		return o, err
	}
	for _, dir := range []string{o.Upper, o.Work} {
		if err := makeOpen(dir); err != nil && !errors.Is(err, os.ErrExist) {
			return o, err
		}
	}
	if v.UserNS == "" {
		return o, nil
	}
	return o, os.Lchown(o.Upper, v.RootUID, v.RootGID) // it becomes the root of the mount
}

// makeOpen creates a directory that every user may enter, regardless of this process's
// umask: one that becomes the root of a container.
func makeOpen(dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	return os.Chmod(dir, 0o755)
}

// reuse prepares the directories of an earlier mount for the next one. What was written
// is kept unless the machine has been rebooted since.
func (s *Store) reuse(o overlay.Options, m mountRecord) error {
	now, err := bootid.Read()
	if err != nil {
		return err
	}
	if now == m.Boot {
		return overlay.Forget(o.Work)
	}
	if err := errors.Join(os.RemoveAll(o.Upper), os.RemoveAll(o.Work)); err != nil {
		return err
	}
	m.Boot = now
	return s.writeMount(s.mountsPath(mountKey(m.Dir)), m)
}

// restore unpacks layers again that somebody deleted. Normally there are none.
func (s *Store) restore(ctx context.Context, m mountRecord) error {
	missing := false
	for _, chain := range m.Layers {
		missing = missing || !exists(s.layerFS(chain))
	}
	if !missing {
		return nil
	}
	snap, err := s.read()
	if err != nil {
		return err
	}
	rec, ok := snap.images[m.Image]
	if !ok {
		return fault.FailedPrecondition.Errorf("its layers are gone, and so is the image: load or pull it again")
	}
	ready := make(chan struct{})
	close(ready)
	all := make([]chan struct{}, len(rec.Layers))
	for i := range all {
		all[i] = ready
	}
	return s.ingesting(ctx, func() error { return s.unpack(ctx, rec.Layers, all) })
}

func (s *Store) releaseLocked(dir string, written func(mountRecord) error) error {
	path := s.mountsPath(mountKey(dir))
	m, err := readMount(path)
	if err != nil {
		return err
	}
	m.Dir = dir // there may be no record
	target := m.point()
	for {
		mounted, err := overlay.IsMounted(target)
		if err != nil {
			return err
		}
		if !mounted {
			break
		}
		if err := overlay.Unmount(target); err != nil {
			return err
		}
	}
	if err := unmap(filepath.Join(dir, mappedDir)); err != nil {
		return err
	}
	if err := written(m); err != nil {
		return err
	}
	if err := ignoreNotExist(os.Remove(path)); err != nil || m.Image == "" {
		return err
	}
	snap, err := s.read()
	if err != nil {
		return err
	}
	if _, ok := snap.images[m.Image]; ok {
		return nil
	}
	return s.collect(keepPartial)
}

func mountKey(dir string) string {
	sum := sha256.Sum256([]byte(dir))
	return hex.EncodeToString(sum[:16]) + ".json"
}

// readMount returns the record at path. If it does not exist, or was damaged by a power
// loss, that is the zero record.
func readMount(path string) (mountRecord, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return mountRecord{}, ignoreNotExist(err)
	}
	var m mountRecord
	if json.Unmarshal(content, &m) != nil {
		return mountRecord{}, nil
	}
	if m.Version != mountVersion {
		return mountRecord{}, fault.FailedPrecondition.Errorf(
			"%q has version %d, and this program reads %d: use the version that wrote it", path, m.Version, mountVersion)
	}
	return m, nil
}

func (s *Store) writeMount(path string, m mountRecord) error {
	content, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return s.spread().Put(path, content, 0o600)
}
