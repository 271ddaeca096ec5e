// Package decompress reads streams whose compression is not declared. Functions are
// safe for concurrent use on different readers.
package decompress

import (
	"bufio"
	"bytes"
	"errors"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// maxWindow is the largest window of a zstd stream, which the reader keeps in memory:
// what zstd(1) accepts by default, and writes at its highest level.
const maxWindow = 128 << 20

// Reader recognises gzip and zstd by their first bytes and returns the decompressed
// stream. Anything else is returned unchanged.
func Reader(r io.Reader) (io.ReadCloser, error) {
	buffered := bufio.NewReaderSize(r, 1<<16)
	magic, err := buffered.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch Kind(magic) {
	case "gzip":
		return gzip.NewReader(buffered)
	case "zstd":
		d, err := zstd.NewReader(buffered, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	}
	return io.NopCloser(buffered), nil
}

// Kind returns the compression of a stream that begins with magic: "gzip", "zstd", or
// "" for none. It looks at four bytes.
func Kind(magic []byte) string {
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		return "gzip"
	case bytes.HasPrefix(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return "zstd"
	case len(magic) >= 4 && magic[0]&0xf0 == 0x50 && bytes.Equal(magic[1:4], []byte{0x2a, 0x4d, 0x18}):
		return "zstd" // a skippable frame first, as pzstd(1) writes (RFC 8878, 3.1.2)
	}
	return ""
}

// unread has the first bytes of other compressions of layers and archives.
var unread = []struct{ name, magic string }{
	{"xz", "\xfd7zXZ\x00"}, {"bzip2", "BZh"}, {"lz4", "\x04\x22\x4d\x18"}, {"lzip", "LZIP"}, {"zip", "PK\x03\x04"},
}

// Unread returns the compression of a stream that begins with magic if Reader does
// not support it, and "" otherwise. It is for errors: a tar file may also begin with
// any of these bytes.
func Unread(magic []byte) string {
	for _, u := range unread {
		if bytes.HasPrefix(magic, []byte(u.magic)) {
			return u.name
		}
	}
	return ""
}
