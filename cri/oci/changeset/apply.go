package changeset

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/containerd/containerd/v2/pkg/archive"

	"github.com/nodekit-project/nodekit/internal/ctxio"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// Limits bound what Apply unpacks.
type Limits struct {
	Bytes   int64 // of all files together
	Entries int
}

// Apply unpacks what Write wrote over root, a directory or a mounted root file system,
// and takes away there what was gone. What is unpacked lies inside root, wherever
// links in it or in the file point. A file that is over the limits, or that is damaged,
// is fault.Invalid; then a part of it is there.
//
// Nothing may run in root meanwhile.
func Apply(ctx context.Context, r io.Reader, root string, l Limits) error {
	g := &bounds{left: l}
	// A sparse file unpacks to more than is read of it, and a header is read for
	// each: both are bounded.
	from := &stream{r: ctxio.Reader(ctx, r), left: l.Bytes + int64(l.Entries)<<10}
	_, err := archive.Apply(ctx, root, from, archive.WithFilter(g.accept))
	if errors.Is(err, tar.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fault.Invalid.Errorf("unpacking: %w", err)
	}
	if err != nil {
		return fmt.Errorf("unpacking: %w", err)
	}
	return nil
}

// bounds refuses what no container has written.
type bounds struct{ left Limits }

func (b *bounds) accept(h *tar.Header) (bool, error) {
	b.left.Entries--
	if b.left.Entries < 0 {
		return false, fault.Invalid.Errorf("there are more files than may be")
	}
	if h.Size < 0 || h.Size > b.left.Bytes {
		return false, fault.Invalid.Errorf("the files are larger than may be")
	}
	b.left.Bytes -= h.Size
	for key := range h.PAXRecords {
		// With these a lookup in the overlay could be led elsewhere.
		if strings.HasPrefix(key, paxPrefix+"trusted.") || strings.HasPrefix(key, paxPrefix+"user.overlay.") {
			delete(h.PAXRecords, key)
		}
	}
	return true, nil
}

// stream is a reader of so many bytes.
type stream struct {
	r    io.Reader
	left int64
}

func (s *stream) Read(p []byte) (int, error) {
	if s.left <= 0 {
		return 0, fault.Invalid.Errorf("it is longer than its files may be")
	}
	n, err := s.r.Read(p)
	s.left -= int64(n)
	return n, err
}
