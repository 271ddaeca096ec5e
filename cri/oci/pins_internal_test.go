package oci

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/nodekit-project/nodekit/cri"
	"github.com/nodekit-project/nodekit/internal/mount"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// TestUnpin unmounts what a sandbox has mounted: in one step below the mount of the
// sandbox's directory, and one by one as an earlier version left it.
func TestUnpin(t *testing.T) {
	testenv.Require(t, testenv.Root)
	for name, gathered := range map[string]bool{"gathered": true, "alone": false} {
		t.Run(name, func(t *testing.T) {
			r := &Runtime{cfg: Config{RunDir: t.TempDir()}}
			s := &cri.Sandbox{ID: "s"}
			dir := r.sandboxDir(s.ID)
			places := []string{"shm", "ipc", "uts", "net", "pid", "user"}
			if gathered {
				places = append(places, "target-c")
			}
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = mount.DetachTree(dir) })
			if gathered {
				if err := gather(dir); err != nil {
					t.Fatal(err)
				}
			}
			for _, p := range places {
				if err := os.MkdirAll(filepath.Join(dir, p), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			for _, p := range places {
				if err := mount.Tmpfs(filepath.Join(dir, p), nil); err != nil {
					t.Fatal(err)
				}
			}
			for range 2 {
				if err := r.unpin(s); err != nil {
					t.Error(err)
				}
			}
			if left, err := mount.Below(dir); err != nil || len(left) > 0 {
				t.Errorf("left: %q, %v", left, err)
			}
		})
	}
}
