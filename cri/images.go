package cri

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// imageServer is the ImageService. It keeps nothing: the author's Images do.
type imageServer struct {
	runtimeapi.UnimplementedImageServiceServer

	rt    *Runtime
	log   *slog.Logger
	base  context.Context
	calls *sync.WaitGroup
}

// ListImages lists all images, or the one that the filter names.
func (i *imageServer) ListImages(ctx context.Context, req *runtimeapi.ListImagesRequest) (*runtimeapi.ListImagesResponse, error) {
	images, err := i.list(ctx, req.GetFilter())
	if err != nil {
		return nil, err
	}
	return &runtimeapi.ListImagesResponse{Images: images}, nil
}

// StreamImages sends what ListImages answers, in pieces.
func (i *imageServer) StreamImages(req *runtimeapi.StreamImagesRequest, stream grpc.ServerStreamingServer[runtimeapi.StreamImagesResponse]) error {
	images, err := i.list(stream.Context(), req.GetFilter())
	if err != nil {
		return err
	}
	return inChunks(images, func(part []*runtimeapi.Image) error {
		return stream.Send(&runtimeapi.StreamImagesResponse{Images: part})
	})
}

func (i *imageServer) list(ctx context.Context, f *runtimeapi.ImageFilter) ([]*runtimeapi.Image, error) {
	if i.rt.Images == nil || i.rt.Images.List == nil {
		return nil, unimplemented("ListImages")
	}
	ref := f.GetImage().GetImage()
	if ref == "" {
		return i.rt.Images.List(ctx)
	}
	image, err := i.status(ctx, ref)
	if err != nil || image == nil {
		return nil, err
	}
	return []*runtimeapi.Image{image}, nil
}

// ImageStatus answers an absent image with an empty response.
func (i *imageServer) ImageStatus(ctx context.Context, req *runtimeapi.ImageStatusRequest) (*runtimeapi.ImageStatusResponse, error) {
	if req.GetImage().GetImage() == "" {
		return nil, ErrInvalid.Errorf("the request has no image")
	}
	image, err := i.status(ctx, req.GetImage().GetImage())
	if err != nil {
		return nil, err
	}
	return &runtimeapi.ImageStatusResponse{Image: image}, nil
}

func (i *imageServer) status(ctx context.Context, ref string) (*runtimeapi.Image, error) {
	if i.rt.Images == nil || i.rt.Images.Status == nil {
		return nil, unimplemented("ImageStatus")
	}
	image, err := i.rt.Images.Status(ctx, ref)
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("status of image %q: %w", ref, err)
	}
	return image, nil
}

// PullImage pulls detached from the client: a caller that gives up and tries
// again finds the work done, or joins it (Images.Pull).
func (i *imageServer) PullImage(ctx context.Context, req *runtimeapi.PullImageRequest) (*runtimeapi.PullImageResponse, error) {
	if i.rt.Images == nil || i.rt.Images.Pull == nil {
		return nil, unimplemented("PullImage")
	}
	ref := req.GetImage().GetImage()
	if ref == "" {
		return nil, ErrInvalid.Errorf("the request has no image")
	}
	type result struct {
		id  string
		err error
	}
	done := make(chan result, 1)
	i.calls.Go(func() {
		start := time.Now()
		id, err := i.rt.Images.Pull(i.base, ref, req.GetAuth())
		i.log.InfoContext(i.base, "image pulled", "image", ref, "id", id, "dur", time.Since(start), "err", err)
		done <- result{id, err}
	})
	select {
	case r := <-done:
		if r.err != nil {
			return nil, fmt.Errorf("pulling image %q: %w", ref, r.err)
		}
		return &runtimeapi.PullImageResponse{ImageRef: r.id}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// RemoveImage succeeds for an absent image.
func (i *imageServer) RemoveImage(ctx context.Context, req *runtimeapi.RemoveImageRequest) (*runtimeapi.RemoveImageResponse, error) {
	if i.rt.Images == nil || i.rt.Images.Remove == nil {
		return nil, unimplemented("RemoveImage")
	}
	ref := req.GetImage().GetImage()
	if ref == "" {
		return nil, ErrInvalid.Errorf("the request has no image")
	}
	if err := i.rt.Images.Remove(context.WithoutCancel(ctx), ref); err != nil && !errors.Is(err, ErrNotFound) {
		return nil, fmt.Errorf("removing image %q: %w", ref, err)
	}
	return &runtimeapi.RemoveImageResponse{}, nil
}

// ImageFsInfo reports one file system for images and containers alike.
func (i *imageServer) ImageFsInfo(ctx context.Context, _ *runtimeapi.ImageFsInfoRequest) (*runtimeapi.ImageFsInfoResponse, error) {
	if i.rt.Images == nil || i.rt.Images.FsInfo == nil {
		return nil, unimplemented("ImageFsInfo")
	}
	usage, err := i.rt.Images.FsInfo(ctx)
	if err != nil {
		return nil, fmt.Errorf("image file system: %w", err)
	}
	both := []*runtimeapi.FilesystemUsage{usage}
	return &runtimeapi.ImageFsInfoResponse{ImageFilesystems: both, ContainerFilesystems: both}, nil
}
