package content

import (
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// configs are the media types of the configs of runnable images. The last ones were used
// by old registries and tools (moby/moby issue 22378).
var configs = []types.MediaType{
	types.OCIConfigJSON, types.DockerConfigJSON,
	"application/octet-stream", "application/json", "text/html", "",
}

// isImage returns an error, fault.Invalid, for the manifest of something else: registries
// hold artifacts of all kinds (OCI image specification v1.1, manifest.md, "Guidelines for
// Artifact Usage"), whose layers are not file systems.
func isImage(m *v1.Manifest) error {
	if kind := m.Config.MediaType; !slices.Contains(configs, kind) {
		if m.ArtifactType != "" {
			kind = types.MediaType(m.ArtifactType)
		}
		return fault.Invalid.Errorf("it is no image that can run, but an artifact of the type %q", kind)
	}
	for _, l := range m.Layers {
		kind := string(l.MediaType)
		switch {
		case strings.HasSuffix(kind, "+encrypted"):
			return fault.Invalid.Errorf("layer %q is encrypted (%s), and encrypted layers are not read: use an image that is not encrypted", l.Digest, kind)
		case strings.HasSuffix(kind, "+json"):
			return fault.Invalid.Errorf("it is no image that can run: layer %q is of the type %q, no file system", l.Digest, kind)
		}
	}
	return nil
}

// isArtifact reports whether a descriptor declares something other than an image.
func isArtifact(d v1.Descriptor) bool {
	return d.ArtifactType != "" && !slices.Contains(configs, types.MediaType(d.ArtifactType))
}
