package crisuite

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// The account of the private repositories.
const (
	registryUser     = "suite"
	registryPassword = "open sesame"
)

// registry serves the suite's images, read-only, on loopback. Runtimes accept a registry
// on loopback without TLS.
type registry struct {
	host   string                   // where it listens; image names begin with it
	base   func() (v1.Layer, error) // created on first use
	server *http.Server

	mu     sync.Mutex
	images map[string]v1.Image // by repository
	blobs  map[v1.Hash]blob
	failed map[string]bool // by repository and kind
}

// blob is what the registry serves under a digest.
type blob struct {
	kind string
	open func() (io.ReadCloser, error)
	size int64
}

// newRegistry starts a registry on a port of its own. listen is net.Listen, perhaps in a
// network namespace.
func newRegistry(program string, listen func() (net.Listener, error)) (*registry, error) {
	l, err := listen()
	if err != nil {
		return nil, fmt.Errorf("listening for the suite's registry: %w", err)
	}
	base := sync.OnceValues(func() (v1.Layer, error) { return baseLayer(program) })
	r := &registry{host: l.Addr().String(), base: base, images: map[string]v1.Image{}, blobs: map[v1.Hash]blob{}, failed: map[string]bool{}}
	r.server = &http.Server{Handler: r, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = r.server.Serve(l) }() // ends when the server is closed
	return r, nil
}

func listenOnLoopback() (net.Listener, error) { return net.Listen("tcp", "127.0.0.1:0") }

func (r *registry) close() { _ = r.server.Close() }

// image returns the image of a repository, created on first use; nil if there is none.
func (r *registry) image(repository string) (v1.Image, error) {
	if im := r.images[repository]; im != nil {
		return im, nil
	}
	base, err := r.base()
	if err != nil {
		return nil, err
	}
	layers := []v1.Layer{base}
	config, known := configs()[repository+":v1"]
	switch kind, _, _ := strings.Cut(repository, "/"); kind + "/" {
	case uniqueRepo, privateRepo, brokenRepo, cutRepo:
		own, err := smallLayer(repository)
		if err != nil {
			return nil, err
		}
		layers, config, known = append(layers, own), configs()[mainImage], true
		config.Labels = map[string]string{"name": repository}
	}
	if !known {
		return nil, nil
	}
	im, err := build(config, layers...)
	if err != nil {
		return nil, err
	}
	r.images[repository] = im
	return im, r.index(im)
}

// index registers the parts of an image under their digests.
func (r *registry) index(im v1.Image) error {
	config, err := im.RawConfigFile()
	if err != nil {
		return err
	}
	hash, err := im.ConfigName()
	if err != nil {
		return err
	}
	r.blobs[hash] = raw("application/octet-stream", config)
	manifest, err := im.RawManifest()
	if err != nil {
		return err
	}
	if hash, err = im.Digest(); err != nil {
		return err
	}
	kind, err := im.MediaType()
	if err != nil {
		return err
	}
	r.blobs[hash] = raw(string(kind), manifest)
	layers, err := im.Layers()
	if err != nil {
		return err
	}
	for _, l := range layers {
		hash, err := l.Digest()
		if err != nil {
			return err
		}
		size, err := l.Size()
		if err != nil {
			return err
		}
		r.blobs[hash] = blob{"application/octet-stream", l.Compressed, size}
	}
	return nil
}

func raw(kind string, data []byte) blob {
	return blob{kind, func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(string(data))), nil }, int64(len(data))}
}

