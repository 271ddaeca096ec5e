// Package registry finds images in registries and their mirrors (OCI
// distribution specification v1.1) and reads their blobs. It stores nothing. Its
// errors have the kinds of internal/fault and say what to do. It is safe for
// concurrent use.
package registry

import (
	"context"
	"encoding/json"
	"log/slog"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri/oci/image/content"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// Progress is how far the download of one layer is.
type Progress struct {
	Layer string // the digest of the compressed layer
	Done  int64  // bytes received; goes back when a part of the layer is read again
	Total int64  // bytes in all
}

// Options configure how a registry is reached. nil means the defaults.
type Options struct {
	// Auth are the credentials to use. If it is nil, empty or for another server, those
	// of the user's docker configuration (~/.docker/config.json and its helpers) are
	// used. Credentials for the registry are never sent to a mirror.
	Auth *runtimeapi.AuthConfig
	// PlainHTTP allows access without TLS to registries on other machines. The network
	// can then see and change what is read.
	PlainHTTP bool
	// Hosts is the directory that configures the mirrors of registries, see package
	// hosts. Empty means none.
	Hosts string
	// Stall is how long a server may send nothing before the request is repeated. Zero
	// means a minute.
	Stall time.Duration
	// Progress is called with the progress of each layer that is read: at its start,
	// every 256 KiB and at its end. It may be called concurrently. nil means that
	// progress is not reported.
	Progress func(Progress)
	// Logger receives which mirrors failed and which parts of their configuration are
	// ignored. nil discards it.
	Logger *slog.Logger
}

const (
	defaultStall = time.Minute

	// What is read into memory is bounded. Registries refuse manifests larger than 4 MiB;
	// configs grow with the layers and their history.
	maxManifest = 4 << 20
	maxConfig   = 8 << 20
)

// Resolve finds the image that ref names; of a multi-platform image, the one for this
// machine. Its layers are fetched with ctx when their blobs are opened. Whichever mirror
// served it, the image has the names of its registry.
//
// If a mirror fails, or does not have the image, the next one is tried, and finally the
// registry itself; the same holds for each layer. A broken connection is re-established
// and continues where it was. If no place serves, a busy one (429 or 503) is asked again
// when it says, or after half a second, one, two and four; but not if that is more than a
// minute away.
//
// If there is no such image, the error is fault.NotFound; if credentials are wrong or
// missing, fault.Unauthenticated or fault.PermissionDenied; if the registry cannot be
// reached, or cannot serve now, fault.Unavailable; if it does not serve an image, or ref
// is not a reference, fault.Invalid; if the configuration of its mirrors is damaged,
// fault.FailedPrecondition. The errors of open blobs are the same.
func Resolve(ctx context.Context, ref string, opts *Options) (*content.Image, error) {
	if opts == nil {
		opts = &Options{}
	}
	p, err := newPlaces(ref, opts)
	if err != nil {
		return nil, err
	}
	top, err := p.manifest(ctx, p.ref.Identifier())
	if err != nil {
		return nil, err
	}
	found, err := p.image(ctx, top)
	if err != nil {
		return nil, err
	}
	found.Digests = []string{content.Repository(p.ref) + "@" + top.digest.String()}
	if tag, ok := p.ref.(name.Tag); ok {
		found.Names = []string{content.Canonical(tag)}
	}
	return found, nil
}

// image returns the image that the reference led to, directly or through indexes.
func (p *places) image(ctx context.Context, top document) (*content.Image, error) {
	doc := top
	var through []content.Blob
	for doc.isIndex() {
		if len(through) == content.MaxIndexes {
			return nil, fault.Invalid.Errorf("index %q leads through more than %d others", top.digest, content.MaxIndexes-1)
		}
		through = append(through, content.Bytes(doc.raw))
		var err error
		if doc, err = p.platformImage(ctx, doc); err != nil {
			return nil, err
		}
	}
	found, err := content.FromManifest(doc.raw, func(d v1.Descriptor) content.Blob { return p.layer(ctx, d) })
	if err != nil {
		return nil, err
	}
	config, err := p.small(ctx, found.Config)
	if err != nil {
		return nil, err
	}
	found.Config = content.Bytes(config)
	found.Manifests = append(found.Manifests, through...)
	return found, nil
}

func (p *places) platformImage(ctx context.Context, index document) (document, error) {
	fitting := content.ForThisMachine(index.Manifests)
	if len(fitting) == 0 {
		return document{}, fault.NotFound.Errorf("the registry has %s", content.NoPlatform(index.Manifests))
	}
	return p.manifest(ctx, fitting[0].Digest.String())
}

// document is a manifest or an index, with the fields that tell which.
type document struct {
	raw       []byte
	digest    v1.Hash
	MediaType types.MediaType `json:"mediaType"`
	Manifests []v1.Descriptor `json:"manifests"`
	Layers    []v1.Descriptor `json:"layers"`
}

func (d document) isIndex() bool { return d.MediaType.IsIndex() }

// parseDocument parses a document that a server calls mediaType. Some servers do not know
// the type and use any; then the document's own mediaType decides, or its form.
func parseDocument(raw []byte, mediaType types.MediaType) (document, error) {
	d := document{raw: raw, digest: content.Bytes(raw).Digest}
	if err := json.Unmarshal(raw, &d); err != nil {
		return d, fault.Invalid.Errorf("it is no manifest: %w", err)
	}
	if d.Manifests != nil && d.Layers != nil {
		return d, fault.Invalid.Errorf("manifest %q can be read as an image and as an index", d.digest)
	}
	if d.MediaType == "" {
		d.MediaType = mediaType
	}
	if !d.MediaType.IsIndex() && !d.MediaType.IsImage() && d.Manifests != nil {
		d.MediaType = types.OCIImageIndex
	}
	return d, nil
}
