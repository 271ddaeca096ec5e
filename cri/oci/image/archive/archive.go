// Package archive reads images from archives and makes archives of programs.
//
// It reads what "docker save" writes and OCI image layouts (OCI image specification v1.1,
// image-layout.md) in a tar file, compressed or not, or in a directory. It does not
// unpack: layers are read in place. The input is not trusted: no name leads out of the
// archive, and the size of documents is bounded. An Archive may be read by several
// goroutines.
package archive

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/nodekit-project/nodekit/cri/oci/image/content"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// Annotations in which tools keep an image's name in an OCI layout.
const (
	// annotationRefName holds a tag or, with some tools, a full name (OCI image spec v1.1
	// annotations.md).
	annotationRefName = "org.opencontainers.image.ref.name"
	// annotationName holds a full name; containerd and docker write it.
	annotationName = "io.containerd.image.name"
)

// Archive is an open archive. Its images can be read until it is closed.
type Archive struct{ src source }

// Options configure how an archive is opened. All fields are required.
type Options struct {
	// Scratch is a directory on disk in which a compressed archive is decompressed. The
	// file has no name, so a crash leaves nothing behind.
	Scratch string
	// MaxBytes bounds the decompressed size of an archive.
	MaxBytes int64
}

// Open opens the archive or directory at path. If it is not an archive, the error is
// fault.Invalid.
func Open(path string, opts *Options) (*Archive, error) {
	src, err := openSource(path, opts.Scratch, opts.MaxBytes)
	if err != nil {
		return nil, err
	}
	return &Archive{src}, nil
}

// Check returns the reason why there are no images to read at path, as far as that shows
// without decompressing anything. If what is there is not an archive, the error is
// fault.Invalid.
func Check(path string) error {
	fi, err := os.Stat(path)
	if err != nil {
		return err
	}
	if fi.Mode().IsRegular() {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		packed, err := compressed(f)
		if err = errors.Join(err, f.Close()); err != nil || packed {
			return err
		}
	}
	a, err := Open(path, &Options{})
	if err != nil {
		return err
	}
	_, err = a.Images()
	return errors.Join(err, a.Close())
}

// Close closes the archive and invalidates its open blobs.
func (a *Archive) Close() error { return a.src.Close() }

// Images returns the images of the archive; of a multi-platform image, the one for this
// machine. If the archive has none, or damaged documents, the error is fault.Invalid.
//
// An archive that is both an OCI layout and a docker archive, as docker writes since
// version 25, is read as a layout, whose digests are known.
func (a *Archive) Images() ([]*content.Image, error) {
	src := a.src
	raw, err := readDocument(src, "index.json")
	if err == nil {
		return ociImages(src, raw)
	}
	if !errors.Is(err, fault.NotFound) {
		return nil, err
	}
	raw, err = readDocument(src, "manifest.json")
	if errors.Is(err, fault.NotFound) {
		return nil, fault.Invalid.Errorf("it has neither index.json (OCI) nor manifest.json (docker): it is not an image archive")
	}
	if err != nil {
		return nil, err
	}
	return dockerImages(src, raw)
}

func ociImages(src source, raw []byte) ([]*content.Image, error) {
	var idx v1.IndexManifest
	if err := json.Unmarshal(raw, &idx); err != nil {
		return nil, fault.Invalid.Errorf("index.json: %w", err)
	}
	var found []*content.Image
	byDigest := map[v1.Hash]*content.Image{}
	for _, d := range content.ForThisMachine(idx.Manifests) {
		tag, err := ociName(d)
		if err != nil {
			return nil, err
		}
		c := byDigest[d.Digest]
		if c == nil {
			if c, err = ociImage(src, d, 0); err != nil {
				return nil, err
			}
			byDigest[d.Digest] = c
			found = append(found, c)
		}
		if tag != nil {
			c.Names = append(c.Names, content.Canonical(tag))
			c.Digests = append(c.Digests, content.Repository(tag)+"@"+d.Digest.String())
		}
	}
	if len(found) == 0 {
		return nil, fault.Invalid.Errorf("it has %s", content.NoPlatform(idx.Manifests))
	}
	return found, nil
}

// ociName returns the name in a descriptor's annotations, or nil.
func ociName(d v1.Descriptor) (name.Reference, error) {
	given := d.Annotations[annotationName]
	if given == "" {
		given = d.Annotations[annotationRefName]
		if !strings.ContainsAny(given, "/:") { // a tag alone does not name a repository
			return nil, nil
		}
	}
	return content.ParseReference(given)
}

