package image_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/nodekit-project/nodekit/cri/oci/image/content"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// serveDocuments is a registry whose only image is made of these.
func serveDocuments(t *testing.T, manifest v1.Manifest, blobs ...[]byte) (ref string) {
	t.Helper()
	r := newRegistry(t)
	raw, err := json.Marshal(manifest)
	if err != nil {
		t.Fatal(err)
	}
	r.on(func(w http.ResponseWriter, req *http.Request) bool {
		if strings.Contains(req.URL.Path, "/manifests/") {
			w.Header().Set("Content-Type", string(manifest.MediaType))
			_, _ = w.Write(raw)
			return true
		}
		for _, b := range blobs {
			if strings.HasSuffix(req.URL.Path, content.Bytes(b).Digest.Hex) {
				_, _ = w.Write(b)
				return true
			}
		}
		return false
	})
	return r.host + "/app:v1"
}

func described(kind types.MediaType, raw []byte) v1.Descriptor {
	b := content.Bytes(raw)
	return v1.Descriptor{MediaType: kind, Digest: b.Digest, Size: b.Size}
}

// TestPullOddKinds: what is in a registry and no image that can run is refused, by what
// it is; what is one, by whatever name, is pulled.
func TestPullOddKinds(t *testing.T) {
	plain := tarOf(t, file("a", "b"))
	config := func(diff []byte) []byte {
		return fmt.Appendf(nil, `{"architecture":%q,"os":"linux","rootfs":{"type":"layers","diff_ids":["%s"]}}`, runtime.GOARCH, content.Bytes(diff).Digest)
	}
	nothing, helm := []byte("{}"), []byte(`{"name":"chart","version":"1.0.0"}`)
	xz := append([]byte("\xfd7zXZ\x00"), make([]byte, 100)...)
	bzip2 := append([]byte("BZh91AY&SY"), make([]byte, 100)...)
	lz4 := append([]byte("\x04\x22\x4d\x18"), make([]byte, 100)...)
	secret := []byte(strings.Repeat("\x8f\x13 encrypted", 100))
	statement := []byte(`{"_type":"https://in-toto.io/Statement/v0.1"}`)
	const ociLayer, ociConfig = types.OCIUncompressedLayer, types.OCIConfigJSON
	for name, c := range map[string]struct {
		artifact string
		config   v1.Descriptor
		layers   []v1.Descriptor
		blobs    [][]byte
		want     string // in the error; nothing: it is pulled
	}{
		"artifact with an empty config": {"application/vnd.example.sbom.v1", described("application/vnd.oci.empty.v1+json", nothing), []v1.Descriptor{described("application/vnd.oci.empty.v1+json", nothing)}, [][]byte{nothing}, "application/vnd.example.sbom.v1"},
		"artifact without layers":       {"application/vnd.example.none.v1", described("application/vnd.oci.empty.v1+json", nothing), nil, [][]byte{nothing}, "application/vnd.example.none.v1"},
		"chart":                         {"", described("application/vnd.cncf.helm.config.v1+json", helm), []v1.Descriptor{described("application/vnd.cncf.helm.chart.content.v1.tar+gzip", plain)}, [][]byte{helm, plain}, "application/vnd.cncf.helm.config.v1+json"},
		"artifact with image's config":  {"application/vnd.example.v1", described(ociConfig, config(plain)), []v1.Descriptor{described(ociLayer, plain)}, [][]byte{config(plain), plain}, ""},
		"attestation":                   {"", described(ociConfig, config(statement)), []v1.Descriptor{described("application/vnd.in-toto+json", statement)}, [][]byte{config(statement), statement}, "application/vnd.in-toto+json"},
		"encrypted":                     {"", described(ociConfig, config(plain)), []v1.Descriptor{described("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", secret)}, [][]byte{config(plain), secret}, "encrypted"},
		"xz":                            {"", described(ociConfig, config(plain)), []v1.Descriptor{described("application/vnd.oci.image.layer.v1.tar+xz", xz)}, [][]byte{config(plain), xz}, "compressed with xz"},
		"xz called gzip":                {"", described(ociConfig, config(plain)), []v1.Descriptor{described(types.OCILayer, xz)}, [][]byte{config(plain), xz}, "compressed with xz"},
		"bzip2":                         {"", described(ociConfig, config(plain)), []v1.Descriptor{described(types.DockerLayer, bzip2)}, [][]byte{config(plain), bzip2}, "compressed with bzip2"},
		"lz4":                           {"", described(ociConfig, config(plain)), []v1.Descriptor{described(types.DockerLayer, lz4)}, [][]byte{config(plain), lz4}, "compressed with lz4"},
		"unknown content":               {"", described(ociConfig, config(plain)), []v1.Descriptor{described("application/x-odd", secret)}, [][]byte{config(plain), secret}, "neither"},
		"layer of another name":         {"", described(ociConfig, config(plain)), []v1.Descriptor{described("application/x-odd", plain)}, [][]byte{config(plain), plain}, ""},
		"config of docker":              {"", described(types.DockerConfigJSON, config(plain)), []v1.Descriptor{described(types.DockerUncompressedLayer, plain)}, [][]byte{config(plain), plain}, ""},
		"config of old registries":      {"", described("application/octet-stream", config(plain)), []v1.Descriptor{described(types.DockerUncompressedLayer, plain)}, [][]byte{config(plain), plain}, ""},
		"config without a name":         {"", described("", config(plain)), []v1.Descriptor{described("", plain)}, [][]byte{config(plain), plain}, ""},
		"plugin":                        {"", described("application/vnd.docker.plugin.v1+json", helm), nil, [][]byte{helm}, "application/vnd.docker.plugin.v1+json"},
		"foreign layer":                 {"", described(ociConfig, config(plain)), []v1.Descriptor{described(types.OCIRestrictedLayer, plain)}, [][]byte{config(plain), plain}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			ref := serveDocuments(t, v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1, ArtifactType: c.artifact, Config: c.config, Layers: c.layers}, c.blobs...)
			store := t.TempDir()
			_, err := open(t, store, nil).Pull(t.Context(), ref, nil)
			if c.want == "" {
				if err != nil {
					t.Errorf("Pull: %v", err)
				}
				return
			}
			if !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Pull: %v; want fault.Invalid with %q", err, c.want)
			}
			wantEmpty(t, store)
		})
	}
}

// TestArtifactsBesideImages: an index that lists artifacts, too, leads to the image.
func TestArtifactsBesideImages(t *testing.T) {
	artifact, err := mutate.AppendLayers(mutate.ConfigMediaType(empty.Image, "application/vnd.example.config.v1+json"))
	if err != nil {
		t.Fatal(err)
	}
	im := imageOf(t, layerOf(t, file("a", "b")))
	index := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: artifact, Descriptor: v1.Descriptor{ArtifactType: "application/vnd.example.v1"}},
		mutate.IndexAddendum{Add: im})
	r := newRegistry(t)
	ref := r.push(t, "app:v1", index)
	dir := t.TempDir()
	if _, err := layout.Write(dir, index); err != nil {
		t.Fatal(err)
	}
	want, err := im.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	if id, err := open(t, t.TempDir(), nil).Pull(t.Context(), ref, nil); err != nil || id != want.String() {
		t.Errorf("Pull: %q, %v; want %s", id, err, want)
	}
	if names, err := open(t, t.TempDir(), nil).Load(t.Context(), dir); err != nil || !slices.Equal(names, []string{want.String()}) {
		t.Errorf("Load: %q, %v; want %s", names, err, want)
	}
}
