package crisuite

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"os"
	goruntime "runtime"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// The repositories of the suite's registry. Each name below unique/ is an image of its
// own, which nobody else has.
const (
	mainImage    = "suite/main:v1"
	uniqueRepo   = "unique/"  // any name, any tag: one image for each name
	privateRepo  = "private/" // the same, for those who know the password
	brokenRepo   = "broken/"  // the same, with a layer that does not match its digest
	cutRepo      = "cut/"     // the same, where the registry fails the first request for a manifest, and for a layer
	absentRepo   = "absent/"  // nothing
	uidImage     = "suite/uid:v1"
	userImage    = "suite/user:v1"
	groupImage   = "suite/group:v1"
	signalImage  = "suite/signal:v1"
	commandImage = "suite/command:v1"
)

// The users of the suite's images.
const (
	passwd = "root:x:0:0:root:/root:/podtool\nworker:x:1000:1001:worker:/home/worker:/podtool\n"
	group  = "root:x:0:\nworker:x:1001:\nteam:x:50000:worker\n"
)

// oddBytes are lines that are easily altered: surrounded by spaces, empty, and with bytes
// that are not text. None ends with a carriage return, which containerd drops.
const oddBytes = "  spaces  \n\n\ttab\n\xff\xfe\x00\x1b[0m\nend\n"

// configs returns the images' configurations by name.
func configs() map[string]v1.Config {
	base := v1.Config{Entrypoint: []string{toolPath}, Cmd: []string{"sleep", "forever"}, Env: []string{"PATH=/bin", "FROM=image", "BOTH=image"}}
	with := func(change func(*v1.Config)) v1.Config {
		c := base
		change(&c)
		return c
	}
	return map[string]v1.Config{
		mainImage:    base,
		uidImage:     with(func(c *v1.Config) { c.User = "1000" }),
		userImage:    with(func(c *v1.Config) { c.User = "worker" }),
		groupImage:   with(func(c *v1.Config) { c.User = "worker:team" }),
		signalImage:  with(func(c *v1.Config) { c.StopSignal = "SIGUSR1" }),
		commandImage: with(func(c *v1.Config) { c.Cmd, c.WorkingDir = []string{"echo", "of", "the", "image"}, "/data" }),
	}
}

// baseLayer returns the layer that all images have: the program and a few files.
func baseLayer(program string) (v1.Layer, error) {
	code, err := os.ReadFile(program)
	if err != nil {
		return nil, fmt.Errorf("reading podtool: %w", err)
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	var failed error
	add := func(name string, mode int64, body string) {
		h := &tar.Header{Name: name, Mode: mode, Size: int64(len(body)), Typeflag: tar.TypeReg, ModTime: time.Unix(1, 0)}
		if strings.HasSuffix(name, "/") {
			h.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(h); err != nil {
			failed = err
		}
		if _, err := io.WriteString(w, body); err != nil {
			failed = err
		}
	}
	for _, dir := range []string{"bin/", "etc/", "data/", "data/sub/", "proc/", "sys/", "dev/", "root/", "run/"} {
		add(dir, 0o755, "")
	}
	add("tmp/", 0o1777, "")
	add("podtool", 0o755, string(code))
	add("etc/passwd", 0o644, passwd)
	add("etc/group", 0o644, group)
	add("data/file", 0o644, "from the image\n")
	add("data/sub/file", 0o644, "from below\n")
	add("data/bytes", 0o644, oddBytes)
	if failed != nil {
		return nil, failed
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(out.Bytes())), nil },
		tarball.WithCompressionLevel(gzip.NoCompression), tarball.WithCompressedCaching)
}

// smallLayer returns a layer with one file, which says whose it is.
func smallLayer(text string) (v1.Layer, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	if err := w.WriteHeader(&tar.Header{Name: "name", Mode: 0o644, Size: int64(len(text)), Typeflag: tar.TypeReg}); err != nil {
		return nil, err
	}
	if _, err := io.WriteString(w, text); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(out.Bytes())), nil })
}

// build creates an image for this machine.
func build(config v1.Config, layers ...v1.Layer) (v1.Image, error) {
	im, err := mutate.AppendLayers(mutate.MediaType(empty.Image, types.DockerManifestSchema2), layers...)
	if err != nil {
		return nil, err
	}
	file, err := im.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Config = "linux", goruntime.GOARCH, config
	im, err = mutate.ConfigFile(im, file)
	if err != nil {
		return nil, err
	}
	return mutate.ConfigMediaType(im, types.DockerConfigJSON), nil
}
