package beneath_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/beneath"
)

func TestOpen(t *testing.T) {
	top := t.TempDir()
	dir, link := filepath.Join(top, "real"), filepath.Join(top, "link")
	for _, err := range []error{
		os.MkdirAll(filepath.Join(dir, "sub"), 0o755), os.WriteFile(filepath.Join(top, "file"), nil, 0o600), os.WriteFile(filepath.Join(dir, "file"), nil, 0o600),
		os.Symlink(dir, link), os.Symlink("..", filepath.Join(dir, "out")), os.Symlink("sub", filepath.Join(dir, "in")), os.Symlink("file", filepath.Join(dir, "last")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]error{
		"file": nil, "sub/new": nil, "sub/../file": nil, "./file": nil,
		"out/file": unix.ELOOP, "in/new": unix.ELOOP, "last": unix.ELOOP, "../file": unix.EXDEV, "/etc/passwd": unix.EXDEV, "none/new": unix.ENOENT, "file/new": unix.ENOTDIR,
	} {
		fd, err := beneath.Open(link, name, unix.O_RDWR|unix.O_CREAT, 0o640)
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
		if err == nil {
			if err := unix.Close(fd); err != nil {
				t.Error(err)
			}
		}
	}
	if _, err := beneath.Open(filepath.Join(dir, "file"), "x", unix.O_RDONLY, 0); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("below a file: %v", err)
	}
}
