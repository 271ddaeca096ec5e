package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// Progress is how far the download of one layer is.
type Progress struct {
	Layer string // the digest of the compressed layer
	Done  int64  // bytes received; goes back to 0 when the layer is read again
	Total int64  // bytes in all
}

// PullOptions adjust one pull. nil means the defaults.
type PullOptions struct {
	// Auth are the credentials to use. nil, or an empty one, means those of the
	// user's docker configuration (~/.docker/config.json and its helpers).
	Auth *runtimeapi.AuthConfig
	// PlainHTTP allows a registry other than this machine's own to be reached
	// without TLS. The network then sees and can change what is pulled.
	PlainHTTP bool
	// Progress is told about each layer that is fetched, at its start, every
	// 256 KiB and at its end. It is called one call at a time, must not block and
	// must not call the store, and never after Pull returned. nil means nobody is.
	Progress func(Progress)
}

// Pull fetches the image that ref names from its registry and returns its id.
// Of an image for several platforms linux with this machine's architecture is
// taken. What is in the store already is not fetched again. Concurrent pulls of one
// reference with the same credentials do the work once; it goes on while one
// of them waits. Registries on this machine are tried with https and plain http.
//
// No such image: fault.NotFound. Wrong or missing credentials:
// fault.Unauthenticated or fault.PermissionDenied. The registry cannot be
// reached, or cannot serve now: fault.Unavailable. Corrupt content:
// fault.Invalid.
func (s *Store) Pull(ctx context.Context, ref string, opts *PullOptions) (id string, err error) {
	if opts == nil {
		opts = &PullOptions{}
	}
	var how []name.Option
	if opts.PlainHTTP {
		how = append(how, name.Insecure)
	}
	r, err := parse(ref, how...)
	if err != nil {
		return "", err
	}
	key := fmt.Sprintf("%s %s %v", canonical(r), authKey(opts.Auth), opts.PlainHTTP)
	id, err = s.pulls.do(ctx, key, opts.Progress, func(ctx context.Context, report func(Progress)) (id string, err error) {
		err = s.ingesting(ctx, func() error {
			id, err = s.pull(ctx, r, opts, report)
			return err
		})
		return id, err
	})
	if err != nil {
		return "", fmt.Errorf("pulling image %q: %w", ref, err)
	}
	return id, nil
}

// pullCRI adds what the kubelet looks for in the text of an error.
func (s *Store) pullCRI(ctx context.Context, ref string, auth *runtimeapi.AuthConfig) (string, error) {
	id, err := s.Pull(ctx, ref, &PullOptions{Auth: auth})
	if errors.Is(err, fault.Unavailable) {
		return "", fmt.Errorf("RegistryUnavailable: %w", err)
	}
	return id, err
}

func (s *Store) pull(ctx context.Context, r name.Reference, opts *PullOptions, report func(Progress)) (string, error) {
	auth, err := authenticator(r, opts.Auth)
	if err != nil {
		return "", err
	}
	options := []remote.Option{
		remote.WithContext(ctx),
		remote.WithAuth(auth),
		remote.WithTransport(&httpGuard{next: remote.DefaultTransport, allow: opts.PlainHTTP}),
		remote.WithRetryBackoff(remote.Backoff{Duration: 200 * time.Millisecond, Factor: 3, Jitter: 0.1, Steps: 3}),
		remote.WithUserAgent("nodekit"),
	}
	desc, err := remote.Get(r, options...)
	if err != nil {
		return "", explain(r, err)
	}
	c, err := remoteCandidate(r, desc, report)
	if err != nil {
		return "", explain(r, err)
	}
	id, err := s.add(ctx, c)
	if err != nil {
		return "", explain(r, err)
	}
	return id, nil
}

// remoteCandidate resolves what the reference led to, an image or an index, to
// this machine's image.
func remoteCandidate(r name.Reference, desc *remote.Descriptor, report func(Progress)) (*candidate, error) {
	im, err := platformImage(desc)
	if err != nil {
		return nil, err
	}
	raw, err := im.RawManifest()
	if err != nil {
		return nil, err
	}
	config, err := im.RawConfigFile()
	if err != nil {
		return nil, err
	}
	c, err := manifest(raw, func(d v1.Descriptor) blob { return remoteBlob(im, d, report) })
	if err != nil {
		return nil, err
	}
	announced := c.config.digest
	if c.config = bytesBlob(config); c.config.digest != announced {
		return nil, fault.Invalid.Errorf("image config %q has the digest %q: it is corrupt", announced, c.config.digest)
	}
	if desc.MediaType.IsIndex() {
		c.manifests = append(c.manifests, bytesBlob(desc.Manifest))
	}
	c.digests = []string{repository(r) + "@" + desc.Digest.String()}
	if tag, ok := r.(name.Tag); ok {
		c.names = []string{canonical(tag)}
	}
	return c, nil
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
	fitting := forThisMachine(m.Manifests)
	if len(fitting) == 0 {
		return nil, fault.NotFound.Errorf("the registry has no such image for linux/%s; it has: %s", runtime.GOARCH, platforms(m.Manifests))
	}
	return idx.Image(fitting[0].Digest)
}

func remoteBlob(im v1.Image, d v1.Descriptor, report func(Progress)) blob {
	return blob{digest: d.Digest, size: d.Size, open: func() (io.ReadCloser, error) {
		l, err := im.LayerByDigest(d.Digest)
		if err != nil {
			return nil, err
		}
		r, err := l.Compressed()
		if err != nil {
			return nil, err
		}
		p := &progressReader{ReadCloser: r, report: report, at: Progress{Layer: d.Digest.String(), Total: d.Size}}
		report(p.at)
		return p, nil
	}}
}

// progressStep is how many bytes pass between two reports.
const progressStep = 256 << 10

type progressReader struct {
	io.ReadCloser
	report func(Progress)
	at     Progress
	told   int64
}

func (p *progressReader) Read(b []byte) (int, error) {
	n, err := p.ReadCloser.Read(b)
	p.at.Done += int64(n)
	if p.at.Done-p.told >= progressStep || (p.at.Done == p.at.Total && p.told != p.at.Done) {
		p.told = p.at.Done
		p.report(p.at)
	}
	return n, err
}
