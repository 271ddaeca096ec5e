package mount_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/nodekit-project/nodekit/csi"
	"github.com/nodekit-project/nodekit/csi/mount"
	internalmount "github.com/nodekit-project/nodekit/internal/mount"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

func root(t *testing.T, names ...string) string {
	t.Helper()
	testenv.Require(t, testenv.Root)
	dir := t.TempDir()
	t.Cleanup(func() {
		if err := internalmount.DetachTree(dir); err != nil {
			t.Error(err)
		}
	})
	for _, n := range names {
		if err := os.Mkdir(filepath.Join(dir, n), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestPublishIsIdempotent(t *testing.T) {
	dir := root(t, "a", "b")
	a, target := filepath.Join(dir, "a"), filepath.Join(dir, "t")
	for range 2 {
		if err := mount.Publish(a, target, false); err != nil {
			t.Fatal(err)
		}
	}
	if points, err := internalmount.Below(dir); err != nil || len(points) != 1 {
		t.Errorf("mounts %q, %v", points, err)
	}
	if err := mount.Publish(a, target, true); !errors.Is(err, csi.ErrAlreadyExists) {
		t.Errorf("read-only at the same target: %v", err)
	}
	if err := mount.Publish(filepath.Join(dir, "b"), target, false); !errors.Is(err, csi.ErrAlreadyExists) {
		t.Errorf("another source: %v", err)
	}
	if err := mount.Publish(filepath.Join(dir, "none"), filepath.Join(dir, "t2"), false); !errors.Is(err, csi.ErrNotFound) {
		t.Errorf("no source: %v", err)
	}
	for range 2 {
		if err := mount.Unpublish(target); err != nil {
			t.Fatal(err)
		}
	}
}

func TestPublishOfAFile(t *testing.T) {
	dir := root(t)
	src, target := filepath.Join(dir, "f"), filepath.Join(dir, "t")
	if err := os.WriteFile(src, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := mount.Publish(src, target, true); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(target); err != nil || string(b) != "x" {
		t.Errorf("%q, %v", b, err)
	}
	if err := mount.Unpublish(target); err != nil {
		t.Error(err)
	}
}

func TestUnpublishKeepsWhatIsNotAMount(t *testing.T) {
	dir := root(t, "t")
	data := filepath.Join(dir, "t", "data")
	if err := os.WriteFile(data, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := mount.Unpublish(filepath.Join(dir, "t")); err == nil {
		t.Error("a directory with data was removed")
	}
	if _, err := os.Stat(data); err != nil {
		t.Error(err)
	}
}

func TestLinksAreNotFollowed(t *testing.T) {
	dir := root(t, "a", "victim")
	link := filepath.Join(dir, "link")
	if err := os.Symlink(filepath.Join(dir, "victim"), link); err != nil {
		t.Fatal(err)
	}
	if err := mount.Publish(filepath.Join(dir, "a"), link, false); !errors.Is(err, csi.ErrInvalid) {
		t.Errorf("publishing at a link: %v", err)
	}
}
