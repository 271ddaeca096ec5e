package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// Annotations under which tools keep an image's name in an OCI layout.
const (
	// annotationRefName holds a tag, or with some tools a whole name (OCI image
	// spec v1.1 annotations.md).
	annotationRefName = "org.opencontainers.image.ref.name"
	// annotationName holds a whole name; containerd and docker write it.
	annotationName = "io.containerd.image.name"
)

// Load stores the images of the file or directory at path: a docker archive
// (docker save), an OCI archive, either of them compressed or not, or an
// OCI image layout. It returns what they are called now, or the id of an image
// without a name. Of an image for several platforms this machine's is taken.
//
// A name that belonged to another image moves to the loaded one. Loading the
// same file again changes nothing. What is not an image archive, or is corrupt, is
// fault.Invalid. Unpacking needs root.
func (s *Store) Load(ctx context.Context, path string) (names []string, err error) {
	err = s.ingesting(ctx, func() error {
		src, err := openSource(path, s.ingestPath(""), s.limits.bytes)
		if err != nil {
			return err
		}
		names, err = s.loadAll(ctx, src)
		return errors.Join(err, src.Close())
	})
	if err != nil {
		return nil, fmt.Errorf("loading image archive %q: %w", path, err)
	}
	return names, nil
}

func (s *Store) loadAll(ctx context.Context, src source) (names []string, err error) {
	found, err := candidates(src)
	if err != nil {
		return nil, err
	}
	for _, c := range found {
		id, err := s.add(ctx, c)
		if err != nil {
			return nil, err
		}
		if len(c.names) == 0 {
			names = append(names, id)
		}
		names = append(names, c.names...)
	}
	return names, nil
}

// candidates finds the images of an archive. One that is both, as docker
// writes since version 25, is read as an OCI layout, whose digests are known.
func candidates(src source) ([]*candidate, error) {
	raw, err := readDocument(src, "index.json")
	if err == nil {
		return ociCandidates(src, raw)
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
	return dockerCandidates(src, raw)
}

func ociCandidates(src source, raw []byte) ([]*candidate, error) {
	var idx v1.IndexManifest
	if err := json.Unmarshal(raw, &idx); err != nil {
		return nil, fault.Invalid.Errorf("index.json: %w", err)
	}
	var found []*candidate
	byDigest := map[v1.Hash]*candidate{}
	for _, d := range forThisMachine(idx.Manifests) {
		tag, err := ociName(d)
		if err != nil {
			return nil, err
		}
		c := byDigest[d.Digest]
		if c == nil {
			if c, err = ociCandidate(src, d, 0); err != nil {
				return nil, err
			}
			byDigest[d.Digest] = c
			found = append(found, c)
		}
		if tag != nil {
			c.names = union(c.names, []string{canonical(tag)})
			c.digests = union(c.digests, []string{repository(tag) + "@" + d.Digest.String()})
		}
	}
	if len(found) == 0 {
		return nil, fault.Invalid.Errorf("it has no image for linux/%s; it has: %s", runtime.GOARCH, platforms(idx.Manifests))
	}
	return found, nil
}

// ociName returns the name a descriptor is annotated with, or nil.
func ociName(d v1.Descriptor) (name.Reference, error) {
	given := d.Annotations[annotationName]
	if given == "" {
		given = d.Annotations[annotationRefName]
		if !strings.ContainsAny(given, "/:") { // a tag alone names no repository
			return nil, nil
		}
	}
	return parse(given)
}

// ociCandidate follows a descriptor to an image, through at most two levels of
// indexes.
func ociCandidate(src source, d v1.Descriptor, depth int) (*candidate, error) {
	raw, err := readDocument(src, blobName(d.Digest))
	if err != nil {
		return nil, err
	}
	if got := bytesBlob(raw).digest; got != d.Digest {
		return nil, fault.Invalid.Errorf("manifest %q has the digest %q: it is corrupt", d.Digest, got)
	}
	if !d.MediaType.IsIndex() {
		return manifest(raw, func(d v1.Descriptor) blob { return sourceBlob(src, blobName(d.Digest), d) })
	}
	var idx v1.IndexManifest
	if err := json.Unmarshal(raw, &idx); err != nil {
		return nil, fault.Invalid.Errorf("index %q: %w", d.Digest, err)
	}
	fitting := forThisMachine(idx.Manifests)
	if len(fitting) == 0 || depth == 2 {
		return nil, fault.Invalid.Errorf("index %q has no image for linux/%s; it has: %s", d.Digest, runtime.GOARCH, platforms(idx.Manifests))
	}
	c, err := ociCandidate(src, fitting[0], depth+1)
	if err != nil {
		return nil, err
	}
	c.manifests = append(c.manifests, bytesBlob(raw))
	return c, nil
}

func blobName(h v1.Hash) string { return "blobs/" + h.Algorithm + "/" + h.Hex }

func sourceBlob(src source, name string, d v1.Descriptor) blob {
	return blob{digest: d.Digest, size: d.Size, open: func() (io.ReadCloser, error) {
		f, _, err := src.open(name)
		return f, err
	}}
}

// forThisMachine leaves out what is for other platforms, and attestations.
func forThisMachine(all []v1.Descriptor) []v1.Descriptor {
	return slices.DeleteFunc(slices.Clone(all), func(d v1.Descriptor) bool {
		p := d.Platform
		return p != nil && p.OS != "" && (p.OS != "linux" || p.Architecture != runtime.GOARCH)
	})
}

func platforms(all []v1.Descriptor) string {
	var names []string
	for _, d := range all {
		if d.Platform != nil {
			names = append(names, d.Platform.String())
		}
	}
	return strings.Join(names, ", ")
}

// dockerImage is an element of manifest.json in a docker archive.
type dockerImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

func dockerCandidates(src source, raw []byte) ([]*candidate, error) {
	var images []dockerImage
	if err := json.Unmarshal(raw, &images); err != nil {
		return nil, fault.Invalid.Errorf("manifest.json: %w", err)
	}
	if len(images) == 0 {
		return nil, fault.Invalid.Errorf("manifest.json lists no image")
	}
	var found []*candidate
	for _, im := range images {
		c, err := dockerCandidate(src, im)
		if err != nil {
			return nil, err
		}
		found = append(found, c)
	}
	return found, nil
}

func dockerCandidate(src source, im dockerImage) (*candidate, error) {
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
	c := &candidate{config: bytesBlob(raw)}
	for i, name := range im.Layers {
		b, err := dockerLayer(src, name, config.RootFS.DiffIDs[i])
		if err != nil {
			return nil, err
		}
		c.layers = append(c.layers, b)
	}
	for _, tag := range im.RepoTags {
		full, err := Normalize(tag)
		if err != nil {
			return nil, err
		}
		c.names = append(c.names, full)
	}
	return c, nil
}

// dockerLayer finds out the digest of a layer, which a docker archive does not
// say: that of a plain layer is its diff id, a compressed one must be read.
func dockerLayer(src source, name string, diffID v1.Hash) (blob, error) {
	packed, err := sniff(src, name)
	if err != nil {
		return blob{}, err
	}
	f, size, err := src.open(name)
	if err != nil {
		return blob{}, err
	}
	defer f.Close()
	d := v1.Descriptor{Digest: diffID, Size: size}
	if packed != "" {
		sum := sha256.New()
		if _, err := io.Copy(sum, f); err != nil {
			return blob{}, err
		}
		d.Digest = v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum.Sum(nil))}
	}
	return sourceBlob(src, name, d), nil
}
