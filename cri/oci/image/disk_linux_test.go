package image_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cri/oci/image"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// smallDisk mounts a file system of that many bytes, or with so few inodes.
func smallDisk(t testing.TB, options string) string {
	t.Helper()
	testenv.Require(t, testenv.Root)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unmountAll(t, dir) })
	return dir
}

// TestFullDisk fills the disk while a layer is fetched, while one is unpacked,
// and while an archive is loaded. It says so, leaves nothing, and works when there
// is space.
func TestFullDisk(t *testing.T) {
	r := newRegistry(t)
	big := imageOf(t, layerOf(t, noise(t, 6<<20)))
	flat := imageOf(t, layerOf(t, file("zeros", strings.Repeat("\x00", 6<<20))))
	many := imageOf(t, layerOf(t, manyFiles(2000)...))
	small := imageOf(t, layerOf(t, file("a", "b")))
	refs := map[string]string{}
	for name, im := range map[string]v1.Image{"big": big, "flat": flat, "many": many, "small": small} {
		refs[name] = r.push(t, name+":v1", im)
	}
	pull := func(ref string) func(s *image.Store) error {
		return func(s *image.Store) error { _, err := s.Pull(t.Context(), ref, nil); return err }
	}
	load := func(path string) func(s *image.Store) error {
		return func(s *image.Store) error { _, err := s.Load(t.Context(), path); return err }
	}
	for name, c := range map[string]struct {
		disk string
		do   func(s *image.Store) error
	}{
		"fetching":  {"size=4m", pull(refs["big"])},
		"unpacking": {"size=4m", pull(refs["flat"])},
		"no inodes": {"nr_inodes=500", pull(refs["many"])},
		"loading":   {"size=4m", load(dockerArchive(t, map[string]v1.Image{"example.com/big:v1": big}))},
	} {
		t.Run(name, func(t *testing.T) {
			store := smallDisk(t, c.disk)
			s := open(t, store, nil)
			err := c.do(s)
			if !errors.Is(err, fault.Exhausted) || !strings.Contains(fmt.Sprint(err), "the disk of the image store "+store+" is full") {
				t.Errorf("error %v; want fault.Exhausted that names the store", err)
			}
			wantEmpty(t, store)
			if all, err := s.List(); err != nil || len(all) > 0 {
				t.Errorf("List: %v, %v", all, err)
			}
			if err := pull(refs["small"])(s); err != nil {
				t.Errorf("a small image afterwards: %v", err)
			}
		})
	}
}

// TestFullDiskToTheLastByte leaves less and less space, so that every write is
// once the one that fails.
func TestFullDiskToTheLastByte(t *testing.T) {
	r := newRegistry(t)
	ref := r.push(t, "app:v1", imageOf(t, layerOf(t, noise(t, 20_000)), layerOf(t, manyFiles(20)...)))
	store := smallDisk(t, "size=4m")
	s := open(t, store, nil)
	filler := filepath.Join(store, "filler")
	failed := false
	for left := 0; left < 80; left += 2 { // pages
		if err := os.Remove(filler); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		var st unix.Statfs_t
		if err := unix.Statfs(store, &st); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filler, make([]byte, (int64(st.Bavail)-int64(left))*st.Bsize), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Pull(t.Context(), ref, nil); err == nil {
			if !failed {
				t.Error("it never failed: the test finds nothing")
			}
			if err := s.Remove(t.Context(), ref); err != nil {
				t.Errorf("Remove with %d pages left: %v", left, err)
			}
			continue
		} else if !errors.Is(err, fault.Exhausted) {
			t.Errorf("with %d pages left: %v; want fault.Exhausted", left, err)
		}
		failed = true
		if all, err := s.List(); err != nil || len(all) > 0 {
			t.Errorf("with %d pages left the store lists %v, %v", left, all, err)
		}
		wantEmpty(t, store)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Pull(t.Context(), ref, nil); err != nil {
		t.Errorf("with space again: %v", err)
	}
}

// TestRemoveOnFullDisk: what is removed to make space must not need any.
func TestRemoveOnFullDisk(t *testing.T) {
	store := smallDisk(t, "size=8m")
	s := open(t, store, nil)
	if _, err := s.Load(t.Context(), dockerArchive(t, map[string]v1.Image{testName: imageOf(t, layerOf(t, file("a", "b")))})); err != nil {
		t.Fatal(err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(store, &st); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(store, "filler"), make([]byte, int64(st.Bavail)*st.Bsize), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(t.Context(), testName); err != nil {
		t.Fatal(err)
	}
	wantEmpty(t, store)
	if err := os.Remove(filepath.Join(store, "filler")); err != nil {
		t.Fatal(err)
	}
	open(t, store, nil)
	if fi, err := os.Stat(filepath.Join(store, "reserve")); err != nil || fi.Size() == 0 {
		t.Errorf("the reserve is %v, %v after the next start", fi, err)
	}
}

// TestReadOnlyStore: what only reads works, and the rest says what is wrong.
func TestReadOnlyStore(t *testing.T) {
	r := newRegistry(t)
	ref := r.push(t, "app:v1", imageOf(t, layerOf(t, file("a", "b"))))
	other := r.push(t, "other:v1", imageOf(t, layerOf(t, file("c", "d"))))
	store := smallDisk(t, "size=8m")
	s := open(t, store, nil)
	if _, err := s.Pull(t.Context(), ref, nil); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("", store, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	if im, err := s.Status(t.Context(), ref); err != nil || im == nil {
		t.Errorf("Status: %v, %v", im, err)
	}
	if _, err := s.FsInfo(t.Context()); err != nil {
		t.Errorf("FsInfo: %v", err)
	}
	_, pullErr := s.Pull(t.Context(), other, nil)
	_, rootErr := s.Rootfs(t.Context(), ref, filepath.Join(t.TempDir(), "c"))
	_, openErr := image.Open(store, nil)
	_, newErr := image.Open(filepath.Join(store, "new"), nil)
	for call, err := range map[string]error{
		"Pull": pullErr, "Rootfs": rootErr, "Remove": s.Remove(t.Context(), ref), "Open": openErr, "Open of a new one": newErr,
		"Pin": s.Pin(t.Context(), []string{"*"}),
	} {
		if !errors.Is(err, fault.FailedPrecondition) || !strings.Contains(fmt.Sprint(err), "cannot be written to") {
			t.Errorf("%s: %v; want fault.FailedPrecondition that says so", call, err)
		}
	}
}
