package topdir_test

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/topdir"
)

// TestMake: an ext4 takes the hint and keeps it; elsewhere it is nobody's concern.
func TestMake(t *testing.T) {
	parent := t.TempDir()
	var fs unix.Statfs_t
	if err := unix.Statfs(parent, &fs); err != nil {
		t.Fatal(err)
	}
	ext4 := fs.Type == unix.EXT4_SUPER_MAGIC
	if is, err := topdir.Marked(parent); is || ext4 && err != nil {
		t.Fatalf("what nobody has asked for it: %t, %v", is, err)
	}
	dir := filepath.Join(parent, "a", "b")
	for range 2 { // the second finds it there
		if err := topdir.Make(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if is, err := topdir.Marked(dir); ext4 && (!is || err != nil) {
			t.Errorf("marked: %t, %v", is, err)
		}
	}
	file := filepath.Join(parent, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := topdir.Make(file, 0o700); err == nil {
		t.Error("a file is in the way, and that is no error")
	}
	if is, err := topdir.Marked(filepath.Join(parent, "none")); is || err == nil {
		t.Errorf("what is not there is marked: %t, %v", is, err)
	}
}
