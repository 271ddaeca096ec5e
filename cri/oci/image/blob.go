package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"

	"github.com/nodekit-project/nodekit/cri/oci/image/content"
	"github.com/nodekit-project/nodekit/internal/ctxio"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/flock"
)

// addBlob stores b unless it is there already. Concurrent calls for the same blob, in any
// process, read it once. The caller holds the ingest lock shared.
//
// If a blob can be resumed, what has been read of it is kept when reading ends early, by
// an error or by the death of this process, and the next call continues there.
func (s *Store) addBlob(ctx context.Context, b content.Blob) error {
	if b.Digest.Algorithm != "sha256" {
		return fault.Invalid.Errorf("blob %q: only sha256 digests are read", b.Digest)
	}
	if b.Size < 0 || b.Size > s.limits.Bytes {
		return fault.Invalid.Errorf("blob %q is announced with %d bytes, and a layer may have %d", b.Digest, b.Size, s.limits.Bytes)
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
	if b.Resume != nil {
		part = s.partialPath(b.Digest.Hex)
	}
	if err := writeBlob(ctx, part, b); err != nil {
		if b.Resume == nil || errors.Is(err, fault.Invalid) || diskRefuses(err) || isEmpty(part) {
			err = errors.Join(err, ignoreNotExist(os.Remove(part)))
		}
		return fmt.Errorf("storing blob %q: %w", b.Digest, err)
	}
	return commit(part, path)
}

func isEmpty(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.Size() == 0
}

// writeBlob writes b to path durably and verifies its digest and size. If b can be
// resumed, it continues where an earlier call ended.
func writeBlob(ctx context.Context, path string, b content.Blob) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	err = resumeBlob(ctx, f, b)
	if errors.Is(err, errNotIts) { // the blob may still be right
		err = wholeBlob(ctx, f, b)
	}
	if errors.Is(err, fault.Invalid) && b.Elsewhere != nil {
		err = blobFromElsewhere(ctx, f, b, err)
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// blobFromElsewhere tries one source after the other, because the content from the first
// was wrong.
func blobFromElsewhere(ctx context.Context, f *os.File, b content.Blob, wrong error) error {
	for ctx.Err() == nil && b.Elsewhere() {
		err := wholeBlob(ctx, f, b)
		if err == nil || diskRefuses(err) {
			return err
		}
		wrong = fmt.Errorf("%w; elsewhere, %w", wrong, err)
	}
	return errors.Join(ctx.Err(), wrong)
}

// errNotIts is the error of a blob that was resumed and is not right as a whole: perhaps
// what an earlier call left was not its beginning, as can happen after a power loss.
var errNotIts = errors.New("what was there is not its beginning")

func resumeBlob(ctx context.Context, f *os.File, b content.Blob) error {
	sum := sha256.New()
	have, err := io.Copy(sum, io.LimitReader(f, b.Size+1))
	switch {
	case err != nil:
		return err
	case have == 0 || have > b.Size || b.Resume == nil:
		return wholeBlob(ctx, f, b)
	case have == b.Size && check(b, have, sum) != nil:
		return errNotIts
	case have == b.Size:
		return nil
	}
	r, at, err := b.Resume(have)
	if err != nil {
		return err
	}
	defer r.Close()
	if at != have {
		return readBlob(ctx, f, r, b)
	}
	n, err := io.Copy(io.MultiWriter(f, sum), io.LimitReader(ctxio.Reader(ctx, r), b.Size-have+1))
	if err != nil {
		return err
	}
	if check(b, have+n, sum) != nil {
		return errNotIts
	}
	return nil
}

func wholeBlob(ctx context.Context, f *os.File, b content.Blob) error {
	r, err := b.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	return readBlob(ctx, f, r, b)
}

// readBlob fills f with b, read from the beginning from r.
func readBlob(ctx context.Context, f *os.File, r io.Reader, b content.Blob) error {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if err := f.Truncate(0); err != nil {
		return err
	}
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, sum), io.LimitReader(ctxio.Reader(ctx, r), b.Size+1))
	if err != nil {
		return err
	}
	return check(b, n, sum)
}

// check compares n bytes with the hash sum with what b announces.
func check(b content.Blob, n int64, sum hash.Hash) error {
	if n != b.Size {
		return fault.Invalid.Errorf("its size is announced as %d bytes, and reading gave %d or more", b.Size, n)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != b.Digest.Hex {
		return fault.Invalid.Errorf("its content has the digest sha256:%s: it is corrupt", got)
	}
	return nil
}
