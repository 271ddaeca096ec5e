package changeset

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/containerd/v2/pkg/archive"

	"github.com/nodekit-project/nodekit/cri/oci/layer"
	"github.com/nodekit-project/nodekit/internal/ctxio"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// Apply unpacks what Write wrote over root, a directory or a mounted root file system,
// and takes away there what was gone. What is unpacked lies inside root, wherever
// links in it or in the file point. A file that is over the limits, or that is damaged,
// is fault.Invalid; then a part of it is there.
//
// Nothing may run in root meanwhile.
func Apply(ctx context.Context, r io.Reader, root string, l layer.Limits) error {
	g := layer.NewGuard(l)
	_, err := archive.Apply(ctx, root, g.Reader(ctxio.Reader(ctx, r)), archive.WithFilter(g.Accept))
	if errors.Is(err, tar.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fault.Invalid.Errorf("unpacking: %w", err)
	}
	if err != nil {
		return fmt.Errorf("unpacking: %w", err)
	}
	return nil
}
