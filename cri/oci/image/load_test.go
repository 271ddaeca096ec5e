package image_test

import (
	"compress/gzip"
	"debug/elf"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"github.com/nodekit-project/nodekit/cri/oci/image"
	"github.com/nodekit-project/nodekit/cri/oci/image/archive"
	"github.com/nodekit-project/nodekit/internal/fault"
)

func TestLoadDockerArchive(t *testing.T) {
	s := open(t, t.TempDir(), nil)
	im := imageOf(t, layerOf(t, file("etc/name", "one")), layerOf(t, file("etc/name", "two")))
	archive := dockerArchive(t, map[string]v1.Image{"busybox": im, "example.com/b:v2": im})
	for range 2 { // the second time changes nothing
		names, err := s.Load(t.Context(), archive)
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(names)
		if diff := cmp.Diff([]string{"docker.io/library/busybox:latest", "example.com/b:v2"}, names); diff != "" {
			t.Error(diff)
		}
	}
	wantID, err := im.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	for _, ref := range []string{"busybox", "docker.io/busybox", "index.docker.io/library/busybox:latest", "example.com/b:v2", wantID.String(), wantID.Hex} {
		got, err := s.Status(t.Context(), ref)
		if err != nil || got == nil {
			t.Fatalf("Status(%q) = %v, %v", ref, got, err)
		}
		if got.Id != wantID.String() || got.Uid.GetValue() != 1000 || got.Username != "" || got.Size == 0 {
			t.Errorf("Status(%q) = %v", ref, got)
		}
		if diff := cmp.Diff([]string{"docker.io/library/busybox:latest", "example.com/b:v2"}, got.RepoTags); diff != "" {
			t.Error(diff)
		}
	}
	all, err := s.List()
	if err != nil || len(all) != 1 {
		t.Errorf("List() = %v, %v; want one image", all, err)
	}
	fs := mounted(t, s, "busybox", t.TempDir())
	wantFile(t, filepath.Join(fs.Path, "etc/name"), "two")
	if diff := cmp.Diff([]string{"/app"}, fs.Config.Entrypoint); diff != "" {
		t.Error(diff)
	}
}

func TestLoadCompressedArchive(t *testing.T) {
	plain, err := os.ReadFile(dockerArchive(t, map[string]v1.Image{testName: imageOf(t, layerOf(t, file("a", "b")))}))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "archive.tar.gz")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	w := gzip.NewWriter(f)
	_, err = w.Write(plain)
	if err := errors.Join(err, w.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	s := open(t, t.TempDir(), nil)
	if _, err := s.Load(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	wantFile(t, filepath.Join(mounted(t, s, testName, t.TempDir()).Path, "a"), "b")
}

// ociLayout writes an OCI layout directory whose index.json has the descriptors
// that the options make, one for each image.
func ociLayout(t *testing.T, images []v1.Image, opts [][]layout.Option) string {
	t.Helper()
	dir := t.TempDir()
	l, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	for i, im := range images {
		if err := l.AppendImage(im, opts[i]...); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestLoadOCILayout(t *testing.T) {
	here, other := imageOf(t, layerOf(t, file("here", ""))), imageOf(t, layerOf(t, file("other", "")))
	named := layout.WithAnnotations(map[string]string{"io.containerd.image.name": "example.com/multi:v1", "org.opencontainers.image.ref.name": "v1"})
	dir := ociLayout(t, []v1.Image{other, here}, [][]layout.Option{
		{named, layout.WithPlatform(v1.Platform{OS: "linux", Architecture: "s390x"})},
		{named, layout.WithPlatform(v1.Platform{OS: "linux", Architecture: runtime.GOARCH})},
	})
	s := open(t, t.TempDir(), nil)
	names, err := s.Load(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"example.com/multi:v1"}, names); diff != "" {
		t.Error(diff)
	}
	digest, err := here.Digest()
	if err != nil {
		t.Fatal(err)
	}
	for _, ref := range []string{names[0], "example.com/multi@" + digest.String()} {
		wantFile(t, filepath.Join(mounted(t, s, ref, t.TempDir()).Path, "here"), "")
	}
}

func TestLoadNestedIndexWithoutName(t *testing.T) {
	here := imageOf(t, layerOf(t, file("here", "")))
	idx := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: empty.Image, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "unknown", Architecture: "unknown"}}},
		mutate.IndexAddendum{Add: here, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: runtime.GOARCH}}})
	dir := t.TempDir()
	if _, err := layout.Write(dir, mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: idx})); err != nil {
		t.Fatal(err)
	}
	s := open(t, t.TempDir(), nil)
	names, err := s.Load(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	id, err := here.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{id.String()}, names); diff != "" {
		t.Error(diff)
	}
}

