// Package content describes container images in the form in which archives and registries
// provide them: by digests, with readers for what the digests name (OCI image
// specification v1.1). It stores nothing, verifies no content, and knows no transport.
// Its values are plain data.
package content

import (
	"encoding/json"
	"runtime"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// Image is an image that an archive or a registry offers.
type Image struct {
	Names     []string // in full form, see Canonical
	Digests   []string // repository@digest, of the manifest, or of the index that led to it
	Config    Blob
	Manifests []Blob // the image's own and the indexes that led to it
	Layers    []Blob // the bottom first
}

// MaxLayers is how many lower directories overlay supports.
const MaxLayers = 500

// MaxIndexes is how many indexes may lead to an image.
const MaxIndexes = 3

// FromManifest parses an image manifest and returns the image that it describes, without
// names; open returns the blob of each descriptor. If it is not a manifest of a runnable
// image, the error is fault.Invalid.
func FromManifest(raw []byte, open func(v1.Descriptor) Blob) (*Image, error) {
	var m v1.Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, fault.Invalid.Errorf("image manifest: %w", err)
	}
	if m.Config.Digest.Hex == "" {
		return nil, fault.Invalid.Errorf("image manifest without a config: schema 1 and artifacts are not images that can run")
	}
	if err := isImage(&m); err != nil {
		return nil, err
	}
	if len(m.Layers) > MaxLayers {
		return nil, fault.Invalid.Errorf("image manifest with %d layers: the kernel mounts %d", len(m.Layers), MaxLayers)
	}
	im := &Image{Config: open(m.Config), Manifests: []Blob{Bytes(raw)}}
	for _, l := range m.Layers {
		im.Layers = append(im.Layers, open(l))
	}
	return im, nil
}

// ForThisMachine returns the descriptors of an index without those for other platforms,
// without attestations, which have a platform of their own, and without artifacts. The
// best come first: those for every machine of the architecture, then those that need a
// newer one, and last those without a platform, which may not be images at all.
func ForThisMachine(all []v1.Descriptor) []v1.Descriptor {
	fitting := slices.DeleteFunc(slices.Clone(all), func(d v1.Descriptor) bool {
		p := d.Platform
		return isArtifact(d) || p != nil && p.OS != "" && (p.OS != "linux" || p.Architecture != runtime.GOARCH)
	})
	slices.SortStableFunc(fitting, func(a, b v1.Descriptor) int { return rank(a.Platform) - rank(b.Platform) })
	return fitting
}

func rank(p *v1.Platform) int {
	switch {
	case p == nil || p.OS == "":
		return 2
	case p.Variant == "" || p.Variant == baseline[p.Architecture]:
		return 0
	}
	return 1
}

// baseline is the variant that every machine of an architecture supports (OCI image spec
// v1.1 image-index.md, "Platform Variants").
var baseline = map[string]string{"amd64": "v1", "arm64": "v8"}

// NoPlatform says that an index has no image for this machine, and for which platforms it
// has.
func NoPlatform(all []v1.Descriptor) string {
	var names []string
	for _, d := range all {
		if d.Platform != nil {
			names = append(names, d.Platform.String())
		}
	}
	return "no image for linux/" + runtime.GOARCH + "; there is: " + strings.Join(names, ", ")
}
