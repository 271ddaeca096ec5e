package image_test

import (
	"archive/tar"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// TestUnpackTakesNoOverlayMarks: with these a layer could hide files, show
// others, or read what lies in other layers.
func TestUnpackTakesNoOverlayMarks(t *testing.T) {
	store := t.TempDir()
	s := open(t, store, nil)
	marks := map[string]string{}
	for _, space := range []string{"trusted", "user"} {
		for _, mark := range []string{"opaque", "redirect", "metacopy", "whiteout", "origin", "impure", "overlay.opaque", "protattr", "uuid"} {
			marks["SCHILY.xattr."+space+".overlay."+mark] = "y"
		}
	}
	marks["SCHILY.xattr.trusted.other"] = "y"
	marks["SCHILY.xattr.user.mine"] = "kept"
	d := dir("d", 0o755)
	d.pax = marks
	f := file("d/f", "x")
	f.pax = marks
	im := imageOf(t, layerOf(t, dir("d", 0o755), file("d/below", "1")), layerOf(t, d, f))
	if _, err := s.Load(t.Context(), dockerArchive(t, map[string]v1.Image{testName: im})); err != nil {
		t.Fatal(err)
	}
	config, err := im.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"d", "d/f"} {
		full := filepath.Join(store, "layers", chainOf(config)[1], "fs", path)
		for key := range marks {
			attr := strings.TrimPrefix(key, "SCHILY.xattr.")
			_, err := unix.Lgetxattr(full, attr, make([]byte, 10))
			if want := attr == "user.mine"; want != (err == nil) {
				t.Errorf("%s has %s: %v; want %v", path, attr, err == nil, want)
			}
		}
	}
	wantFile(t, filepath.Join(mounted(t, s, testName, t.TempDir()).Path, "d/below"), "1")
}

// TestUnpackMakesNoDevices, also not by way of a hard link or a name that is a
// whiteout's.
func TestUnpackMakesNoDevices(t *testing.T) {
	s := loaded(t, nil, layerOf(t,
		entry{name: "disk", kind: tar.TypeBlock, mode: 0o666}, entry{name: ".wh.mem", kind: tar.TypeChar, mode: 0o666},
		entry{name: "pipe", kind: tar.TypeFifo, mode: 0o666}, file("a", "b")))
	root := mounted(t, s, testName, t.TempDir()).Path
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type()&os.ModeDevice != 0 {
			t.Errorf("%s is a device", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	wantFile(t, filepath.Join(root, "a"), "b")
}

// TestPullRefuses what a registry could do to a node: each with the right kind,
// and without a trace.
func TestPullRefuses(t *testing.T) {
	r := newRegistry(t)
	im := imageOf(t, layerOf(t, file("a", "b")))
	ref := r.push(t, "app:v1", im)
	digest, err := im.Digest()
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := im.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	serve := func(kind, body string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, req *http.Request) bool {
			if !strings.Contains(req.URL.Path, kind) {
				return false
			}
			w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
			fmt.Fprint(w, body)
			return true
		}
	}
	redirect := func(to string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, req *http.Request) bool {
			if !strings.Contains(req.URL.Path, "/blobs/") {
				return false
			}
			w.Header().Set("Location", to)
			w.WriteHeader(http.StatusTemporaryRedirect)
			return true
		}
	}
	layers := `{"digest":"sha256:` + strings.Repeat("0", 64) + `","size":1}`
	many := `{"schemaVersion":2,"config":{"digest":"sha256:` + strings.Repeat("0", 64) + `","size":2},"layers":[` + strings.Repeat(layers+",", 20_000) + layers + `]}`
	sized := func(size string) string {
		return `{"schemaVersion":2,"config":{"digest":"sha256:` + strings.Repeat("0", 64) + `","size":` + size + `},"layers":[]}`
	}
	byDigest := r.host + "/app@" + digest.String()
	for name, c := range map[string]struct {
		ref   string
		serve func(http.ResponseWriter, *http.Request) bool
		kind  error
	}{
		"manifest is another":     {byDigest, serve("/manifests/", string(manifest)+" "), fault.Invalid},
		"manifest is huge":        {ref, serve("/manifests/", `{"x":"`+strings.Repeat("x", 5<<20)+`"}`), fault.Invalid},
		"thousands of layers":     {ref, serve("/manifests/", many), fault.Invalid},
		"config is huge":          {ref, serve("/manifests/", sized("1000000000000")), fault.Invalid},
		"config of less":          {ref, serve("/manifests/", sized("-5")), fault.Invalid},
		"image and index at once": {ref, serve("/manifests/", strings.Replace(sized("2"), `"layers"`, `"manifests":[],"layers"`, 1)), fault.Invalid},
		"manifest is no json":     {ref, serve("/manifests/", "<html>"), fault.Invalid},
		"manifest without config": {ref, serve("/manifests/", `{"schemaVersion":2,"layers":[]}`), fault.Invalid},
		"digest leads out":        {ref, serve("/manifests/", `{"config":{"digest":"sha256:../../../../etc/passwd","size":1},"layers":[]}`), fault.Invalid},
		"redirect to a file":      {ref, redirect("file:///etc/passwd"), fault.Unavailable},
		"redirect to a socket":    {ref, redirect("unix:///run/docker.sock"), fault.Unavailable},
		"redirect to plain http":  {ref, redirect("http://192.0.2.1/x"), fault.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			no := func(http.ResponseWriter, *http.Request) bool { return false }
			if c.serve != nil {
				no = c.serve
			}
			r.on(no)
			store := t.TempDir()
			_, err := open(t, store, nil).Pull(t.Context(), c.ref, nil)
			if !errors.Is(err, c.kind) {
				t.Errorf("Pull: %v; want %v", err, c.kind)
			}
			if len(fmt.Sprint(err)) > 2000 {
				t.Errorf("the error has %d characters", len(err.Error()))
			}
			wantEmpty(t, store)
		})
	}
}

