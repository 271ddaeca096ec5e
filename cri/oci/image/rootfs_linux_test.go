package image_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/nodekit-project/nodekit/cri/oci/image"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// mountsOn counts the mounts at path.
func mountsOn(t testing.TB, path string) int {
	t.Helper()
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(info), " "+path+" ")
}

func TestRootfsKeepsWhatWasWritten(t *testing.T) {
	s, dir := loaded(t, nil, layerOf(t, file("a", "below"))), t.TempDir()
	first := mounted(t, s, testName, dir)
	if err := os.WriteFile(filepath.Join(first.Path, "a"), []byte("above"), 0o600); err != nil {
		t.Fatal(err)
	}
	again, err := s.Rootfs(t.Context(), first.ImageID, dir)
	if err != nil || again.Path != first.Path || again.ImageID != first.ImageID {
		t.Errorf("the second Rootfs gave %v, %v; want %v", again, err, first)
	}
	if n := mountsOn(t, first.Path); n != 1 {
		t.Errorf("%d mounts after two calls, want 1", n)
	}
	other := mounted(t, s, testName, t.TempDir())
	wantFile(t, filepath.Join(other.Path, "a"), "below")
	wantFile(t, filepath.Join(first.Path, "a"), "above")
}

// TestRootfsWithoutSpread: records are kept also where they cannot be spread over the disk.
func TestRootfsWithoutSpread(t *testing.T) {
	at := t.TempDir()
	if err := os.WriteFile(filepath.Join(at, "spread"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s := open(t, at, nil)
	if _, err := s.Load(t.Context(), dockerArchive(t, map[string]v1.Image{testName: imageOf(t, layerOf(t, file("a", "1")))})); err != nil {
		t.Fatal(err)
	}
	mounted(t, s, testName, t.TempDir())
	if records, _ := filepath.Glob(filepath.Join(at, "mounts", "*")); len(records) != 1 {
		t.Errorf("records: %v", records)
	}
}

// TestMountElsewhere: a root file system is mounted where the View says, and nothing of it
// is left there.
func TestMountElsewhere(t *testing.T) {
	s, dir := loaded(t, nil, layerOf(t, file("a", "1"))), t.TempDir()
	at := filepath.Join(t.TempDir(), "root")
	for _, release := range []func(string) error{s.ReleaseRootfs, s.ForgetRootfs} {
		for _, v := range []image.View{{At: at}, {At: at}, {}} { // the first call decides
			got, err := s.Mount(t.Context(), testName, dir, v)
			if err != nil || got.Path != at || mountsOn(t, at) != 1 {
				t.Fatalf("mounted at %v, %v; %d mounts", got, err, mountsOn(t, at))
			}
		}
		wantFile(t, filepath.Join(at, "a"), "1")
		for range 2 {
			if err := release(dir); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := os.Lstat(at); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("left: %v", err)
		}
		if err := errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o700)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Mount(t.Context(), testName, dir, image.View{At: filepath.Join(at, "none", "root")}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("where there is no directory: %v", err)
	}
}

func TestRootfsErrors(t *testing.T) {
	s, dir := loaded(t, nil, layerOf(t, file("a", "1"))), t.TempDir()
	if _, err := s.Rootfs(t.Context(), "example.com/none", dir); !errors.Is(err, fault.NotFound) {
		t.Errorf("an image that is not there: %v, want fault.NotFound", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("it left %v, %v", left, err)
	}
	if _, err := s.Rootfs(t.Context(), "Not A Name", dir); !errors.Is(err, fault.Invalid) {
		t.Errorf("a reference that is none: %v, want fault.Invalid", err)
	}
	mounted(t, s, testName, dir)
	if _, err := s.Load(t.Context(), dockerArchive(t, map[string]v1.Image{"other:v1": imageOf(t, layerOf(t, file("a", "2")))})); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Rootfs(t.Context(), "other:v1", dir); !errors.Is(err, fault.AlreadyExists) {
		t.Errorf("a directory that is taken: %v, want fault.AlreadyExists", err)
	}
}

// TestRootfsAfterCrash puts the disk into every state in which a kill can
// leave it and expects both calls to cope.
func TestRootfsAfterCrash(t *testing.T) {
	for name, crash := range map[string]func(t *testing.T, store, dir string){
		"after the record":  func(t *testing.T, _, dir string) { undo(t, dir, "rootfs", "upper", "work") },
		"after the upper":   func(t *testing.T, _, dir string) { undo(t, dir, "rootfs", "work") },
		"before the mount":  func(t *testing.T, _, dir string) { undo(t, dir) },
		"in the release":    func(t *testing.T, _, dir string) { undo(t, dir, "rootfs", "upper") },
		"torn record":       func(t *testing.T, store, dir string) { undo(t, dir); truncateRecords(t, store) },
		"mounted, torn":     func(t *testing.T, store, _ string) { truncateRecords(t, store) },
		"nothing happened":  func(*testing.T, string, string) {},
		"reboot, run empty": func(t *testing.T, _, dir string) { undo(t, dir, "rootfs", "upper", "work", "") },
	} {
		t.Run(name, func(t *testing.T) {
			store, dir := t.TempDir(), filepath.Join(t.TempDir(), "c1")
			s := open(t, store, nil)
			if _, err := s.Load(t.Context(), dockerArchive(t, map[string]v1.Image{testName: imageOf(t, layerOf(t, file("a", "b")))})); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				path := mounted(t, s, testName, dir).Path
				crash(t, store, dir)
				s = open(t, store, nil)
				wantFile(t, filepath.Join(mounted(t, s, testName, dir).Path, "a"), "b")
				if n := mountsOn(t, path); n != 1 {
					t.Errorf("%d mounts, want 1", n)
				}
				crash(t, store, dir)
				s = open(t, store, nil)
				for range 2 {
					if err := s.ReleaseRootfs(dir); err != nil {
						t.Fatal(err)
					}
				}
				if left, err := os.ReadDir(dir); len(left) > 0 || mountsOn(t, path) > 0 {
					t.Errorf("after ReleaseRootfs %d mounts and %v are left (%v)", mountsOn(t, path), left, err)
				}
			}
			if left, _ := filepath.Glob(filepath.Join(store, "mounts", "*")); len(left) > 0 {
				t.Errorf("records are left: %v", left)
			}
		})
	}
}

func TestRootfsRemounted(t *testing.T) {
	store, dir := t.TempDir(), t.TempDir()
	s := open(t, store, nil)
	if _, err := s.Load(t.Context(), dockerArchive(t, map[string]v1.Image{testName: imageOf(t, layerOf(t, file("a", "below")))})); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(mounted(t, s, testName, dir).Path, "a")
	if err := os.WriteFile(path, []byte("above"), 0o600); err != nil {
		t.Fatal(err)
	}
	undo(t, dir)
	mounted(t, s, testName, dir)
	wantFile(t, path, "above")

	undo(t, dir)
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	records, err := filepath.Glob(filepath.Join(store, "mounts", "*.json"))
	if err != nil || len(records) != 1 {
		t.Fatalf("records %v, %v; want one", records, err)
	}
	record, err := os.ReadFile(records[0])
	if err != nil {
		t.Fatal(err)
	}
	record = bytes.Replace(record, bytes.TrimSpace(boot), []byte("an earlier boot"), 1)
	if err := os.WriteFile(records[0], record, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time is in one boot with the first
		mounted(t, s, testName, dir)
		wantFile(t, path, "below")
		if err := os.WriteFile(filepath.Join(filepath.Dir(path), "new"), []byte("kept"), 0o600); err != nil {
			t.Fatal(err)
		}
		undo(t, dir)
	}
	mounted(t, s, testName, dir)
	wantFile(t, filepath.Join(filepath.Dir(path), "new"), "kept")
}

// undo unmounts the root file system in dir and removes the named parts.
func undo(t *testing.T, dir string, parts ...string) {
	t.Helper()
	unmountAll(t, filepath.Join(dir, "rootfs"))
	for _, p := range parts {
		if err := os.RemoveAll(filepath.Join(dir, p)); err != nil {
			t.Fatal(err)
		}
	}
}

func truncateRecords(t *testing.T, store string) {
	t.Helper()
	records, err := filepath.Glob(filepath.Join(store, "mounts", "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range records {
		if err := os.Truncate(r, 0); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRootfsOutlivesItsImage(t *testing.T) {
	store, dir := t.TempDir(), t.TempDir()
	s := open(t, store, nil)
	if _, err := s.Load(t.Context(), dockerArchive(t, map[string]v1.Image{testName: imageOf(t, layerOf(t, file("a", "b")))})); err != nil {
		t.Fatal(err)
	}
	root := mounted(t, s, testName, dir)
	for range 2 { // removing is idempotent
		if err := s.Remove(t.Context(), testName); err != nil {
			t.Fatal(err)
		}
	}
	unmountAll(t, root.Path)
	s = open(t, store, nil) // collects, and must spare the layer in use
	again, err := s.Rootfs(t.Context(), root.ImageID, dir)
	if err != nil {
		t.Fatal(err)
	}
	wantFile(t, filepath.Join(again.Path, "a"), "b")
	if err := s.ReleaseRootfs(dir); err != nil {
		t.Fatal(err)
	}
	wantEmpty(t, store)
}

func TestRootfsRestoresLostLayers(t *testing.T) {
	store := t.TempDir()
	s := open(t, store, nil)
	im := imageOf(t, layerOf(t, file("a", "b")), layerOf(t, file("c", "d")))
	if _, err := s.Load(t.Context(), dockerArchive(t, map[string]v1.Image{testName: im})); err != nil {
		t.Fatal(err)
	}
	layers, err := filepath.Glob(filepath.Join(store, "layers", "*"))
	if err != nil || len(layers) != 2 {
		t.Fatalf("layers %v, %v; want two", layers, err)
	}
	for _, l := range layers {
		if err := os.RemoveAll(l); err != nil {
			t.Fatal(err)
		}
	}
	root := mounted(t, s, testName, t.TempDir())
	wantFile(t, filepath.Join(root.Path, "a"), "b")
	wantFile(t, filepath.Join(root.Path, "c"), "d")
}

func TestRootfsMergesLayers(t *testing.T) {
	s := loaded(t, nil,
		layerOf(t, dir("tmp", 0o1777), dir("gone", 0o755), file("gone/x", ""), dir("opaque", 0o755), file("opaque/old", ""), file("kept", "1")),
		layerOf(t, file("tmp/f", "2"), file(".wh.gone", ""), file("opaque/.wh..wh..opq", ""), file("opaque/new", "3")))
	root := mounted(t, s, testName, t.TempDir()).Path
	wantFile(t, filepath.Join(root, "kept"), "1")
	wantFile(t, filepath.Join(root, "tmp/f"), "2")
	wantFile(t, filepath.Join(root, "opaque/new"), "3")
	wantGone(t, filepath.Join(root, "gone"))
	wantGone(t, filepath.Join(root, "opaque/old"))
	fi, err := os.Stat(filepath.Join(root, "tmp"))
	if err != nil || fi.Mode() != fs.ModeDir|fs.ModeSticky|0o777 {
		t.Errorf("the second layer only implies tmp, which is now %v (%v); want the mode of the first", fi.Mode(), err)
	}
	if err := os.Remove(filepath.Join(root, "kept")); err != nil {
		t.Fatal(err)
	}
	wantGone(t, filepath.Join(root, "kept"))
}

// TestRootfsIsOpen: programs of other users than root must reach their files,
// whatever umask this process has.
func TestRootfsIsOpen(t *testing.T) {
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	for name, layers := range map[string][]v1.Layer{"a layer": {layerOf(t, file("a/b", ""))}, "no layer": nil} {
		root := mounted(t, loaded(t, nil, layers...), testName, t.TempDir()).Path
		for _, dir := range []string{root, filepath.Join(root, "a")} {
			if fi, err := os.Stat(dir); err == nil && fi.Mode().Perm() != 0o755 {
				t.Errorf("with %s %s is %v, want mode 0755", name, dir, fi.Mode())
			}
		}
	}
}

func TestRootfsOfManyLayers(t *testing.T) {
	var layers []v1.Layer
	for i := range 130 { // docker's limit is 127; the paths alone take 13 KB
		layers = append(layers, layerOf(t, file(fmt.Sprint("f", i), ""), file("top", fmt.Sprint(i))))
	}
	s := loaded(t, nil, layers...)
	root := mounted(t, s, testName, t.TempDir()).Path
	wantFile(t, filepath.Join(root, "top"), "129")
	wantFile(t, filepath.Join(root, "f0"), "")
}

func TestRootfsOfNoLayers(t *testing.T) {
	root := mounted(t, loaded(t, nil), testName, t.TempDir()).Path
	if left, err := os.ReadDir(root); err != nil || len(left) > 0 {
		t.Errorf("the file system of an empty image has %v, %v", left, err)
	}
}

func TestRootfsInOddDirectories(t *testing.T) {
	odd := filepath.Join(t.TempDir(), `a:b,c\d e`)
	s := open(t, filepath.Join(odd, "store"), nil)
	if _, err := s.Load(t.Context(), dockerArchive(t, map[string]v1.Image{testName: imageOf(t, layerOf(t, file("a", "b")))})); err != nil {
		t.Fatal(err)
	}
	root := mounted(t, s, testName, filepath.Join(odd, "container")).Path
	wantFile(t, filepath.Join(root, "a"), "b")
}

func TestRootfsConcurrently(t *testing.T) {
	s, shared := loaded(t, nil, layerOf(t, file("a", "b"))), t.TempDir()
	var wg sync.WaitGroup
	for i := range 16 {
		own := t.TempDir()
		wg.Go(func() {
			for _, d := range []string{shared, own} {
				if _, err := s.Rootfs(t.Context(), testName, d); err != nil {
					t.Error(err)
				}
			}
			if i == 0 {
				_ = s.Remove(t.Context(), testName+"-other")
			}
			if err := s.ReleaseRootfs(own); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := mountsOn(t, filepath.Join(shared, "rootfs")); n != 1 {
		t.Errorf("%d mounts, want 1", n)
	}
	if err := s.ReleaseRootfs(shared); err != nil {
		t.Error(err)
	}
}

func TestReleaseRootfsInUse(t *testing.T) {
	s, dir := loaded(t, nil, layerOf(t, file("a", "b"))), t.TempDir()
	root := mounted(t, s, testName, dir).Path
	f, err := os.Open(filepath.Join(root, "a"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := s.ReleaseRootfs(dir); err != nil {
		t.Fatal(err)
	}
	if n := mountsOn(t, root); n != 0 {
		t.Errorf("%d mounts are left", n)
	}
}

func TestReleaseRootfsOfNothing(t *testing.T) {
	s := open(t, t.TempDir(), nil)
	for _, dir := range []string{t.TempDir(), filepath.Join(t.TempDir(), "never")} {
		if err := s.ReleaseRootfs(dir); err != nil {
			t.Errorf("ReleaseRootfs(%q): %v", dir, err)
		}
	}
}

// TestUnpackIsSafe unpacks layers that try to reach out of their directory.
func TestUnpackIsSafe(t *testing.T) {
	link := func(name, to string) entry { return entry{name: name, link: to, kind: tar.TypeSymlink} }
	hard := func(name, to string) entry { return entry{name: name, link: to, kind: tar.TypeLink} }
	for name, layer := range map[string][]entry{
		"parent":              {file("../escaped", "x"), file("../../escaped", "x"), file("a/../../../escaped", "x")},
		"absolute":            {file("OUT/escaped", "x")},
		"symlink":             {link("out", "OUT"), file("out/escaped", "x")},
		"symlink to parent":   {link("out", "../../.."), file("out/escaped", "x")},
		"symlink chain":       {dir("d", 0o755), link("d/up", ".."), link("out", "d/up/../.."), file("out/escaped", "x")},
		"hard link":           {hard("secret", "OUT/secret")},
		"hard link by parent": {hard("secret", "../../../../../../../../OUT/secret")},
		"hard link via link":  {link("out", "OUT"), hard("secret", "out/secret")},
		"write via hard link": {link("out", "OUT/secret"), hard("h", "out"), file("h", "overwritten")},
		"whiteout":            {file("OUT/.wh.secret", ""), file("../../../../../../../OUT/.wh.secret", "")},
		"whiteout via link":   {link("out", "OUT"), file("out/.wh.secret", "")},
		"whiteout of parent":  {dir("d", 0o755), file("d/.wh...", "")},
		"opaque via link":     {link("out", "OUT"), file("out/.wh..wh..opq", "")},
		"replaced by link":    {dir("d", 0o755), file("d/x", ""), link("d", "OUT"), file("d/escaped", "x")},
	} {
		t.Run(name, func(t *testing.T) {
			outside := t.TempDir()
			if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o600); err != nil {
				t.Fatal(err)
			}
			for i := range layer {
				layer[i].name = strings.ReplaceAll(layer[i].name, "OUT", outside)
				layer[i].link = strings.ReplaceAll(layer[i].link, "OUT", outside)
			}
			store := t.TempDir()
			s := open(t, store, nil)
			_, err := s.Load(t.Context(), dockerArchive(t, map[string]v1.Image{testName: imageOf(t, layerOf(t, layer...))}))
			t.Logf("Load: %v", err)
			wantFile(t, filepath.Join(outside, "secret"), "secret")
			wantGone(t, filepath.Join(outside, "escaped"))
			for _, place := range []string{store, filepath.Dir(store), filepath.Join(store, "ingest"), filepath.Join(store, "layers"), "/"} {
				wantGone(t, filepath.Join(place, "escaped"))
			}
			if err != nil {
				return
			}
			root := mounted(t, s, testName, t.TempDir()).Path
			if got, err := os.ReadFile(filepath.Join(root, "secret")); err == nil {
				t.Errorf("the image holds the outside file %q", got)
			}
		})
	}
}

func TestUnpackLeavesOutDevices(t *testing.T) {
	s := loaded(t, nil, layerOf(t, entry{name: "disk", kind: tar.TypeBlock}, entry{name: "mem", kind: tar.TypeChar}, file("a", "b"),
		entry{name: "hidden", body: "x", mode: 0o644, pax: map[string]string{"SCHILY.xattr.trusted.overlay.redirect": "/a"}}))
	root := mounted(t, s, testName, t.TempDir()).Path
	wantFile(t, filepath.Join(root, "a"), "b")
	wantFile(t, filepath.Join(root, "hidden"), "x")
	wantGone(t, filepath.Join(root, "disk"))
	wantGone(t, filepath.Join(root, "mem"))
}

func TestUnpackRefusesBombs(t *testing.T) {
	for name, c := range map[string]struct {
		layer v1.Layer
		text  string
	}{
		"large files":    {layerOf(t, file("a", strings.Repeat("\x00", 600<<10)), file("b", strings.Repeat("\x00", 600<<10))), "more than 1048576 bytes"},
		"many files":     {layerOf(t, manyFiles(200)...), "more than 100 files"},
		"sparse file":    {layerOfTar(t, sparseBomb(t)), "more than 1048576 bytes"},
		"long padding":   {layerOfTar(t, append(tarOf(t, file("a", "")), make([]byte, 4<<20)...)), "stream is longer"},
		"compressed tar": {layerOf(t, file("a", strings.Repeat("a", 4<<20))), "more than 1048576 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			store := t.TempDir()
			s := open(t, store, &image.Options{MaxLayerBytes: 1 << 20, MaxLayerEntries: 100})
			layout := archiveOf(t, imageOf(t, c.layer))
			_, err := s.Load(t.Context(), layout)
			if !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("Load: %v; want fault.Invalid with %q", err, c.text)
			}
			wantEmpty(t, store)
		})
	}
}

func manyFiles(n int) (all []entry) {
	for i := range n {
		all = append(all, file(fmt.Sprint(i), ""))
	}
	return all
}

// sparseBomb is a tar stream of one file that announces one TiB and holds
// nothing, in GNU's 1.0 sparse format.
func sparseBomb(t *testing.T) []byte {
	t.Helper()
	body := "1\n1099511627776\n0\n"
	body += strings.Repeat("\x00", 512-len(body))
	raw := tarOf(t, entry{name: "GNUSparseFile.0/bomb", body: body, mode: 0o644, pax: map[string]string{
		"XNU.sparse.major": "1", "XNU.sparse.minor": "0", "XNU.sparse.name": "bomb", "XNU.sparse.realsize": "1099511627776",
	}})
	return bytes.ReplaceAll(raw, []byte("XNU.sparse"), []byte("GNU.sparse")) // tar.Writer leaves the real ones out
}
