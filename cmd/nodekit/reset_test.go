package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/nodekit-project/nodekit/internal/mount"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// TestRemoveRoot: a disk that is the operator's stays where it is mounted, with nothing
// of the node on it.
func TestRemoveRoot(t *testing.T) {
	testenv.Require(t, testenv.Root)
	for what, want := range map[string]int{"plain": 0, "mounted": 1} {
		parent := t.TempDir()
		root := filepath.Join(parent, "root")
		if err := os.Mkdir(root, 0o700); err != nil {
			t.Fatal(err)
		}
		if want > 0 {
			if err := mount.Tmpfs(root, nil); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = mount.Detach(root) })
		}
		if err := os.MkdirAll(filepath.Join(root, "images", "x"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := removeRoot(root); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		left, err := filepath.Glob(root + "*/*")
		dirs, _ := os.ReadDir(parent)
		if err != nil || len(left) > 0 || len(dirs) != want {
			t.Errorf("%s: there are %q and %q (%v)", what, dirs, left, err)
		}
	}
}
