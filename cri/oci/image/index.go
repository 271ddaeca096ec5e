package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cri/oci/image/content"
	"github.com/nodekit-project/nodekit/internal/atomicfile"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/flock"
)

const indexVersion = 1

// index is the content of index.json: every image by its ID, which is the digest of its
// config.
type index struct {
	Version int               `json:"version"`
	Images  map[string]record `json:"images"`
	Pinned  []string          `json:"pinned,omitempty"` // see Store.Pin; sorted
}

// record is one image. Its config is the blob that the ID names. A record is never
// changed in place: to change one, clone its slices.
type record struct {
	Names     []string   `json:"names,omitempty"`     // full form, sorted
	Digests   []string   `json:"digests,omitempty"`   // repository@digest, sorted
	Manifests []v1.Hash  `json:"manifests,omitempty"` // the blobs with these digests
	Layers    []layerRef `json:"layers"`              // the bottom first
	Added     time.Time  `json:"added"`
}

// layersSize is the total size of the layers' blobs. A blob that occurs twice, as is
// common for layers without files, counts once.
func (r record) layersSize() (sum int64) {
	for i, l := range r.Layers {
		if !slices.ContainsFunc(r.Layers[:i], func(below layerRef) bool { return below.Blob == l.Blob }) {
			sum += l.Size
		}
	}
	return sum
}

// layerRef names a layer before and after decompression.
type layerRef struct {
	Blob   v1.Hash `json:"blob"`
	DiffID v1.Hash `json:"diffID"`
	Size   int64   `json:"size"` // of the blob
}

// snapshot is the index at one time, with the parsed configs. It is immutable and shared
// by all readers.
type snapshot struct {
	stamp   stamp
	images  map[string]record
	configs map[string]*v1.ConfigFile
	sizes   map[string]int64
	pinned  []string
}

// stamp distinguishes one index.json from the next. Every change makes a new inode.
type stamp struct {
	ino         uint64
	size, mtime int64
}

// read returns the current index. While nobody changes it, that takes a single stat(2).
func (s *Store) read() (*snapshot, error) {
	for {
		at, err := s.stampNow()
		if err != nil {
			return nil, err
		}
		if cur := s.current.Load(); cur != nil && cur.stamp == at {
			return cur, nil
		}
		snap, err := s.readIndex(at)
		if err == nil {
			return snap, nil
		}
		// Between reading the index and a config, another process may have removed the
		// image. Then the index has changed.
		if now, statErr := s.stampNow(); statErr != nil || now == at {
			return nil, fmt.Errorf("reading image index %q: %w", s.indexPath(), err)
		}
	}
}

func (s *Store) readIndex(at stamp) (*snapshot, error) {
	raw, err := os.ReadFile(s.indexPath())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	idx, err := parseIndex(raw)
	if err != nil {
		return nil, err
	}
	return s.publish(at, idx)
}

func (s *Store) stampNow() (stamp, error) {
	var st unix.Stat_t
	if err := unix.Stat(s.indexPath(), &st); err != nil {
		return stamp{}, ignoreNotExist(err)
	}
	return stamp{st.Ino, st.Size, st.Mtim.Nano()}, nil
}

func parseIndex(raw []byte) (index, error) {
	idx := index{Version: indexVersion, Images: map[string]record{}}
	if len(raw) == 0 {
		return idx, nil
	}
	if err := json.Unmarshal(raw, &idx); err != nil {
		return idx, fault.FailedPrecondition.Errorf("damaged: %w", err)
	}
	if idx.Version != indexVersion {
		return idx, fault.FailedPrecondition.Errorf("it has version %d, and this program reads %d: use the version that wrote it", idx.Version, indexVersion)
	}
	return idx, nil
}

// publish makes idx visible to readers. Configs that the last snapshot has parsed are
// reused.
func (s *Store) publish(at stamp, idx index) (*snapshot, error) {
	snap := &snapshot{stamp: at, images: idx.Images, pinned: idx.Pinned, configs: map[string]*v1.ConfigFile{}, sizes: map[string]int64{}}
	last := s.current.Load()
	for id, rec := range idx.Images {
		raw, config, err := s.config(last, id)
		if err != nil {
			return nil, err
		}
		snap.configs[id], snap.sizes[id] = config, rec.layersSize()+raw
	}
	s.current.Store(snap)
	return snap, nil
}

func (s *Store) config(last *snapshot, id string) (size int64, config *v1.ConfigFile, err error) {
	if last != nil && last.configs[id] != nil {
		return last.sizes[id] - last.images[id].layersSize(), last.configs[id], nil
	}
	h, err := v1.NewHash(id)
	if err != nil {
		return 0, nil, fault.FailedPrecondition.Errorf("image %q: %w", id, err)
	}
	raw, err := os.ReadFile(s.blobPath(h.Hex))
	if err != nil {
		return 0, nil, fmt.Errorf("reading the config of image %q: %w", id, err)
	}
	config = &v1.ConfigFile{}
	if err := json.Unmarshal(raw, config); err != nil {
		return 0, nil, fault.FailedPrecondition.Errorf("the config of image %q is damaged: %w", id, err)
	}
	return int64(len(raw)), config, nil
}

// update changes the index under the store's lock; the change is durable if it returns
// nil. change works on a copy whose records it may replace.
func (s *Store) update(ctx context.Context, change func(next *index) error) error {
	l, err := flock.Acquire(ctx, s.lockPath(), flock.Exclusive)
	if err != nil {
		return err
	}
	defer l.Release()
	snap, err := s.read()
	if err != nil {
		return err
	}
	next := index{Version: indexVersion, Images: maps.Clone(snap.images), Pinned: snap.pinned}
	if err := change(&next); err != nil {
		return err
	}
	raw, err := json.MarshalIndent(next, "", " ")
	if err != nil {
		return err
	}
	return s.writeIndex(append(raw, '\n'), len(next.Images) < len(snap.images))
}

// writeIndex replaces the index. If images are removed, it may use the reserve, because
// on a full disk the removal is what frees space.
func (s *Store) writeIndex(raw []byte, removes bool) error {
	err := atomicfile.Write(s.indexPath(), raw, 0o600)
	if !removes || !diskFull(err) {
		return err
	}
	if err := ignoreNotExist(os.Remove(s.reservePath())); err != nil {
		return err
	}
	return atomicfile.Write(s.indexPath(), raw, 0o600)
}

// find returns the ID of the image that ref refers to: an ID, a name, or a name with a
// digest. It returns "" if there is none, and fault.Invalid if ref is not a valid
// reference.
func (sn *snapshot) find(ref string) (id string, err error) {
	if id := imageID(ref); id != "" {
		if _, ok := sn.images[id]; ok {
			return id, nil
		}
		return "", nil
	}
	full, err := content.Normalize(ref)
	if err != nil {
		return "", err
	}
	for id, rec := range sn.images {
		if slices.Contains(rec.Names, full) || slices.Contains(rec.Digests, full) {
			return id, nil
		}
	}
	return "", nil
}

// imageID returns the image ID that ref spells out, with or without its "sha256:", or ""
// if ref is a name.
func imageID(ref string) string {
	h, err := v1.NewHash("sha256:" + strings.TrimPrefix(ref, "sha256:"))
	if err != nil {
		return ""
	}
	return h.String()
}