// TestIdentity: one image in two repositories under three names, by all the
// ways in which CRI's clients name it.
func TestIdentity(t *testing.T) {
	r := newRegistry(t)
	im := imageOf(t, layerOf(t, file("a", "b")))
	one, two, three := r.push(t, "one:v1", im), r.push(t, "two:v1", im), r.push(t, "two:v2", im)
	digest, err := im.Digest()
	if err != nil {
		t.Fatal(err)
	}
	store := t.TempDir()
	s := open(t, store, nil)
	var id string
	for _, ref := range []string{one, two, three} {
		if id, err = s.Pull(t.Context(), ref, nil); err != nil {
			t.Fatal(err)
		}
	}
	all := []string{id, strings.TrimPrefix(id, "sha256:"), one, two, three}
	for _, repo := range []string{"one", "two"} {
		all = append(all, r.host+"/"+repo+"@"+digest.String(), r.host+"/"+repo+":v1@"+digest.String())
	}
	for _, ref := range all {
		got, err := s.Status(t.Context(), ref)
		if err != nil || got.GetId() != id {
			t.Fatalf("Status(%q) = %v, %v", ref, got, err)
		}
		if diff := cmp.Diff([]string{one, two, three}, got.RepoTags); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff([]string{r.host + "/one@" + digest.String(), r.host + "/two@" + digest.String()}, got.RepoDigests); diff != "" {
			t.Error(diff)
		}
	}
	for _, ref := range []string{r.host + "/three@" + digest.String(), r.host + "/one:v2", "sha256:" + strings.Repeat("0", 64)} {
		if got, err := s.Status(t.Context(), ref); got != nil || err != nil {
			t.Errorf("Status(%q) = %v, %v; want none", ref, got, err)
		}
	}
	for _, ref := range all {
		if err := s.Remove(t.Context(), ref); err != nil {
			t.Fatal(err)
		}
		if list, err := s.List(); err != nil || len(list) > 0 {
			t.Errorf("after Remove(%q) there is %v, %v", ref, list, err)
		}
		wantEmpty(t, store)
		for _, again := range []string{one, two, three} {
			if _, err := s.Pull(t.Context(), again, nil); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestPullMovedTag: the tag goes to the new image. The old one stays under its
// digest, for who runs it, and for garbage collection to find.
func TestPullMovedTag(t *testing.T) {
	r := newRegistry(t)
	before := imageOf(t, layerOf(t, file("v", "1")))
	ref := r.push(t, "app:v1", before)
	s := open(t, t.TempDir(), nil)
	old, err := s.Pull(t.Context(), ref, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.push(t, "app:v1", imageOf(t, layerOf(t, file("v", "2"))))
	now, err := s.Pull(t.Context(), ref, nil)
	if err != nil || now == old {
		t.Fatalf("the second pull gave %q, %v; want another image", now, err)
	}
	got, err := s.Status(t.Context(), old)
	digest, digestErr := before.Digest()
	if err != nil || digestErr != nil || len(got.GetRepoTags()) > 0 || !cmp.Equal(got.GetRepoDigests(), []string{r.host + "/app@" + digest.String()}) {
		t.Errorf("the old image is %v, %v; want its digest and no tag", got, err)
	}
	if got, err := s.Status(t.Context(), ref); err != nil || got.GetId() != now {
		t.Errorf("the tag means %v, %v; want the new image", got, err)
	}
}
