package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/nodekit-project/nodekit/cri/oci/image/content"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/flock"
)

// addBlob stores b unless it is there already. Two that add the same blob at
// the same time, in whatever processes, read it once. The caller holds the
// ingest lock shared.
func (s *Store) addBlob(ctx context.Context, b content.Blob) error {
	if b.Digest.Algorithm != "sha256" {
		return fault.Invalid.Errorf("blob %q: only sha256 digests are read", b.Digest)
	}
	path := s.blobPath(b.Digest.Hex)
	if exists(path) {
		return nil
	}
	l, err := flock.Acquire(ctx, s.ingestPath(b.Digest.Hex+".lock"), flock.Exclusive)
	if err != nil {
		return err
	}
	defer l.Release()
	if exists(path) {
		return nil
	}
	part := s.ingestPath(b.Digest.Hex + ".part")
	if err := writeBlob(ctx, part, b); err != nil {
		return errors.Join(fmt.Errorf("storing blob %q: %w", b.Digest, err), ignoreNotExist(os.Remove(part)))
	}
	return commit(part, path)
}

// writeBlob writes b to path, durably, and checks that it is what its digest
// and size announce.
func writeBlob(ctx context.Context, path string, b content.Blob) error {
	r, err := b.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	sum := sha256.New()
	from := io.LimitReader(&contextReader{ctx, r}, b.Size+1)
	n, err := io.Copy(io.MultiWriter(f, sum), from)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if n != b.Size {
		return fault.Invalid.Errorf("its size is announced as %d bytes, and reading gave %d or more", b.Size, n)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != b.Digest.Hex {
		return fault.Invalid.Errorf("its content has the digest sha256:%s: it is corrupt", got)
	}
	return nil
}

// contextReader ends with the context.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
