package image

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/nodekit-project/nodekit/cri/oci/layer"
	"github.com/nodekit-project/nodekit/internal/ctxio"
	"github.com/nodekit-project/nodekit/internal/decompress"
	"github.com/nodekit-project/nodekit/internal/fault"
)

const layerVersion = 1

// layerInfo is the content of layer.json: the disk usage of the layer.
type layerInfo struct {
	Version int    `json:"version"`
	Bytes   uint64 `json:"bytes"` // allocated, not apparent
	Inodes  uint64 `json:"inodes"`
}

// chainIDs names each layer by its content and that of all layers below (OCI image spec
// v1.1 config.md, "Layer ChainID"). Unpacking depends on the layers below, because a
// directory that a layer only implies has their attributes.
func chainIDs(layers []layerRef) []string {
	ids := make([]string, len(layers))
	for i, l := range layers {
		if i == 0 {
			ids[i] = l.DiffID.Hex
			continue
		}
		sum := sha256.Sum256([]byte("sha256:" + ids[i-1] + " " + l.DiffID.String()))
		ids[i] = hex.EncodeToString(sum[:])
	}
	return ids
}

// fill unpacks the layer's blob into root and verifies the digest of the uncompressed
// bytes. It records in dirs which directories the layer only implies.
func (s *Store) fill(ctx context.Context, root string, l layerRef, dirs *impliedDirs) error {
	if err := makeOpen(root); err != nil {
		return err
	}
	f, err := os.Open(s.blobPath(l.Blob.Hex))
	if errors.Is(err, os.ErrNotExist) {
		return fault.FailedPrecondition.Errorf("its blob is not in the store: load or pull the image again")
	}
	if err != nil {
		return err
	}
	defer f.Close()
	plain, err := decompress.Reader(f)
	if err != nil {
		return damaged(err)
	}
	defer plain.Close()
	g := layer.NewGuard(s.limits)
	sum := sha256.New()
	from := io.TeeReader(g.Reader(plain), sum)
	if err := applyLayer(ctx, root, from, s.accepting(g), dirs); err != nil {
		if other := notALayer(f); other != nil && isDamage(err) {
			return other
		}
		return damaged(err)
	}
	if _, err := io.Copy(io.Discard, ctxio.Reader(ctx, from)); err != nil { // the digest includes padding
		return damaged(err)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != l.DiffID.Hex {
		return fault.Invalid.Errorf("it unpacks to sha256:%s, and the image's config says %s", got, l.DiffID)
	}
	return nil
}

// ofTheMachine are errors that say nothing about the layer being unpacked.
var ofTheMachine = []error{
	context.Canceled, context.DeadlineExceeded,
	syscall.ENOSPC, syscall.EDQUOT, syscall.EIO, syscall.EROFS, syscall.ENOMEM, syscall.EMFILE, syscall.ENFILE,
	syscall.EPERM, syscall.EACCES, syscall.ENOSYS, syscall.ENOTSUP,
}

// damaged returns fault.Invalid for an unpacking error that is the layer's fault.
func damaged(err error) error {
	if isDamage(err) {
		return fault.Invalid.Errorf("it is damaged: %w", err)
	}
	return err
}

// isDamage reports whether an unpacking error has no kind yet and is not the machine's
// fault, such as a stream that is not a tar file, or a link to a file that the layer
// lacks.
func isDamage(err error) bool {
	var kind fault.Kind
	return err != nil && !errors.As(err, &kind) && !slices.ContainsFunc(ofTheMachine, func(of error) bool { return errors.Is(err, of) })
}

// notALayer says what a blob that could not be unpacked is, if it is not a layer at all:
// neither a tar file, nor compressed in a supported way.
func notALayer(blob io.ReaderAt) error {
	head := make([]byte, 512)
	n, err := blob.ReadAt(head, 0)
	if head = head[:n]; err != nil && !errors.Is(err, io.EOF) {
		return nil // unpacking has already reported it
	}
	_, err = tar.NewReader(bytes.NewReader(head)).Next()
	if decompress.Kind(head) != "" || n == 512 && !errors.Is(err, tar.ErrHeader) {
		return nil
	}
	if name := decompress.Unread(head); name != "" {
		return fault.Invalid.Errorf("it is compressed with %s, and only gzip and zstd are read: build the image with one of these", name)
	}
	return fault.Invalid.Errorf("it is neither a tar file nor compressed with gzip or zstd; it may be encrypted")
}

func writeLayerInfo(tmp string) error {
	bytes, inodes, err := diskUsage(tmp)
	if err != nil {
		return err
	}
	content, err := json.Marshal(layerInfo{layerVersion, bytes, inodes})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(tmp, "layer.json"), content, 0o600)
}

// accepting accepts what the guard accepts, except devices.
func (s *Store) accepting(g *layer.Guard) func(*tar.Header) (bool, error) {
	return func(h *tar.Header) (bool, error) {
		if ok, err := g.Accept(h); !ok || err != nil {
			return false, err
		}
		if h.Typeflag == tar.TypeChar || h.Typeflag == tar.TypeBlock {
			// A container gets its devices from the runtime. A character device 0:0 would
			// be overlay's own mark for a deleted file.
			s.log.Warn("device node of an image left out", "file", h.Name)
			return false, nil
		}
		return true, nil
	}
}

// diffIDs returns the diff IDs of a config, verified to be safe in paths.
func diffIDs(config *v1.ConfigFile) ([]v1.Hash, error) {
	for _, id := range config.RootFS.DiffIDs {
		if id.Algorithm != "sha256" {
			return nil, fault.Invalid.Errorf("layer %q: only sha256 digests are read", id)
		}
	}
	return config.RootFS.DiffIDs, nil
}
