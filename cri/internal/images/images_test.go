package images_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri/internal/flight"
	"github.com/nodekit-project/nodekit/cri/internal/images"
	"github.com/nodekit-project/nodekit/internal/fault"
)

func serve(t *testing.T, f images.Functions) (*images.Server, *flight.Group) {
	calls := flight.NewGroup(t.Context())
	return images.NewServer(f, func(string) error { return nil }, calls, slog.New(slog.DiscardHandler)), calls
}

func spec(ref string) *runtimeapi.ImageSpec { return &runtimeapi.ImageSpec{Image: ref} }

func TestAbsentImages(t *testing.T) {
	absent := map[string]error{"nil": nil, "kind": fault.NotFound.Errorf("no such image")}
	for name, answer := range absent {
		s, _ := serve(t, images.Functions{
			List:   func(context.Context) ([]*runtimeapi.Image, error) { return []*runtimeapi.Image{{Id: "other"}}, nil },
			Status: func(context.Context, *runtimeapi.ImageSpec) (*runtimeapi.Image, error) { return nil, answer },
			Remove: func(context.Context, *runtimeapi.ImageSpec) error { return answer },
		})
		status, err := s.ImageStatus(t.Context(), &runtimeapi.ImageStatusRequest{Image: spec("x")})
		if err != nil || status.Image != nil {
			t.Errorf("%s: status %v, %v", name, status, err)
		}
		if _, err := s.RemoveImage(t.Context(), &runtimeapi.RemoveImageRequest{Image: spec("x")}); err != nil {
			t.Errorf("%s: remove: %v", name, err)
		}
		list, err := s.ListImages(t.Context(), &runtimeapi.ListImagesRequest{Filter: &runtimeapi.ImageFilter{Image: spec("x")}})
		if err != nil || len(list.Images) > 0 {
			t.Errorf("%s: filtered list %v, %v", name, list, err)
		}
		if _, err := s.Resolve(t.Context(), spec("x")); !errors.Is(err, fault.NotFound) {
			t.Errorf("%s: resolve: %v", name, err)
		}
	}
}

// A pull goes on without its client, and one that panics does not end the
// server. The author's error is passed on as it is.
func TestPull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		finished := false
		s, calls := serve(t, images.Functions{Pull: func(ctx context.Context, req *runtimeapi.PullImageRequest) (string, error) {
			switch ref := req.Image.Image; ref {
			case "slow":
				time.Sleep(time.Hour)
				finished = ctx.Err() == nil
			case "bad":
				return "", fault.Unavailable.Errorf("pulling image %q: no route", ref)
			case "bug":
				panic("a bug")
			}
			return "id", nil
		}})
		pull := func(ctx context.Context, ref string) (string, error) {
			resp, err := s.PullImage(ctx, &runtimeapi.PullImageRequest{Image: spec(ref)})
			return resp.GetImageRef(), err
		}
		if id, err := pull(t.Context(), "good"); id != "id" || err != nil {
			t.Errorf("got %q, %v", id, err)
		}
		if _, err := pull(t.Context(), "bad"); !errors.Is(err, fault.Unavailable) || err.Error() != `pulling image "bad": no route` {
			t.Errorf("got %v", err)
		}
		if _, err := pull(t.Context(), "bug"); err == nil {
			t.Error("a panic was a success")
		}
		if _, err := pull(t.Context(), ""); !errors.Is(err, fault.Invalid) {
			t.Errorf("no image: %v", err)
		}
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := pull(short, "slow"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("given up: %v", err)
		}
		calls.Close()
		if !finished {
			t.Error("the pull ended with its client")
		}
	})
}

// What an author forgot to fill in is an error that names the function, and not an answer
// that its client stumbles over.
func TestNothingIsNoAnswer(t *testing.T) {
	usage := func(context.Context) (*runtimeapi.FilesystemUsage, error) { return nil, nil }
	s, _ := serve(t, images.Functions{
		List: func(context.Context) ([]*runtimeapi.Image, error) { return []*runtimeapi.Image{{Id: "x"}, nil}, nil },
		Status: func(context.Context, *runtimeapi.ImageSpec) (*runtimeapi.Image, error) {
			return &runtimeapi.Image{}, nil
		},
		Pull:   func(context.Context, *runtimeapi.PullImageRequest) (string, error) { return "", nil },
		FsInfo: usage,
	})
	containers, _ := serve(t, images.Functions{
		FsInfo: func(context.Context) (*runtimeapi.FilesystemUsage, error) {
			return &runtimeapi.FilesystemUsage{}, nil
		},
		ContainerFsInfo: usage,
	})
	_, list := s.ListImages(t.Context(), nil)
	_, resolve := s.Resolve(t.Context(), spec("x"))
	_, pull := s.PullImage(t.Context(), &runtimeapi.PullImageRequest{Image: spec("x")})
	_, info := s.ImageFsInfo(t.Context(), nil)
	_, containerInfo := containers.ImageFsInfo(t.Context(), nil)
	for name, err := range map[string]error{
		"Images.List": list, "Images.Status": resolve, "Images.Pull": pull, "Images.FsInfo": info, "Images.ContainerFsInfo": containerInfo,
	} {
		if !errors.Is(err, fault.Internal) || !strings.Contains(err.Error(), name+" returned") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestUsageWithoutBytes: a kubelet ends where they are nil.
func TestUsageWithoutBytes(t *testing.T) {
	theirs := &runtimeapi.FilesystemUsage{Timestamp: 7}
	usage := func(context.Context) (*runtimeapi.FilesystemUsage, error) { return theirs, nil }
	s, _ := serve(t, images.Functions{FsInfo: usage, ContainerFsInfo: usage})
	resp, err := s.ImageFsInfo(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, got := range append(resp.ImageFilesystems, resp.ContainerFilesystems...) {
		if got.UsedBytes == nil || got.Timestamp != 7 || theirs.UsedBytes != nil {
			t.Errorf("%v of %v", got, theirs)
		}
	}
}

// Resolve is called on a goroutine of the server's own.
func TestResolveOutlivesAPanic(t *testing.T) {
	s, _ := serve(t, images.Functions{Status: func(context.Context, *runtimeapi.ImageSpec) (*runtimeapi.Image, error) { panic("a bug") }})
	if _, err := s.Resolve(t.Context(), spec("x")); err == nil {
		t.Error("a panic was a success")
	}
}

func TestUnsupported(t *testing.T) {
	s, _ := serve(t, images.Functions{})
	_, list := s.ListImages(t.Context(), nil)
	_, status := s.ImageStatus(t.Context(), &runtimeapi.ImageStatusRequest{Image: spec("x")})
	_, pull := s.PullImage(t.Context(), nil)
	_, remove := s.RemoveImage(t.Context(), nil)
	_, info := s.ImageFsInfo(t.Context(), nil)
	for _, err := range []error{list, status, pull, remove, info} {
		if !errors.Is(err, fault.Unimplemented) {
			t.Errorf("got %v", err)
		}
	}
	if id, err := s.Resolve(t.Context(), spec("x")); id != "x" || err != nil {
		t.Errorf("resolve: %q, %v", id, err)
	}
}
