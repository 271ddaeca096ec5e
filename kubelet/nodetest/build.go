package nodetest

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/nodekit-project/nodekit/internal/mount"
	"github.com/nodekit-project/nodekit/kubelet/node"
)

// Build builds a Go package, named as for go build in the test's directory, into a
// static program, and returns its path. Go's build cache makes a second build quick.
func Build(t testing.TB, pkg string) string {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command("go", "build", "-trimpath", "-o", dir+string(filepath.Separator), pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building %s: %v\n%s", pkg, err, out)
	}
	programs, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(programs) != 1 {
		t.Fatalf("building %s made %v (%v): want the package of one command", pkg, programs, err)
	}
	return programs[0]
}

// Image builds a Go package into an image with one file, its entry point, and returns
// the archive, for node.Config.Images.
func Image(t testing.TB, pkg, name string) string {
	t.Helper()
	archive, err := node.PackImage(Build(t, pkg), name)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "image.tar")
	if err := os.WriteFile(path, archive, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// ShortDir returns a temporary directory whose path is short enough for the sockets
// below it: unix(7) allows 107 bytes, and t.TempDir includes the name of the test.
func ShortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "nk-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := mount.RemoveAll(dir); err != nil {
			t.Errorf("removing the node's directory: %v", err)
		}
	})
	return dir
}
