// Package images serves the CRI's ImageService (cri-api v0.37) from the functions of a
// runtime's author. It keeps no state: the author does. A pull continues when its client
// gives up.
//
// A Server is safe for concurrent use.
package images

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri/internal/flight"
	"github.com/nodekit-project/nodekit/cri/internal/info"
	"github.com/nodekit-project/nodekit/cri/internal/state"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// Functions are what a Server serves. They are those of cri.Images, which documents them;
// a nil one is Unimplemented. Their errors are passed on unchanged: they name the image.
type Functions struct {
	List            func(context.Context) ([]*runtimeapi.Image, error)
	Status          func(context.Context, *runtimeapi.ImageSpec) (*runtimeapi.Image, error)
	Pull            func(context.Context, *runtimeapi.PullImageRequest) (id string, err error)
	Remove          func(context.Context, *runtimeapi.ImageSpec) error
	FsInfo          func(context.Context) (*runtimeapi.FilesystemUsage, error)
	ContainerFsInfo func(context.Context) (*runtimeapi.FilesystemUsage, error)
	Info            func(context.Context, *runtimeapi.Image) map[string]any
}

// Server is the ImageService. NewServer creates it.
type Server struct {
	runtimeapi.UnimplementedImageServiceServer

	functions Functions
	handlers  func(name string) error
	calls     *flight.Group
	log       *slog.Logger
}

// NewServer returns a server whose pulls run in calls. handlers returns an error for a
// runtime handler that the runtime does not have.
func NewServer(f Functions, handlers func(name string) error, calls *flight.Group, log *slog.Logger) *Server {
	return &Server{functions: f, handlers: handlers, calls: calls, log: log}
}

// ListImages lists all images, or the one that the filter names.
func (s *Server) ListImages(ctx context.Context, req *runtimeapi.ListImagesRequest) (*runtimeapi.ListImagesResponse, error) {
	images, err := s.list(ctx, req.GetFilter())
	if err != nil {
		return nil, err
	}
	return &runtimeapi.ListImagesResponse{Images: images}, nil
}

// StreamImages sends the result of ListImages in pieces.
func (s *Server) StreamImages(req *runtimeapi.StreamImagesRequest, stream grpc.ServerStreamingServer[runtimeapi.StreamImagesResponse]) error {
	images, err := s.list(stream.Context(), req.GetFilter())
	if err != nil {
		return err
	}
	return state.InChunks(images, func(part []*runtimeapi.Image) error {
		return stream.Send(&runtimeapi.StreamImagesResponse{Images: part})
	})
}

func (s *Server) list(ctx context.Context, f *runtimeapi.ImageFilter) (images []*runtimeapi.Image, err error) {
	if s.functions.List == nil {
		return nil, unsupported("ListImages")
	}
	if f.GetImage().GetImage() == "" {
		err = flight.Guard(s.log, "Images.List", func() (err error) {
			images, err = s.functions.List(ctx)
			return err
		})
		if err == nil && slices.Contains(images, nil) {
			return nil, fault.Internal.Errorf("Images.List returned an image that is nil")
		}
		return images, err
	}
	image, err := s.status(ctx, f.GetImage())
	if err != nil || image == nil {
		return nil, err
	}
	return []*runtimeapi.Image{image}, nil
}

// ImageStatus answers an absent image with an empty response.
func (s *Server) ImageStatus(ctx context.Context, req *runtimeapi.ImageStatusRequest) (*runtimeapi.ImageStatusResponse, error) {
	if s.functions.Status == nil {
		return nil, unsupported("ImageStatus")
	}
	if err := s.refuse(req.GetImage()); err != nil {
		return nil, err
	}
	image, err := s.status(ctx, req.GetImage())
	if err != nil {
		return nil, err
	}
	resp := &runtimeapi.ImageStatusResponse{Image: image}
	if req.GetVerbose() && image != nil {
		var ask func() map[string]any
		if s.functions.Info != nil {
			ask = func() map[string]any { return s.functions.Info(ctx, image) }
		}
		resp.Info = info.Of(s.log, nil, "Images.Info", ask)
	}
	return resp, nil
}

