package criclientsuite

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"sync"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri"
)

// registryHost is the registry that the suite's images would come from.
const registryHost = "registry.suite.invalid"

// imageStore holds images without content. It outlives the runtime.
type imageStore struct {
	mu     sync.Mutex
	images []*runtimeapi.Image
}

// imageID returns the id of the image that a reference names.
func imageID(ref string) string {
	sum := sha256.Sum256([]byte(ref))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// add puts an image into the store, unless it is already there.
func (s *imageStore) add(ref string, pinned bool) (id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id = imageID(ref)
	if s.find(id) == nil {
		const size = 1 << 20
		s.images = append(s.images, &runtimeapi.Image{Id: id, RepoTags: []string{ref}, Size: size, Pinned: pinned})
	}
	return id
}

// find returns an image by its id or name, or nil.
func (s *imageStore) find(name string) *runtimeapi.Image {
	for _, i := range s.images {
		if i.Id == name || slices.Contains(i.RepoTags, name) {
			return i
		}
	}
	return nil
}

func (s *imageStore) status(_ context.Context, spec *runtimeapi.ImageSpec) (*runtimeapi.Image, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.find(spec.GetImage()), nil
}

func (s *imageStore) service() *cri.Images {
	return &cri.Images{
		List: func(context.Context) ([]*runtimeapi.Image, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			return slices.Clone(s.images), nil
		},
		Status: s.status,
		Pull: func(_ context.Context, r *runtimeapi.PullImageRequest) (string, error) {
			return s.add(r.GetImage().GetImage(), false), nil
		},
		Remove: func(_ context.Context, spec *runtimeapi.ImageSpec) error {
			s.mu.Lock()
			defer s.mu.Unlock()
			gone := s.find(spec.GetImage())
			s.images = slices.DeleteFunc(s.images, func(i *runtimeapi.Image) bool { return i == gone })
			return nil
		},
		FsInfo: func(context.Context) (*runtimeapi.FilesystemUsage, error) {
			const used = 1 << 20
			return &runtimeapi.FilesystemUsage{
				Timestamp: time.Now().UnixNano(), FsId: &runtimeapi.FilesystemIdentifier{Mountpoint: "/"},
				UsedBytes: &runtimeapi.UInt64Value{Value: used}, InodesUsed: &runtimeapi.UInt64Value{Value: 1},
			}, nil
		},
	}
}
