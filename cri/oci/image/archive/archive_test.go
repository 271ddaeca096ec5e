package archive_test

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/nodekit-project/nodekit/cri/oci/image/archive"
	"github.com/nodekit-project/nodekit/cri/oci/image/content"
)

// member is a regular file of an archive, or a symbolic link.
type member struct{ name, body, link string }

func tarOf(t testing.TB, members ...member) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, m := range members {
		h := &tar.Header{Name: m.name, Typeflag: tar.TypeReg, Size: int64(len(m.body))}
		if m.link != "" {
			h.Typeflag, h.Linkname = tar.TypeSymlink, m.link
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, m.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func imagesOf(t testing.TB, raw []byte) ([]*content.Image, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "archive")
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	a, err := archive.Open(path, &archive.Options{Scratch: t.TempDir(), MaxBytes: 1 << 20})
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	})
	return a.Images()
}

// TestLinkedLayers reads the form of old dockers, in which a layer that two
// images share is a symbolic link.
func TestLinkedLayers(t *testing.T) {
	diffID := content.Bytes([]byte("layer")).Digest.String()
	found, err := imagesOf(t, tarOf(t,
		member{name: "manifest.json", body: `[{"Config":"c.json","RepoTags":["app:v1"],"Layers":["b/layer.tar"]}]`},
		member{name: "c.json", body: `{"rootfs":{"diff_ids":["` + diffID + `"]}}`},
		member{name: "a/layer.tar", body: "layer"},
		member{name: "b/layer.tar", link: "../a/layer.tar"}))
	if err != nil || len(found) != 1 {
		t.Fatalf("Images: %v, %v", found, err)
	}
	l := found[0].Layers[0]
	r, err := l.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if got, err := io.ReadAll(r); err != nil || string(got) != "layer" || l.Size != 5 || l.Digest.String() != diffID {
		t.Errorf("the layer is %q (%v), announced as %d bytes of %v", got, err, l.Size, l.Digest)
	}
}

// TestLinksStayInside gives links that lead out of the archive, or round in it.
func TestLinksStayInside(t *testing.T) {
	for _, link := range []string{"/etc/passwd", "../../../../etc/passwd", "manifest.json", "index.json"} {
		if found, err := imagesOf(t, tarOf(t, member{name: "index.json", link: link})); err == nil {
			t.Errorf("a link to %q: %v", link, found)
		}
	}
	dir := t.TempDir()
	outside := filepath.Join(t.TempDir(), "index.json")
	if err := os.WriteFile(outside, []byte(`{"manifests":[]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(dir, "index.json")); err != nil {
		t.Fatal(err)
	}
	a, err := archive.Open(dir, &archive.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if _, err := a.Images(); err == nil || !strings.Contains(err.Error(), "escapes") {
		t.Errorf("a layout directory with a link out of it: %v", err)
	}
}

func FuzzImages(f *testing.F) {
	f.Add([]byte(`{"manifests":[{"digest":"sha256:00"}]}`), []byte(`[]`))
	f.Add([]byte(nil), []byte(`[{"Config":"manifest.json","Layers":["manifest.json"]}]`))
	digest := content.Bytes([]byte(`{}`)).Digest.String()
	f.Add([]byte(`{"manifests":[{"digest":"`+digest+`","platform":{"os":"linux","architecture":"`+runtime.GOARCH+`"}}]}`), []byte(`{}`))
	f.Fuzz(func(t *testing.T, index, manifest []byte) {
		files := []member{
			{name: "manifest.json", body: string(manifest)},
			{name: "blobs/sha256/" + content.Bytes(manifest).Digest.Hex, body: string(manifest)},
		}
		if len(index) > 0 {
			files = append(files, member{name: "index.json", body: string(index)})
		}
		found, err := imagesOf(t, tarOf(t, files...))
		if (err == nil) != (len(found) > 0) {
			t.Errorf("%d images and error %v", len(found), err)
		}
		for _, im := range found {
			if im.Config.Open == nil {
				t.Error("an image without a config")
			}
		}
	})
}