// ServeHTTP implements the read half of the distribution API.
func (r *registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	where, reference := path.Split(strings.TrimPrefix(req.URL.Path, "/v2/"))
	if where == "" {
		w.WriteHeader(http.StatusOK)
		return
	}
	repository, kind := path.Split(strings.TrimSuffix(where, "/"))
	repository = strings.TrimSuffix(repository, "/")
	if user, password, _ := req.BasicAuth(); strings.HasPrefix(repository, privateRepo) && (user != registryUser || password != registryPassword) {
		w.Header().Set("WWW-Authenticate", `Basic realm="suite"`)
		fail(w, http.StatusUnauthorized, "UNAUTHORIZED")
		return
	}
	cut := r.fails(repository, kind, reference)
	if cut && kind == "manifests" {
		fail(w, http.StatusServiceUnavailable, "UNKNOWN")
		return
	}
	b, digest, err := r.find(repository, kind, reference)
	if err != nil {
		fail(w, http.StatusNotFound, "MANIFEST_UNKNOWN")
		return
	}
	w.Header().Set("Content-Type", b.kind)
	w.Header().Set("Docker-Content-Digest", digest.String())
	w.Header().Set("Content-Length", strconv.FormatInt(b.size, 10))
	if req.Method == http.MethodHead {
		return
	}
	body, err := b.open()
	if err != nil {
		fail(w, http.StatusInternalServerError, "UNKNOWN")
		return
	}
	defer body.Close()
	if cut {
		_, _ = io.CopyN(w, body, b.size/2)
		panic(http.ErrAbortHandler) // closes the connection
	}
	_, _ = io.Copy(w, body) // only the client suffers
}

// fails reports whether the request must fail: for an image in the cut repositories, the
// first request for a manifest and the first for its own layer.
func (r *registry) fails(repository, kind, reference string) bool {
	if !strings.HasPrefix(repository, cutRepo) {
		return false
	}
	b, _, err := r.find(repository, kind, reference)
	if err != nil || kind == "blobs" && !r.isOwnLayer(repository, reference, b) {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	again := r.failed[repository+kind]
	r.failed[repository+kind] = true
	return !again
}

// isOwnLayer reports whether a blob is the layer that only this image has: the layer that
// all images share is larger, and the manifest names the config.
func (r *registry) isOwnLayer(repository, reference string, b blob) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	config, err := r.images[repository].ConfigName()
	return err == nil && reference != config.String() && b.size < smallestBase
}

// smallestBase is a size that every base layer exceeds, and no other layer.
const smallestBase = 4096

func fail(w http.ResponseWriter, code int, what string) {
	w.Header().Del("Content-Length")
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(map[string]any{"errors": []any{map[string]string{"code": what}}})
}

// find returns what a tag or a digest refers to. A broken layer has the promised size but
// different content.
func (r *registry) find(repository, kind, reference string) (blob, v1.Hash, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	im, err := r.image(repository)
	if err != nil || im == nil {
		return blob{}, v1.Hash{}, errors.Join(err, fmt.Errorf("no repository %q", repository))
	}
	hash, err := v1.NewHash(reference)
	if err != nil { // a tag
		if hash, err = im.Digest(); err != nil {
			return blob{}, hash, err
		}
	}
	b, known := r.blobs[hash]
	if !known {
		return blob{}, hash, fmt.Errorf("no blob %s", hash)
	}
	if strings.HasPrefix(repository, brokenRepo) && kind == "blobs" && b.size < smallestBase {
		if config, err := im.ConfigName(); err == nil && hash != config {
			b.open = func() (io.ReadCloser, error) {
				return io.NopCloser(strings.NewReader(strings.Repeat("x", int(b.size)))), nil
			}
		}
	}
	return b, hash, nil
}

// ref returns the full name of an image of this registry.
func (r *registry) ref(image string) string { return r.host + "/" + image }

// digest returns the digest of an image's manifest.
func (r *registry) digest(repository string) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	im, err := r.image(repository)
	if err != nil || im == nil {
		return "", errors.Join(err, fmt.Errorf("no repository %q", repository))
	}
	hash, err := im.Digest()
	return hash.String(), err
}

// archive writes the fixed images as a docker archive.
func (r *registry) archive(_ context.Context, file string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := map[name.Tag]v1.Image{}
	for image := range configs() {
		tag, err := name.NewTag(r.ref(image))
		if err != nil {
			return err
		}
		if all[tag], err = r.image(strings.TrimSuffix(image, ":v1")); err != nil {
			return err
		}
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	return errors.Join(tarball.MultiWrite(all, f), f.Close())
}