func TestLoadMovesName(t *testing.T) {
	s := loaded(t, nil, layerOf(t, file("v", "1")))
	first, err := s.Status(t.Context(), testName)
	if err != nil {
		t.Fatal(err)
	}
	next := dockerArchive(t, map[string]v1.Image{testName: imageOf(t, layerOf(t, file("v", "2")))})
	if _, err := s.Load(t.Context(), next); err != nil {
		t.Fatal(err)
	}
	second, err := s.Status(t.Context(), testName)
	if err != nil || second.Id == first.Id {
		t.Errorf("after loading another image the name means %q (%v), as before", second.GetId(), err)
	}
	old, err := s.Status(t.Context(), first.Id)
	if err != nil || old == nil || len(old.RepoTags) != 0 {
		t.Errorf("the image that lost its name is %v, %v; want it there without a name", old, err)
	}
}

func TestLoadRefuses(t *testing.T) {
	write := func(content []byte) string {
		path := filepath.Join(t.TempDir(), "archive.tar")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good, err := os.ReadFile(dockerArchive(t, map[string]v1.Image{testName: imageOf(t, layerOf(t, file("a", strings.Repeat("b", 1000))))}))
	if err != nil {
		t.Fatal(err)
	}
	foreign := ociLayout(t, []v1.Image{imageOf(t)}, [][]layout.Option{{layout.WithPlatform(v1.Platform{OS: "linux", Architecture: "s390x"})}})
	corrupt, err := image.Pack(program(t, elf.EM_X86_64), testName)
	if err != nil {
		t.Fatal(err)
	}
	at := strings.LastIndex(string(corrupt), "ELF")
	corrupt[at] = 'X'
	for name, c := range map[string]struct {
		path string
		kind error
		text string
	}{
		"not there":      {"/nonexistent/archive", os.ErrNotExist, "no such file"},
		"not a tar":      {write([]byte("hello, this is no archive" + strings.Repeat(".", 1000))), fault.Invalid, "not a tar archive"},
		"xz":             {write([]byte("\xfd7zXZ\x00" + strings.Repeat(".", 1000))), fault.Invalid, "it is compressed with xz"},
		"empty":          {write(nil), fault.Invalid, "not an image archive"},
		"some other tar": {write(tarOf(t, file("a", "b"))), fault.Invalid, "not an image archive"},
		"cut off":        {write(good[:len(good)/2]), nil, ""},
		"corrupt layer":  {write(corrupt), fault.Invalid, "it is corrupt"},
		"no manifest":    {write(tarOf(t, file("manifest.json", "[]"))), fault.Invalid, "lists no image"},
		"bad json":       {write(tarOf(t, file("index.json", "{"))), fault.Invalid, "index.json"},
		"other platform": {foreign, fault.Invalid, "no image for linux/" + runtime.GOARCH + "; there is: linux/s390x"},
		"missing config": {write(tarOf(t, file("manifest.json", `[{"Config":"c.json"}]`))), fault.NotFound, `no file "c.json"`},
		"missing layer": {write(tarOf(t,
			file("manifest.json", `[{"Config":"c.json","Layers":["l"]}]`),
			file("c.json", `{"rootfs":{"diff_ids":["sha256:`+strings.Repeat("0", 64)+`"]}}`))), fault.NotFound, `no file "l"`},
		"digest as path":   {write(tarOf(t, file("index.json", `{"manifests":[{"digest":"sha256:../../../../etc/passwd"}]}`))), fault.Invalid, "index.json"},
		"layers and diffs": {write(tarOf(t, file("manifest.json", `[{"Config":"c.json","Layers":["l"]}]`), file("c.json", `{}`))), fault.Invalid, "0 layers"},
	} {
		t.Run(name, func(t *testing.T) {
			// Check does not read layers.
			if err := archive.Check(c.path); (err == nil) != (name == "corrupt layer") {
				t.Errorf("Check: %v", err)
			}
			store := t.TempDir()
			s := open(t, store, nil)
			_, err := s.Load(t.Context(), c.path)
			if err == nil || (c.kind != nil && !errors.Is(err, c.kind)) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("Load: %v; want kind %v, text %q", err, c.kind, c.text)
			}
			if all, _ := s.List(); len(all) != 0 {
				t.Errorf("it left image %v", all)
			}
			wantEmpty(t, store)
		})
	}
}