func (s *Server) status(ctx context.Context, spec *runtimeapi.ImageSpec) (*runtimeapi.Image, error) {
	if s.functions.Status == nil {
		return nil, unsupported("ImageStatus")
	}
	var image *runtimeapi.Image
	err := flight.Guard(s.log, "Images.Status", func() (err error) {
		image, err = s.functions.Status(ctx, spec)
		return err
	})
	if errors.Is(err, fault.NotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return image, nil
}

// Resolve returns the id of an image that is present, in the form that containers report,
// or fault.NotFound. Without a Status function, the reference is the id.
func (s *Server) Resolve(ctx context.Context, spec *runtimeapi.ImageSpec) (id string, err error) {
	if s.functions.Status == nil {
		return spec.GetImage(), nil
	}
	image, err := s.status(ctx, spec)
	switch {
	case err != nil:
		return "", err
	case image == nil:
		return "", fault.NotFound.Errorf("image %q: not present, pull it first", spec.GetImage())
	case image.GetId() == "":
		return "", fault.Internal.Errorf("Images.Status returned image %q without its id", spec.GetImage())
	}
	return image.GetId(), nil
}

// PullImage pulls independently of the client: a caller that gives up and tries again
// finds the work done, or joins it (Functions.Pull).
func (s *Server) PullImage(ctx context.Context, req *runtimeapi.PullImageRequest) (*runtimeapi.PullImageResponse, error) {
	if s.functions.Pull == nil {
		return nil, unsupported("PullImage")
	}
	if err := s.refuse(req.GetImage()); err != nil {
		return nil, err
	}
	id := make(chan string, 1)
	err := s.calls.Do(ctx, func(ctx context.Context) error {
		start := time.Now()
		var pulled string
		err := flight.Guard(s.log, "Images.Pull", func() (err error) {
			pulled, err = s.functions.Pull(ctx, req)
			if err == nil && pulled == "" {
				err = fault.Internal.Errorf("Images.Pull returned neither an id nor an error")
			}
			return err
		})
		s.log.InfoContext(ctx, "image pulled", "image", req.GetImage().GetImage(), "id", pulled, "dur", time.Since(start), "err", err)
		id <- pulled
		return err
	})
	if err != nil {
		return nil, err
	}
	return &runtimeapi.PullImageResponse{ImageRef: <-id}, nil
}

// RemoveImage succeeds for an absent image.
func (s *Server) RemoveImage(ctx context.Context, req *runtimeapi.RemoveImageRequest) (*runtimeapi.RemoveImageResponse, error) {
	if s.functions.Remove == nil {
		return nil, unsupported("RemoveImage")
	}
	if err := s.refuse(req.GetImage()); err != nil {
		return nil, err
	}
	err := s.calls.Do(ctx, func(ctx context.Context) error {
		return flight.Guard(s.log, "Images.Remove", func() error { return s.functions.Remove(ctx, req.GetImage()) })
	})
	if err != nil && !errors.Is(err, fault.NotFound) {
		return nil, err
	}
	return &runtimeapi.RemoveImageResponse{}, nil
}

// ImageFsInfo reports the file systems of images and of containers, which are the same
// unless the author says otherwise.
func (s *Server) ImageFsInfo(ctx context.Context, _ *runtimeapi.ImageFsInfoRequest) (*runtimeapi.ImageFsInfoResponse, error) {
	if s.functions.FsInfo == nil {
		return nil, unsupported("ImageFsInfo")
	}
	usage, err := s.usage(ctx, "Images.FsInfo", s.functions.FsInfo)
	if err != nil {
		return nil, fmt.Errorf("image file system: %w", err)
	}
	images := []*runtimeapi.FilesystemUsage{usage}
	resp := &runtimeapi.ImageFsInfoResponse{ImageFilesystems: images, ContainerFilesystems: images}
	if s.functions.ContainerFsInfo != nil {
		usage, err := s.usage(ctx, "Images.ContainerFsInfo", s.functions.ContainerFsInfo)
		if err != nil {
			return nil, fmt.Errorf("container file system: %w", err)
		}
		resp.ContainerFilesystems = []*runtimeapi.FilesystemUsage{usage}
	}
	return resp, nil
}

func (s *Server) usage(
	ctx context.Context, name string, ask func(context.Context) (*runtimeapi.FilesystemUsage, error),
) (usage *runtimeapi.FilesystemUsage, err error) {
	err = flight.Guard(s.log, name, func() (err error) {
		usage, err = ask(ctx)
		if err == nil && usage == nil {
			err = fault.Internal.Errorf("%s returned neither a usage nor an error", name)
		}
		return err
	})
	if err == nil && usage.GetUsedBytes() == nil {
		usage = proto.CloneOf(usage)
		usage.UsedBytes = &runtimeapi.UInt64Value{} // a kubelet requires it, and would crash
	}
	return usage, err
}

// refuse does the checks that an author need not do.
func (s *Server) refuse(spec *runtimeapi.ImageSpec) error {
	if spec.GetImage() == "" {
		return fault.Invalid.Errorf("the request has no image")
	}
	return s.handlers(spec.GetRuntimeHandler())
}

func unsupported(what string) error {
	return fault.Unimplemented.Errorf("%s: this runtime does not support it", what)
}
