package image_test

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// layersOfAllSorts need each other in every way that a layer can.
func layersOfAllSorts() [][]entry {
	owned := func(name string, mode int64, uid int, xattr string) entry {
		e := dir(name, mode)
		e.uid = uid
		if xattr != "" {
			e.pax = map[string]string{"SCHILY.xattr.user.mark": xattr}
		}
		return e
	}
	link := func(name, to string) entry { return entry{name: name, link: to, kind: tar.TypeSymlink} }
	hard := func(name, to string) entry { return entry{name: name, link: to, kind: tar.TypeLink} }
	return [][]entry{
		{
			owned("tmp", 0o1777, 0, ""), owned("home", 0o751, 7, "low"), owned("home/me", 0o700, 1000, ""), file("home/me/f", "1"),
			owned("usr", 0o755, 0, ""), owned("usr/bin", 0o711, 3, "bin"), link("bin", "usr/bin"), link("abs", "/usr/bin"), file("usr/bin/sh", "sh"),
			owned("gone", 0o700, 5, ""), owned("gone/sub", 0o700, 5, ""), owned("opaque", 0o770, 6, "o"), file("opaque/old", ""),
			file("was-file", ""), owned("was-dir", 0o700, 9, ""),
		},
		{file("home/me/g", "2"), file("bin/tool", "t"), file("abs/tool", "t"), file(".wh.gone", ""), file("tmp/x", ""), owned("home", 0o750, 8, "high")},
		{file("gone/new", ""), file("opaque/.wh..wh..opq", ""), file("opaque/deep/new", ""), file("home/me/deep/er/h", ""), file("was-file/now", ""), file("was-dir", "now a file")},
		{
			file("late/f", ""), owned("late", 0o711, 4, ""), hard("late/g", "late/f"), file("home/me/.wh.f", ""), file("was-dir/again", ""),
			owned("dropped", 0o700, 2, ""), file("dropped/f", ""), file("dropped", "a file instead"), file("usr/.wh.bin", ""),
		},
		{file("late/h", ""), file("home/i", ""), file("home/me/deep/er/k", ""), file("usr/bin/again", ""), file("dropped/x", "")},
	}
}

// TestUnpackAtOnce compares the layers of an image, unpacked at the same time,
// with what one after the other gives.
func TestUnpackAtOnce(t *testing.T) {
	all := layersOfAllSorts()
	var layers []v1.Layer
	for _, entries := range all {
		layers = append(layers, layerOf(t, entries...))
	}
	store := t.TempDir()
	s := open(t, store, nil)
	im := imageOf(t, layers...)
	if _, err := s.Load(t.Context(), dockerArchive(t, map[string]v1.Image{testName: im})); err != nil {
		t.Fatal(err)
	}
	config, err := im.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	var below []string
	for i, chain := range chainOf(config) {
		want := filepath.Join(t.TempDir(), "fs")
		if err := os.Mkdir(want, 0o755); err != nil {
			t.Fatal(err)
		}
		_, err := archive.Apply(t.Context(), want, bytes.NewReader(tarOf(t, all[i]...)),
			archive.WithParents(below), archive.WithConvertWhiteout(archive.OverlayConvertWhiteout))
		if err != nil {
			t.Fatalf("layer %d: %v", i, err)
		}
		below = append([]string{want}, below...)
		got := filepath.Join(store, "layers", chain, "fs")
		if diff := cmp.Diff(treeOf(t, want), treeOf(t, got)); diff != "" {
			t.Errorf("layer %d, one after the other (-), and at once (+):\n%s", i, diff)
		}
	}
}

// chainOf returns the chain ids of an image's layers.
func chainOf(config *v1.ConfigFile) (ids []string) {
	for i, d := range config.RootFS.DiffIDs {
		if i == 0 {
			ids = append(ids, d.Hex)
			continue
		}
		ids = append(ids, fmt.Sprintf("%x", sha256.Sum256([]byte("sha256:"+ids[i-1]+" "+d.String()))))
	}
	return ids
}

