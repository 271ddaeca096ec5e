package image

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri"
)

// CRI returns the store as the image service of a cri.Runtime.
func (s *Store) CRI() *cri.Images {
	return &cri.Images{
		List: s.list,
		Status: func(ctx context.Context, spec *runtimeapi.ImageSpec) (*runtimeapi.Image, error) {
			return s.Status(ctx, spec.GetImage())
		},
		Pull: func(ctx context.Context, req *runtimeapi.PullImageRequest) (string, error) {
			return s.pullCRI(ctx, req.GetImage().GetImage(), req.GetAuth())
		},
		Remove: func(ctx context.Context, spec *runtimeapi.ImageSpec) error { return s.Remove(ctx, spec.GetImage()) },
		FsInfo: s.FsInfo, ContainerFsInfo: s.ContainerFsInfo,
	}
}

func (s *Store) list(context.Context) ([]*runtimeapi.Image, error) { return s.List() }

// List returns every image, ordered by ID. It does not read from disk unless the index
// has changed.
func (s *Store) List() ([]*runtimeapi.Image, error) {
	snap, err := s.read()
	if err != nil {
		return nil, err
	}
	all := make([]*runtimeapi.Image, 0, len(snap.images))
	for _, id := range slices.Sorted(maps.Keys(snap.images)) {
		all = append(all, snap.describe(id))
	}
	return all, nil
}

// Status returns the image that ref, an ID or any reference, refers to, or nil without an
// error if the store has none. It does not read from disk unless the index has changed.
func (s *Store) Status(_ context.Context, ref string) (*runtimeapi.Image, error) {
	snap, err := s.read()
	if err != nil {
		return nil, err
	}
	id, err := snap.find(ref)
	if err != nil || id == "" {
		return nil, err
	}
	return snap.describe(id), nil
}

func (sn *snapshot) describe(id string) *runtimeapi.Image {
	rec := sn.images[id]
	im := &runtimeapi.Image{
		Id:          id,
		RepoTags:    slices.Clone(rec.Names),
		RepoDigests: slices.Clone(rec.Digests),
		Size:        uint64(sn.sizes[id]),
		Spec:        &runtimeapi.ImageSpec{Image: id},
		Pinned:      sn.isPinned(id),
	}
	user, _, _ := strings.Cut(sn.configs[id].Config.User, ":")
	if uid, err := strconv.ParseInt(user, 10, 64); err == nil {
		im.Uid = &runtimeapi.Int64Value{Value: uid}
	} else {
		im.Username = user
	}
	return im
}

// Remove removes the image that ref refers to, with all its names. Containers made from
// it keep running; its layers are removed when the last of them is released. It is not an
// error if the image does not exist.
func (s *Store) Remove(ctx context.Context, ref string) error {
	removed := false
	err := s.update(ctx, func(next *index) error {
		id, err := (&snapshot{images: next.Images}).find(ref)
		if err != nil || id == "" {
			return err
		}
		delete(next.Images, id)
		removed = true
		return nil
	})
	if err != nil {
		return fmt.Errorf("removing image %q: %w", ref, s.explainDisk(err))
	}
	if !removed {
		return nil
	}
	err = s.collect(keepUnderPressure)
	s.fillReserve()
	return err
}