// ociImage follows a descriptor to an image, through at most content.MaxIndexes indexes
// including the archive's own.
func ociImage(src source, d v1.Descriptor, depth int) (*content.Image, error) {
	raw, err := readDocument(src, blobName(d.Digest))
	if err != nil {
		return nil, err
	}
	if got := content.Bytes(raw).Digest; got != d.Digest {
		return nil, fault.Invalid.Errorf("manifest %q has the digest %q: it is corrupt", d.Digest, got)
	}
	if !d.MediaType.IsIndex() {
		return content.FromManifest(raw, func(d v1.Descriptor) content.Blob { return sourceBlob(src, blobName(d.Digest), d) })
	}
	var idx v1.IndexManifest
	if err := json.Unmarshal(raw, &idx); err != nil {
		return nil, fault.Invalid.Errorf("index %q: %w", d.Digest, err)
	}
	fitting := content.ForThisMachine(idx.Manifests)
	if depth == content.MaxIndexes-1 {
		return nil, fault.Invalid.Errorf("index %q: more than %d lead to it", d.Digest, depth)
	}
	if len(fitting) == 0 {
		return nil, fault.Invalid.Errorf("index %q has %s", d.Digest, content.NoPlatform(idx.Manifests))
	}
	c, err := ociImage(src, fitting[0], depth+1)
	if err != nil {
		return nil, err
	}
	c.Manifests = append(c.Manifests, content.Bytes(raw))
	return c, nil
}

func blobName(h v1.Hash) string { return "blobs/" + h.Algorithm + "/" + h.Hex }

func sourceBlob(src source, name string, d v1.Descriptor) content.Blob {
	return content.Blob{Digest: d.Digest, Size: d.Size, Open: func() (io.ReadCloser, error) {
		f, _, err := src.open(name)
		return f, err
	}}
}

// dockerImage is an element of manifest.json in a docker archive.
type dockerImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

func dockerImages(src source, raw []byte) ([]*content.Image, error) {
	var images []dockerImage
	if err := json.Unmarshal(raw, &images); err != nil {
		return nil, fault.Invalid.Errorf("manifest.json: %w", err)
	}
	if len(images) == 0 {
		return nil, fault.Invalid.Errorf("manifest.json lists no image")
	}
	var found []*content.Image
	for _, im := range images {
		c, err := dockerImageAt(src, im)
		if err != nil {
			return nil, err
		}
		found = append(found, c)
	}
	return found, nil
}

func dockerImageAt(src source, im dockerImage) (*content.Image, error) {
	raw, err := readDocument(src, im.Config)
	if err != nil {
		return nil, err
	}
	var config v1.ConfigFile
	if err := json.Unmarshal(raw, &config); err != nil {
		return nil, fault.Invalid.Errorf("image config %q: %w", im.Config, err)
	}
	if len(config.RootFS.DiffIDs) != len(im.Layers) {
		return nil, fault.Invalid.Errorf("image config %q lists %d layers, manifest.json %d", im.Config, len(config.RootFS.DiffIDs), len(im.Layers))
	}
	c := &content.Image{Config: content.Bytes(raw)}
	for i, name := range im.Layers {
		b, err := dockerLayer(src, name, config.RootFS.DiffIDs[i])
		if err != nil {
			return nil, err
		}
		c.Layers = append(c.Layers, b)
	}
	for _, tag := range im.RepoTags {
		full, err := content.Normalize(tag)
		if err != nil {
			return nil, err
		}
		c.Names = append(c.Names, full)
	}
	return c, nil
}

// dockerLayer determines the digest of a layer, which a docker archive does not record:
// for an uncompressed layer it is the diff ID; a compressed one must be read.
func dockerLayer(src source, name string, diffID v1.Hash) (content.Blob, error) {
	packed, err := sniff(src, name)
	if err != nil {
		return content.Blob{}, err
	}
	f, size, err := src.open(name)
	if err != nil {
		return content.Blob{}, err
	}
	defer f.Close()
	d := v1.Descriptor{Digest: diffID, Size: size}
	if packed != "" {
		sum := sha256.New()
		if _, err := io.Copy(sum, f); err != nil {
			return content.Blob{}, err
		}
		d.Digest = v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum.Sum(nil))}
	}
	return sourceBlob(src, name, d), nil
}
