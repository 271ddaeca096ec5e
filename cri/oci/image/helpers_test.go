package image_test

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/nodekit-project/nodekit/cri/oci/image"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// entry is a member of a layer's tar stream.
type entry struct {
	name, body, link string
	kind             byte // a regular file when zero
	mode             int64
	uid              int
	pax              map[string]string
}

func file(name, body string) entry { return entry{name: name, body: body, mode: 0o644} }
func dir(name string, mode int64) entry {
	return entry{name: name + "/", kind: tar.TypeDir, mode: mode}
}

func tarOf(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Typeflag: e.kind, Linkname: e.link, Mode: e.mode, Uid: e.uid, Size: int64(len(e.body)), PAXRecords: e.pax}
		if e.kind == 0 {
			h.Typeflag = tar.TypeReg
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func layerOf(t testing.TB, entries ...entry) v1.Layer {
	t.Helper()
	return layerOfTar(t, tarOf(t, entries...))
}

func layerOfTar(t testing.TB, raw []byte) v1.Layer {
	t.Helper()
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(raw)), nil })
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// imageOf makes an image for this machine of the layers, the bottom first.
func imageOf(t testing.TB, layers ...v1.Layer) v1.Image {
	t.Helper()
	im, err := mutate.AppendLayers(empty.Image, layers...)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := im.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture = "linux", runtime.GOARCH
	cfg.Config = v1.Config{Entrypoint: []string{"/app"}, Env: []string{"A=b"}, User: "1000:1000"}
	if im, err = mutate.ConfigFile(im, cfg); err != nil {
		t.Fatal(err)
	}
	return im
}

// dockerArchive writes the images as docker save does.
func dockerArchive(t testing.TB, images map[string]v1.Image) string {
	t.Helper()
	byRef := map[name.Reference]v1.Image{}
	for n, im := range images {
		ref, err := name.ParseReference(n)
		if err != nil {
			t.Fatal(err)
		}
		byRef[ref] = im
	}
	path := filepath.Join(t.TempDir(), "docker.tar")
	if err := tarball.MultiRefWriteToFile(path, byRef); err != nil {
		t.Fatal(err)
	}
	return path
}

// loaded is a store with one image, called example.com/test:v1.
func loaded(t testing.TB, opts *image.Options, layers ...v1.Layer) *image.Store {
	t.Helper()
	s := open(t, t.TempDir(), opts)
	if _, err := s.Load(t.Context(), dockerArchive(t, map[string]v1.Image{testName: imageOf(t, layers...)})); err != nil {
		t.Fatal(err)
	}
	return s
}

const testName = "example.com/test:v1"

func open(t testing.TB, dir string, opts *image.Options) *image.Store {
	t.Helper()
	testenv.Require(t, testenv.Root)
	s, err := image.Open(dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// mounted mounts a root file system and releases it at the end of the test.
func mounted(t testing.TB, s *image.Store, ref, dir string) *image.Rootfs {
	t.Helper()
	fs, err := s.Rootfs(t.Context(), ref, dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.ReleaseRootfs(dir); err != nil {
			t.Error(err)
		}
	})
	return fs
}

func wantFile(t testing.TB, path, want string) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil || string(got) != want {
		t.Errorf("%s: content %q, %v; want %q", path, got, err, want)
	}
}

func wantGone(t testing.TB, path string) {
	t.Helper()
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("%s is there (%v); want it gone", path, err)
	}
}

// program writes the smallest file that is an ELF executable without a loader.
func program(t testing.TB, machine elf.Machine, segments ...elf.Prog64) string {
	t.Helper()
	h := elf.Header64{
		Type: uint16(elf.ET_EXEC), Machine: uint16(machine), Version: 1,
		Ehsize: 64, Phoff: 64, Phentsize: 56, Phnum: uint16(len(segments)), Shentsize: 64,
	}
	copy(h.Ident[:], "\x7fELF\x02\x01\x01")
	var out bytes.Buffer
	if err := binary.Write(&out, binary.LittleEndian, h); err != nil {
		t.Fatal(err)
	}
	if err := binary.Write(&out, binary.LittleEndian, segments); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "tool")
	if err := os.WriteFile(path, out.Bytes(), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// archiveOf writes an OCI layout with one image that has no name; unlike in a
// docker archive its layers are compressed.
func archiveOf(t testing.TB, im v1.Image) string {
	t.Helper()
	dir := t.TempDir()
	l, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.AppendImage(im); err != nil {
		t.Fatal(err)
	}
	return dir
}
