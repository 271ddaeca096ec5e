package rawfile_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/rawfile"
)

func TestRead(t *testing.T) {
	for _, size := range []int{0, 1, 511, 512, 513, 5000} {
		want := bytes.Repeat([]byte("x"), size)
		file := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(file, want, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := rawfile.Read(file); err != nil || !bytes.Equal(got, want) {
			t.Errorf("read %d bytes of %d: %v", len(got), size, err)
		}
	}
	if data, err := rawfile.Read("/proc/self/stat"); err != nil || len(data) == 0 {
		t.Errorf("/proc/self/stat holds %q, %v", data, err)
	}
	var at *fs.PathError
	if _, err := rawfile.Read("/nowhere"); !errors.Is(err, fs.ErrNotExist) || !errors.As(err, &at) || at.Path != "/nowhere" {
		t.Errorf("a file that is not there: %v", err)
	}
}

// TestOpen: a fresh file, the errors of package os, and a FIFO that is not waited for.
func TestOpen(t *testing.T) {
	dir := t.TempDir()
	f, err := rawfile.Open(filepath.Join(dir, "f"), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o640)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil || fi.Mode().Perm() != 0o640 || f.Name() != filepath.Join(dir, "f") {
		t.Errorf("%q: %v, %v", f.Name(), fi, err)
	}
	if flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("programs that are executed inherit it: %#x, %v", flags, err)
	}
	var at *fs.PathError
	if _, err := rawfile.Open(filepath.Join(dir, "f"), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o640); !errors.Is(err, fs.ErrExist) || !errors.As(err, &at) {
		t.Errorf("a second time: %v", err)
	}
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	q, err := rawfile.Open(fifo, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
}
