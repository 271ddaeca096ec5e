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

	"github.com/nodekit-project/nodekit/cri/oci/image/content"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/flock"
)

// downloads is how many layers of one image are fetched concurrently, besides the one
// that is being unpacked.
const downloads = 3

// add stores an image: blobs, then unpacked layers, then, once all of it is durable, its
// record. The caller holds the ingest lock shared.
func (s *Store) add(ctx context.Context, im *content.Image) (id string, err error) {
	id = im.Config.Digest.String()
	for _, b := range append([]content.Blob{im.Config}, im.Manifests...) {
		if err := s.addBlob(ctx, b); err != nil {
			return "", err
		}
	}
	_, config, err := s.config(nil, id)
	if errors.Is(err, fault.FailedPrecondition) { // the digest is right, so the image itself is faulty
		err = fault.Invalid.Wrap(err)
	}
	if err != nil {
		return "", err
	}
	layers, err := layerRefs(im, config)
	if err != nil {
		return "", fmt.Errorf("image %q: %w", id, err)
	}
	if config.Architecture != "" && config.Architecture != runtime.GOARCH {
		s.log.Warn("image is for another architecture", "image", id, "architecture", config.Architecture)
	}
	if err := s.fetch(ctx, im.Layers, layers); err != nil {
		return "", err
	}
	return id, s.update(ctx, func(next *index) error {
		next.Images[id] = merge(next.Images, id, im, layers)
		return nil
	})
}

func layerRefs(im *content.Image, config *v1.ConfigFile) ([]layerRef, error) {
	if config.OS != "" && config.OS != "linux" {
		return nil, fault.FailedPrecondition.Errorf("it is for %s, not for linux", config.OS)
	}
	ids, err := diffIDs(config)
	if err != nil {
		return nil, err
	}
	if len(ids) > content.MaxLayers {
		return nil, fault.Invalid.Errorf("it has %d layers, and the kernel mounts %d", len(ids), content.MaxLayers)
	}
	if len(ids) != len(im.Layers) {
		return nil, fault.Invalid.Errorf("its config lists %d layers, its manifest %d", len(ids), len(im.Layers))
	}
	refs := make([]layerRef, len(ids))
	for i, l := range im.Layers {
		refs[i] = layerRef{Blob: l.Digest, DiffID: ids[i], Size: l.Size}
	}
	return refs, nil
}

// fetch stores the blobs and unpacks each layer as soon as its blob and the layers below
// are there. A layer that is already unpacked is not fetched.
func (s *Store) fetch(ctx context.Context, blobs []content.Blob, layers []layerRef) error {
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

// merge returns the record of the image with what im adds, and removes the names of im
// from every other image.
func merge(images map[string]record, id string, im *content.Image, layers []layerRef) record {
	rec, known := images[id]
	if !known {
		rec = record{Layers: layers, Added: time.Now().UTC().Truncate(time.Second)}
	}
	for other, r := range images {
		kept := slices.DeleteFunc(slices.Clone(r.Names), func(n string) bool { return slices.Contains(im.Names, n) })
		if other != id && len(kept) < len(r.Names) {
			r.Names = kept
			images[other] = r
		}
	}
	rec.Names = union(rec.Names, im.Names)
	rec.Digests = union(rec.Digests, im.Digests)
	rec.Manifests = slices.Clone(rec.Manifests)
	for _, m := range im.Manifests {
		if !slices.Contains(rec.Manifests, m.Digest) {
			rec.Manifests = append(rec.Manifests, m.Digest)
		}
	}
	return rec
}

func union(a, b []string) []string {
	all := slices.Concat(a, b)
	slices.Sort(all)
	return slices.Compact(all)
}

// ingesting runs work with the ingest lock held shared, which keeps what work stores from
// being collected before a record refers to it. Afterwards it collects garbage: that of a
// failed attempt, and what others could not collect meanwhile.
func (s *Store) ingesting(ctx context.Context, work func() error) error {
	l, err := flock.Acquire(ctx, s.ingestLockPath(), flock.Shared)
	if err != nil {
		return err
	}
	err = work()
	l.Release()
	keep := keepPartial
	if diskRefuses(err) { // the space is needed, by others as well
		keep = 0
	}
	if unused := s.collect(keep); unused != nil { // the next one tries again
		s.log.Warn("removing what no image needs", "err", unused)
	}
	return err
}
