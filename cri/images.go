package cri

import (
	"context"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Images is the image service of a Runtime. A function left nil answers
// Unimplemented.
//
// An image is asked for by an ImageSpec. Its Image is never empty: what a user
// writes ("busybox", "registry/repo:tag", "repo@sha256:..."), or an image's id.
// Its RuntimeHandler is one of Runtime.Handlers; a runtime that keeps other
// images for other handlers goes by it, and by the annotations. A result is never
// nil or an empty id where there is no error, but for Status. Functions may be
// called at the same time. The contexts of Pull and Remove are detached from the
// client's like those of the Runtime, so that a retry finds the work done.
type Images struct {
	// List returns every image. It is called twice a minute and more often.
	List func(context.Context) ([]*runtimeapi.Image, error)
	// Status returns the image, or nil and no error when it is not present. It
	// is called before a container is created, too: the image's Id becomes the
	// container's ImageRef.
	Status func(context.Context, *runtimeapi.ImageSpec) (*runtimeapi.Image, error)
	// Pull fetches the image and returns its id, the same value that Status
	// reports. The request's Auth is nil when the caller has no credentials,
	// and its SandboxConfig when no Pod is known. Concurrent pulls of one
	// reference should do the work once. After a crash nothing is called: the
	// author clears what a pull left.
	Pull func(context.Context, *runtimeapi.PullImageRequest) (id string, err error)
	// Remove removes the image with all its names. Idempotent.
	Remove func(context.Context, *runtimeapi.ImageSpec) error
	// FsInfo reports the file system that holds the images. A kubelet does not
	// start without. UsedBytes that are nil are told as zero.
	FsInfo func(context.Context) (*runtimeapi.FilesystemUsage, error)
	// ContainerFsInfo reports the file system that holds what containers write.
	// nil means that it is that of FsInfo.
	ContainerFsInfo func(context.Context) (*runtimeapi.FilesystemUsage, error)
	// Info adds to the verbose status of an image, as the functions of
	// Runtime.Info do.
	Info func(context.Context, *runtimeapi.Image) map[string]any
}