// wantEmpty checks that a store without images holds no content.
func wantEmpty(t *testing.T, store string) {
	t.Helper()
	for _, sub := range []string{"blobs/sha256", "layers", "mounts", "partial", "ingest"} {
		left, err := os.ReadDir(filepath.Join(store, sub))
		if err != nil || len(left) > 0 {
			t.Errorf("%s holds %v, %v; want nothing", sub, left, err)
		}
	}
}

func TestPack(t *testing.T) {
	machine := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}[runtime.GOARCH]
	binary := program(t, machine)
	first, err := image.Pack(binary, "tool:v1")
	if err != nil {
		t.Fatal(err)
	}
	second, err := image.Pack(binary, "tool:v1")
	if err != nil || !slices.Equal(first, second) {
		t.Errorf("packing twice gave different archives (%v)", err)
	}
	path := filepath.Join(t.TempDir(), "tool.tar")
	if err := os.WriteFile(path, first, 0o600); err != nil {
		t.Fatal(err)
	}
	s := open(t, t.TempDir(), nil)
	names, err := s.Load(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"docker.io/library/tool:v1"}, names); diff != "" {
		t.Error(diff)
	}
	fs := mounted(t, s, "tool:v1", t.TempDir())
	fi, err := os.Stat(filepath.Join(fs.Path, fs.Config.Entrypoint[0]))
	if err != nil || fi.Mode() != 0o755 || fi.ModTime().Unix() != 0 {
		t.Errorf("the program in the image is %v, %v; want mode 0755 of 1970", fi, err)
	}
	for _, at := range []string{"dev/", "proc/", "sys/", "etc/", "etc/hostname", "etc/hosts", "etc/resolv.conf"} {
		fi, err := os.Stat(filepath.Join(fs.Path, at))
		if err != nil || fi.IsDir() != strings.HasSuffix(at, "/") || fi.Mode().Perm() != map[bool]os.FileMode{true: 0o755, false: 0o644}[fi.IsDir()] {
			t.Errorf("to be mounted over there is %v, %v at %q", fi, err, at)
		}
	}
}

func TestPackRefuses(t *testing.T) {
	text := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(text, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	renamed := t.TempDir()
	if err := os.Rename(program(t, elf.EM_X86_64), filepath.Join(renamed, "etc")); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ binary, name, text string }{
		"script":   {text, testName, "not a Linux program"},
		"dynamic":  {program(t, elf.EM_X86_64, elf.Prog64{Type: uint32(elf.PT_INTERP)}), testName, "CGO_ENABLED=0"},
		"machine":  {program(t, elf.EM_PPC64), testName, "EM_PPC64"},
		"reserved": {filepath.Join(renamed, "etc"), testName, "call it otherwise"},
		"bad name": {program(t, elf.EM_X86_64), "Not A Name", "want [REGISTRY/]"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := image.Pack(c.binary, c.name); !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("Pack: %v; want fault.Invalid with %q", err, c.text)
			}
		})
	}
}
