package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// blob is content that was announced with its digest and can be read.
type blob struct {
	digest v1.Hash
	size   int64 // in bytes, -1 when it is not known
	open   func() (io.ReadCloser, error)
}

// bytesBlob is a blob in memory; its digest is computed.
func bytesBlob(content []byte) blob {
	sum := sha256.Sum256(content)
	return blob{
		digest: v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum[:])},
		size:   int64(len(content)),
		open:   func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil },
	}
}

// addBlob stores b unless it is there already. Two that add the same blob at
// the same time, in whatever processes, read it once. The caller holds the
// ingest lock shared.
func (s *Store) addBlob(ctx context.Context, b blob) error {
	if b.digest.Algorithm != "sha256" {
		return fault.Invalid.Errorf("blob %q: only sha256 digests are read", b.digest)
	}
	path := s.blobPath(b.digest.Hex)
	if exists(path) {
		return nil
	}
	l, err := acquire(ctx, s.ingestPath(b.digest.Hex+".lock"), unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer l.release()
	if exists(path) {
		return nil
	}
	part := s.ingestPath(b.digest.Hex + ".part")
	if err := writeBlob(ctx, part, b); err != nil {
		return errors.Join(fmt.Errorf("storing blob %q: %w", b.digest, err), ignoreNotExist(os.Remove(part)))
	}
	return commit(part, path)
}

// writeBlob writes b to path, durably, and checks that it is what its digest
// and size announce.
func writeBlob(ctx context.Context, path string, b blob) error {
	r, err := b.open()
	if err != nil {
		return err
	}
	defer r.Close()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	sum := sha256.New()
	var from io.Reader = &contextReader{ctx, r}
	if b.size >= 0 {
		from = io.LimitReader(from, b.size+1)
	}
	n, err := io.Copy(io.MultiWriter(f, sum), from)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if b.size >= 0 && n != b.size {
		return fault.Invalid.Errorf("its size is announced as %d bytes, and reading gave %d or more", b.size, n)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != b.digest.Hex {
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
