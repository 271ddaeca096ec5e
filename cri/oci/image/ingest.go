package image

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"encoding/json"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// downloads is how many layers of one image are fetched at a time, beside the
// one that is being unpacked.
const downloads = 3

// candidate is an image that an archive or a registry offers.
type candidate struct {
	names     []string // full form
	digests   []string // repository@digest
	config    blob
	manifests []blob
	layers    []blob // the bottom first
}

// add stores the candidate: blobs, then unpacked layers, then, once all of it
// is durable, its record. The caller holds the ingest lock shared.
func (s *Store) add(ctx context.Context, c *candidate) (id string, err error) {
	id = c.config.digest.String()
	for _, b := range append([]blob{c.config}, c.manifests...) {
		if err := s.addBlob(ctx, b); err != nil {
			return "", err
		}
	}
	_, config, err := s.config(nil, id)
	if err != nil {
		return "", err
	}
	layers, err := c.layerRefs(config)
	if err != nil {
		return "", fmt.Errorf("image %q: %w", id, err)
	}
	if config.Architecture != "" && config.Architecture != runtime.GOARCH {
		s.log.Warn("image is for another architecture", "image", id, "architecture", config.Architecture)
	}
	if err := s.fetch(ctx, c.layers, layers); err != nil {
		return "", err
	}
	return id, s.update(ctx, func(images map[string]record) error {
		images[id] = merge(images, id, c, layers)
		return nil
	})
}

func (c *candidate) layerRefs(config *v1.ConfigFile) ([]layerRef, error) {
	if config.OS != "" && config.OS != "linux" {
		return nil, fault.FailedPrecondition.Errorf("it is for %s, not for linux", config.OS)
	}
	ids, err := diffIDs(config)
	if err != nil {
		return nil, err
	}
	if len(ids) != len(c.layers) {
		return nil, fault.Invalid.Errorf("its config lists %d layers, its manifest %d", len(ids), len(c.layers))
	}
	refs := make([]layerRef, len(ids))
	for i, l := range c.layers {
		refs[i] = layerRef{Blob: l.digest, DiffID: ids[i], Size: l.size}
	}
	return refs, nil
}

// fetch stores the blobs and unpacks each as soon as it and those below it are
// there. A layer that is unpacked already is not fetched.
func (s *Store) fetch(ctx context.Context, blobs []blob, layers []layerRef) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(downloads + 1)
	ready := make([]chan struct{}, len(layers))
	for i := range ready {
		ready[i] = make(chan struct{})
	}
	g.Go(func() error { return s.unpack(ctx, layers, ready) })
	for i, chain := range chainIDs(layers) {
		g.Go(func() error {
			if !exists(s.layerPath(chain)) {
				if err := s.addBlob(ctx, blobs[i]); err != nil {
					return err
				}
			}
			close(ready[i])
			return nil
		})
	}
	return g.Wait()
}

// merge returns the record of the image with what the candidate adds, and
// takes the candidate's names away from every other image.
func merge(images map[string]record, id string, c *candidate, layers []layerRef) record {
	rec, known := images[id]
	if !known {
		rec = record{Layers: layers, Added: time.Now().UTC().Truncate(time.Second)}
	}
	for other, r := range images {
		kept := slices.DeleteFunc(slices.Clone(r.Names), func(n string) bool { return slices.Contains(c.names, n) })
		if other != id && len(kept) < len(r.Names) {
			r.Names = kept
			images[other] = r
		}
	}
	rec.Names = union(rec.Names, c.names)
	rec.Digests = union(rec.Digests, c.digests)
	rec.Manifests = slices.Clone(rec.Manifests)
	for _, m := range c.manifests {
		if !slices.Contains(rec.Manifests, m.digest) {
			rec.Manifests = append(rec.Manifests, m.digest)
		}
	}
	return rec
}

func union(a, b []string) []string {
	all := slices.Concat(a, b)
	slices.Sort(all)
	return slices.Compact(all)
}

// ingesting runs work with the ingest lock held shared, which keeps what it
// stores from being collected before a record refers to it, and collects
// garbage afterwards: of a failed try, and what others could not collect
// meanwhile.
func (s *Store) ingesting(ctx context.Context, work func() error) error {
	l, err := acquire(ctx, s.ingestLockPath(), unix.LOCK_SH)
	if err != nil {
		return err
	}
	err = work()
	l.release()
	return errors.Join(err, s.collect())
}

// manifest reads an image manifest and returns the image it describes, whose
// blobs are read by open.
func manifest(raw []byte, open func(v1.Descriptor) blob) (*candidate, error) {
	var m v1.Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, fault.Invalid.Errorf("image manifest: %w", err)
	}
	if m.Config.Digest.Hex == "" {
		return nil, fault.Invalid.Errorf("image manifest without a config: schema 1 and artifacts are not images that can run")
	}
	c := &candidate{config: open(m.Config), manifests: []blob{bytesBlob(raw)}}
	for _, l := range m.Layers {
		c.layers = append(c.layers, open(l))
	}
	return c, nil
}
