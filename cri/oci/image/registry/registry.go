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

// Options adjust how a registry is reached. nil means the defaults.
type Options struct {
	// Auth are the credentials to use. nil, or an empty one, or one for another
	// server, means those of the user's docker configuration
	// (~/.docker/config.json and its helpers). A mirror never gets those that are
	// for the registry.
	Auth *runtimeapi.AuthConfig
	// PlainHTTP allows a registry other than this machine's own to be reached
	// without TLS. The network then sees and can change what is read.
	PlainHTTP bool
	// Hosts is the directory that says which mirrors registries have, see package
	// hosts. Empty means none.
	Hosts string
	// Stall is how long a server may send nothing before it is asked again. Zero
	// means a minute.
	Stall time.Duration
	// Progress is told about each layer that is read: at its start, every
	// 256 KiB and at its end. It may be called by several goroutines at a time.
	// nil means nobody is.
	Progress func(Progress)
	// Logger is told which mirrors failed and what of their configuration is
	// ignored. nil discards it.
	Logger *slog.Logger
}

const (
	defaultStall = time.Minute

	// What is read into memory has a bound. Registries refuse manifests beyond
	// 4 MiB; configs grow with the layers and their history.
	maxManifest = 4 << 20
	maxConfig   = 8 << 20
)

// Resolve finds the image that ref names; of one for several platforms, this
// machine's. Its layers are fetched when their blobs are opened, and with ctx.
// Whichever mirror served it, the image bears the names of its registry.
//
// A mirror that fails, or does not have the image, is followed by the next, and
// at last by the registry itself; so it is for each layer. A connection that
// breaks is made again and goes on where it was. Where none serves, one that is
// busy (429 or 503) is asked again when it says, or after half a second, one, two
// and four; not if that is more than a minute away.
//
// No such image: fault.NotFound. Wrong or missing credentials:
// fault.Unauthenticated or fault.PermissionDenied. The registry cannot be
// reached, or cannot serve now: fault.Unavailable. What it serves is no image,
// or ref no reference: fault.Invalid. The configuration of its mirrors is
// damaged: fault.FailedPrecondition. The errors of open blobs are the same.
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

// image describes what the reference led to, an image or an index.
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

// document is a manifest or an index, with the part of it that tells which.
type document struct {
	raw       []byte
	digest    v1.Hash
	MediaType types.MediaType `json:"mediaType"`
	Manifests []v1.Descriptor `json:"manifests"`
	Layers    []v1.Descriptor `json:"layers"`
}

func (d document) isIndex() bool { return d.MediaType.IsIndex() }

// parseDocument reads what a server calls mediaType. Servers that do not know
// call it anything; then its own word counts, or its form.
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
