package content

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Blob is content that was announced with its digest and can be read.
type Blob struct {
	Digest v1.Hash
	Size   int64 // in bytes
	// Open starts reading from the beginning. It may be called again, even while another
	// reader is open.
	Open func() (io.ReadCloser, error)
	// Resume starts reading at an offset, for a caller that already has the beginning. If
	// that is not possible, it starts at 0; it returns where it starts. nil means that
	// reading from the beginning costs nothing worth saving.
	Resume func(from int64) (r io.ReadCloser, at int64, err error)
	// Elsewhere is called if what was read last is not the blob. It makes the next Open
	// read from another single source, and returns false if none is left. nil means that
	// there is only one source.
	Elsewhere func() bool
}

// Bytes returns a blob in memory, with its digest.
func Bytes(raw []byte) Blob {
	sum := sha256.Sum256(raw)
	return Blob{
		Digest: v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum[:])},
		Size:   int64(len(raw)),
		Open:   func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(raw)), nil },
	}
}
