// Package layer has what holds for every layer (OCI image specification v1.1,
// layer.md) that is unpacked, an image's or what a container has changed: it has its
// bounds, and nothing in it may lead the lookups of an overlay that it becomes a part of.
package layer

import (
	"archive/tar"
	"io"
	"strings"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// PAXPrefix is before the names of extended attributes in a tar file's PAX records.
const PAXPrefix = "SCHILY.xattr."

// Limits bound what a layer unpacks to.
type Limits struct {
	Bytes   int64 // of all files together
	Entries int
}

// Guard looks at one layer while it is unpacked, and refuses what no honest one holds.
// It is for one goroutine.
type Guard struct{ limits, left Limits }

// NewGuard returns the guard of a layer that is not to be larger.
func NewGuard(l Limits) *Guard { return &Guard{l, l} }

// Accept is the unpacker's filter, for each header before the file is made. It counts
// the announced sizes, because a sparse file unpacks to more than the bytes that are read
// for it, and takes the attributes away that are an overlay's own. A layer over the
// limits is fault.Invalid; every other file is accepted.
func (g *Guard) Accept(h *tar.Header) (bool, error) {
	g.left.Entries--
	if g.left.Entries < 0 {
		return false, fault.Invalid.Errorf("it has more than %d files", g.limits.Entries)
	}
	if h.Size < 0 || h.Size > g.left.Bytes {
		return false, fault.Invalid.Errorf("it unpacks to more than %d bytes", g.limits.Bytes)
	}
	g.left.Bytes -= h.Size
	for key := range h.PAXRecords {
		if name, ok := strings.CutPrefix(key, PAXPrefix); ok && OfOverlay(name) {
			delete(h.PAXRecords, key)
		}
	}
	return true, nil
}

// Reader bounds the layer's stream, which is not compressed: the limit for content, and
// one KiB for each file's header. A longer one is fault.Invalid.
func (g *Guard) Reader(r io.Reader) io.Reader {
	return &bounded{r, g.limits.Bytes + int64(g.limits.Entries)<<10}
}

type bounded struct {
	r    io.Reader
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, fault.Invalid.Errorf("its stream is longer than a layer may be")
	}
	n, err := b.r.Read(p)
	b.left -= int64(n)
	return n, err
}

// OfOverlay reports whether an extended attribute is one in which an overlay keeps its
// marks (Documentation/filesystems/overlayfs.rst): with these a layer could lead lookups
// elsewhere. Those of users count where an overlay is mounted with userxattr.
func OfOverlay(name string) bool {
	return strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "user.overlay.")
}

// Elsewhere reports whether an attribute says that what the file has is not in it, but
// below another name (redirect) or in a lower layer (metacopy). Those of users say it to
// no overlay that is mounted without userxattr, and any process may set them.
func Elsewhere(name string) bool {
	return name == "trusted.overlay.redirect" || name == "trusted.overlay.metacopy"
}
