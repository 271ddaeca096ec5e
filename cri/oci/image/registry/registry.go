// Package registry finds images in registries (OCI distribution specification
// v1.1) and reads their blobs. It stores nothing. Its errors have the kinds of
// internal/fault and say what to do. It is safe for concurrent use.
package registry

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri/oci/image/content"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// Progress is how far the download of one layer is.
type Progress struct {
	Layer string // the digest of the compressed layer
	Done  int64  // bytes received; goes back to 0 when the layer is read again
	Total int64  // bytes in all
}

// Options adjust how a registry is reached. nil means the defaults.
type Options struct {
	// Auth are the credentials to use. nil, or an empty one, or one for another
	// server, means those of the user's docker configuration
	// (~/.docker/config.json and its helpers).
	Auth *runtimeapi.AuthConfig
	// PlainHTTP allows a registry other than this machine's own to be reached
	// without TLS. The network then sees and can change what is read.
	PlainHTTP bool
	// Progress is told about each layer that is read: at its start, every
	// 256 KiB and at its end. It may be called by several goroutines at a time.
	// nil means nobody is.
	Progress func(Progress)
}

// Resolve finds the image that ref names; of one for several platforms, this
// machine's. Its layers are fetched when their blobs are opened, and with ctx.
//
// No such image: fault.NotFound. Wrong or missing credentials:
// fault.Unauthenticated or fault.PermissionDenied. The registry cannot be
// reached, or cannot serve now: fault.Unavailable. What it serves is no image,
// or ref no reference: fault.Invalid. The errors of open blobs are the same.
func Resolve(ctx context.Context, ref string, opts *Options) (*content.Image, error) {
	if opts == nil {
		opts = &Options{}
	}
	var how []name.Option
	if opts.PlainHTTP {
		how = append(how, name.Insecure)
	}
	r, err := content.ParseReference(ref, how...)
	if err != nil {
		return nil, err
	}
	auth, err := authenticator(r, opts.Auth)
	if err != nil {
		return nil, err
	}
	desc, err := remote.Get(r,
		remote.WithContext(ctx),
		remote.WithAuth(auth),
		remote.WithTransport(&httpGuard{next: remote.DefaultTransport, allow: opts.PlainHTTP}),
		remote.WithRetryBackoff(remote.Backoff{Duration: 200 * time.Millisecond, Factor: 3, Jitter: 0.1, Steps: 3}),
		remote.WithUserAgent("nodekit"))
	if err != nil {
		return nil, explain(r, err)
	}
	im, err := read(r, desc, opts.Progress)
	if err != nil {
		return nil, explain(r, err)
	}
	return im, nil
}

// read describes what the reference led to, an image or an index.
func read(r name.Reference, desc *remote.Descriptor, report func(Progress)) (*content.Image, error) {
	im, err := platformImage(desc)
	if err != nil {
		return nil, err
	}
	raw, err := im.RawManifest()
	if err != nil {
		return nil, err
	}
	config, err := im.RawConfigFile() // checked against its digest
	if err != nil {
		return nil, err
	}
	found, err := content.FromManifest(raw, func(d v1.Descriptor) content.Blob { return layerBlob(r, im, d, report) })
	if err != nil {
		return nil, err
	}
	found.Config = content.Bytes(config)
	if desc.MediaType.IsIndex() {
		found.Manifests = append(found.Manifests, content.Bytes(desc.Manifest))
	}
	found.Digests = []string{content.Repository(r) + "@" + desc.Digest.String()}
	if tag, ok := r.(name.Tag); ok {
		found.Names = []string{content.Canonical(tag)}
	}
	return found, nil
}

func platformImage(desc *remote.Descriptor) (v1.Image, error) {
	if !desc.MediaType.IsIndex() {
		return desc.Image()
	}
	idx, err := desc.ImageIndex()
	if err != nil {
		return nil, err
	}
	m, err := idx.IndexManifest()
	if err != nil {
		return nil, err
	}
	fitting := content.ForThisMachine(m.Manifests)
	if len(fitting) == 0 {
		return nil, fault.NotFound.Errorf("the registry has %s", content.NoPlatform(m.Manifests))
	}
	return idx.Image(fitting[0].Digest)
}

func layerBlob(r name.Reference, im v1.Image, d v1.Descriptor, report func(Progress)) content.Blob {
	return content.Blob{Digest: d.Digest, Size: d.Size, Open: func() (io.ReadCloser, error) {
		l, err := im.LayerByDigest(d.Digest)
		if err != nil {
			return nil, explain(r, err)
		}
		body, err := l.Compressed()
		if err != nil {
			return nil, explain(r, err)
		}
		p := &layerReader{ReadCloser: body, from: r, report: report, at: Progress{Layer: d.Digest.String(), Total: d.Size}}
		p.tell()
		return p, nil
	}}
}

// progressStep is how many bytes pass between two reports.
const progressStep = 256 << 10

// layerReader reports how far it is and explains errors.
type layerReader struct {
	io.ReadCloser
	from   name.Reference
	report func(Progress)
	at     Progress
	told   int64
}

func (l *layerReader) Read(b []byte) (int, error) {
	n, err := l.ReadCloser.Read(b)
	l.at.Done += int64(n)
	if l.at.Done-l.told >= progressStep || (l.at.Done == l.at.Total && l.told != l.at.Done) {
		l.tell()
	}
	if err != nil && !errors.Is(err, io.EOF) {
		err = explain(l.from, err)
	}
	return n, err
}

func (l *layerReader) tell() {
	l.told = l.at.Done
	if l.report != nil {
		l.report(l.at)
	}
}