// treeOf describes all that is in a tree, but for the times that no archive gives:
// a directory's, which is when something was put into it, and a whiteout's, which
// is when it was made.
func treeOf(t *testing.T, root string) map[string]string {
	t.Helper()
	tree := map[string]string{}
	inodes := map[uint64]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		st := fi.Sys().(*syscall.Stat_t)
		text := fmt.Sprintf("%v %d:%d rdev %d", fi.Mode(), st.Uid, st.Gid, st.Rdev)
		whiteout := fi.Mode()&fs.ModeCharDevice != 0 && st.Rdev == 0
		if !fi.IsDir() {
			text += fmt.Sprint(" ", fi.Size())
			if !whiteout {
				text += fmt.Sprint(" ", fi.ModTime().Unix())
			}
			if first, ok := inodes[st.Ino]; ok {
				text += " is " + first
			}
			inodes[st.Ino] = path[len(root):]
		}
		if target, err := os.Readlink(path); err == nil {
			text += " -> " + target
		}
		for _, name := range []string{"user.mark", "trusted.overlay.opaque"} {
			b := make([]byte, 100)
			if n, err := unix.Lgetxattr(path, name, b); err == nil {
				text += fmt.Sprintf(" %s=%s", name, b[:n])
			}
		}
		tree[path[len(root):]] = text
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// TestUnpackSharedLayers unpacks images that share layers, in two stores of one
// directory: nobody waits for ever, and each is right.
func TestUnpackSharedLayers(t *testing.T) {
	store := t.TempDir()
	base := []v1.Layer{layerOf(t, dir("d", 0o710)), layerOf(t, file("d/a", "1"))}
	var wg sync.WaitGroup
	for i := range 6 {
		name := fmt.Sprintf("example.com/app:v%d", i)
		im := imageOf(t, append(base[:1+i%2:1+i%2], layerOf(t, file("d/own", fmt.Sprint(i))))...)
		path := dockerArchive(t, map[string]v1.Image{name: im})
		s := open(t, store, nil)
		wg.Go(func() {
			if _, err := s.Load(t.Context(), path); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	s := open(t, store, nil)
	for i := range 6 {
		root := mounted(t, s, fmt.Sprintf("example.com/app:v%d", i), t.TempDir()).Path
		wantFile(t, filepath.Join(root, "d/own"), fmt.Sprint(i))
		if fi, err := os.Stat(filepath.Join(root, "d")); err != nil || fi.Mode().Perm() != 0o710 {
			t.Errorf("d is %v, %v; want the mode of the lowest layer", fi, err)
		}
	}
}

// TestUnpackWaitsForNoOther: a layer is there for a second image as soon as it
// is unpacked, while the first image's top layer takes its time.
func TestUnpackWaitsForNoOther(t *testing.T) {
	f := newFlaky(t)
	base := layerOf(t, file("base", "1"))
	top := layerOf(t, file("top", "1"))
	slow := f.push(t, "slow:v1", imageOf(t, base, top))
	quick := f.push(t, "quick:v1", imageOf(t, base, layerOf(t, file("other", "1"))))
	digest, err := top.Digest()
	if err != nil {
		t.Fatal(err)
	}
	asked, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	f.on(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, digest.Hex) {
			once.Do(func() { close(asked) })
			<-release
			w.WriteHeader(http.StatusNotFound)
			return true
		}
		return false
	})
	s := open(t, t.TempDir(), nil)
	failed := make(chan error, 1)
	go func() {
		_, err := s.Pull(t.Context(), slow, nil)
		failed <- err
	}()
	<-asked
	_, err = s.Pull(t.Context(), quick, nil)
	close(release)
	if err != nil {
		t.Error(err)
	}
	if err := <-failed; err == nil {
		t.Error("an image without its top layer was pulled")
	}
	wantFile(t, filepath.Join(mounted(t, s, quick, t.TempDir()).Path, "base"), "1")
}

// TestUnpackBelowWhatIsGone: a layer has things deep below what an earlier one
// took away, or replaced, and what was there no longer counts.
func TestUnpackBelowWhatIsGone(t *testing.T) {
	root := mounted(t, loaded(t, nil,
		layerOf(t, dir("gone", 0o700), dir("gone/sub", 0o700), file("gone/sub/f", ""), dir("other", 0o700), dir("other/sub", 0o700)),
		layerOf(t, file(".wh.gone", ""), file("other", "a file")),
		layerOf(t, file("gone/sub/new", "1"), file("other/sub/new", "2"))), testName, t.TempDir()).Path
	wantFile(t, filepath.Join(root, "gone/sub/new"), "1")
	wantFile(t, filepath.Join(root, "other/sub/new"), "2")
	wantGone(t, filepath.Join(root, "gone/sub/f"))
	for _, d := range []string{"gone", "gone/sub", "other", "other/sub"} {
		if fi, err := os.Stat(filepath.Join(root, d)); err != nil || fi.Mode().Perm() != 0o755 {
			t.Errorf("%s is %v, %v; want a new directory", d, fi, err)
		}
	}
}

// TestUnpackBelowWhatIsHidden: a layer has things in a directory that only a
// layer has which an opaque directory above it hides.
func TestUnpackBelowWhatIsHidden(t *testing.T) {
	root := mounted(t, loaded(t, nil,
		layerOf(t, dir("a", 0o755), dir("a/b", 0o700), file("a/b/old", "")),
		layerOf(t, dir("a", 0o755), file("a/.wh..wh..opq", "")),
		layerOf(t, file("a/b/new", "1"))), testName, t.TempDir()).Path
	wantFile(t, filepath.Join(root, "a/b/new"), "1")
	wantGone(t, filepath.Join(root, "a/b/old"))
	if fi, err := os.Stat(filepath.Join(root, "a/b")); err != nil || fi.Mode().Perm() != 0o755 {
		t.Errorf("a/b is %v, %v; want a new directory", fi, err)
	}
}

// TestUnpackRefusesOne: one bad layer among good ones ends it all, and nothing
// is left.
// TestUnpackRefusesDamaged: what is wrong with a layer is not called a fault of the runtime.
func TestUnpackRefusesDamaged(t *testing.T) {
	for name, l := range map[string]v1.Layer{
		"link to nothing": layerOf(t, entry{name: "a", link: "b", kind: tar.TypeLink}),
		"below a file":    layerOf(t, file("a", ""), file("a/b", "")),
		"long name":       layerOf(t, file(strings.Repeat("a", 300), "")),
		"cut short":       layerOfTar(t, tarOf(t, file("a", strings.Repeat("a", 2000)))[:1000]),
	} {
		t.Run(name, func(t *testing.T) {
			store := t.TempDir()
			if _, err := open(t, store, nil).Load(t.Context(), archiveOf(t, imageOf(t, l))); !errors.Is(err, fault.Invalid) {
				t.Errorf("Load: %v; want fault.Invalid", err)
			}
			wantEmpty(t, store)
		})
	}
}

func TestUnpackRefusesOne(t *testing.T) {
	var layers []v1.Layer
	for i := range 8 {
		layers = append(layers, layerOf(t, file(fmt.Sprint(i), "x")))
	}
	layers = append(layers, layerOfTar(t, []byte("not a tar stream, and long enough to be one"+string(make([]byte, 1024)))))
	store := t.TempDir()
	s := open(t, store, nil)
	_, err := s.Load(t.Context(), archiveOf(t, imageOf(t, layers...)))
	if !errors.Is(err, fault.Invalid) {
		t.Errorf("a layer that is no tar stream: %v; want fault.Invalid", err)
	}
	wantEmpty(t, store)
}

// TestTooManyLayers: the kernel mounts 500, and an image with more is refused
// before anything is fetched.
func TestTooManyLayers(t *testing.T) {
	l := layerOf(t, file("a", ""))
	var layers []v1.Layer
	for range 501 {
		layers = append(layers, l)
	}
	store := t.TempDir()
	_, err := open(t, store, nil).Load(t.Context(), archiveOf(t, imageOf(t, layers...)))
	if !errors.Is(err, fault.Invalid) {
		t.Errorf("Load: %v; want fault.Invalid", err)
	}
	wantEmpty(t, store)
}
