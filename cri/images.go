package cri

import (
	"context"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Images is the image service of a Runtime. A nil function makes its call return
// Unimplemented.
//
// Images are identified by an ImageSpec. Its Image is never empty: it is what a user
// writes ("busybox", "registry/repo:tag", "repo@sha256:...") or an image's id. Its
// RuntimeHandler is one of Runtime.Handlers; a runtime that keeps different images for
// different handlers uses it and the annotations. Without an error, no result may be
// nil or an empty id, except that of Status. Functions may be called concurrently. The
// contexts of Pull and Remove are detached from the client's, as in Runtime, so that a
// retry finds the work done.
type Images struct {
	// List returns all images. It is called at least twice a minute.
	List func(context.Context) ([]*runtimeapi.Image, error)
	// Status returns the image, or nil and no error if it is not present. It is also
	// called before a container is created: the image's Id becomes the container's
	// ImageRef.
	Status func(context.Context, *runtimeapi.ImageSpec) (*runtimeapi.Image, error)
	// Pull fetches the image and returns its id, the same value that Status reports.
	// The request's Auth is nil if the caller has no credentials, and its SandboxConfig
	// if no Pod is known. Concurrent pulls of one reference should do the work once.
	// After a crash the SDK calls nothing: the author cleans up what a pull left.
	Pull func(context.Context, *runtimeapi.PullImageRequest) (id string, err error)
	// Remove removes the image and all its names. Idempotent.
	Remove func(context.Context, *runtimeapi.ImageSpec) error
	// FsInfo reports the file system that holds the images. A kubelet does not start
	// without it. Nil UsedBytes are reported as zero.
	FsInfo func(context.Context) (*runtimeapi.FilesystemUsage, error)
	// ContainerFsInfo reports the file system that holds what containers write. Nil
	// means the one of FsInfo.
	ContainerFsInfo func(context.Context) (*runtimeapi.FilesystemUsage, error)
	// Info adds to the verbose status of an image, as the functions of
	// Runtime.Info do.
	Info func(context.Context, *runtimeapi.Image) map[string]any
}
