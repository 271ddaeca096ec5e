package daemon

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// Whatever a container puts in the place of its log, no other file is touched and
// nobody waits.
func TestOpenLogTouchesNoOtherFile(t *testing.T) {
	for name, put := range map[string]func(path, other string) error{
		"a symbolic link": func(path, other string) error { return os.Symlink(other, path) },
		"a hard link":     func(path, other string) error { return os.Link(other, path) },
		"a pipe":          func(path, _ string) error { return unix.Mkfifo(path, 0o600) },
		"a dangling link": func(path, other string) error { return os.Symlink(other+".new", path) },
	} {
		dir := t.TempDir()
		path, other := filepath.Join(dir, "0.log"), filepath.Join(dir, "other")
		if err := errors.Join(os.WriteFile(other, []byte("kept"), 0o600), put(path, other)); err != nil {
			t.Fatal(err)
		}
		fd, err := openLog(path)
		if err == nil {
			t.Errorf("%s was opened", name)
			unix.Close(fd)
		} else if !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Lstat(other + ".new"); err == nil {
			t.Errorf("%s: another file was made", name)
		}
	}
	path := filepath.Join(t.TempDir(), "0.log")
	for range 2 { // made, and gone on with
		fd, err := openLog(path)
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(fd)
	}
}
