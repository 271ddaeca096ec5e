package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nodekit-project/nodekit/internal/mount"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// TestRemoveRoot: a disk that is the operator's stays where it is mounted, with nothing
// of the node on it.
func TestRemoveRoot(t *testing.T) {
	testenv.Require(t, testenv.Root)
	for what, want := range map[string][]string{"plain": nil, "mounted": {"", "/lost+found"}} {
		root := filepath.Join(t.TempDir(), "root")
		if err := os.Mkdir(root, 0o700); err != nil {
			t.Fatal(err)
		}
		if want != nil {
			if err := mount.Tmpfs(root, nil); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = mount.Detach(root) })
		}
		for _, dir := range append([]string{"/images/x"}, want...) {
			if err := os.MkdirAll(root+dir, 0o700); err != nil {
				t.Fatal(err)
			}
		}
		if err := removeRoot(root); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		var left []string
		err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
			if err == nil {
				left = append(left, strings.TrimPrefix(path, root))
			}
			return nil
		})
		if err != nil || !slices.Equal(left, want) {
			t.Errorf("%s: there are %q (%v), want %q", what, left, err, want)
		}
	}
}
