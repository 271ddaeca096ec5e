package topdir_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/testenv"
	"github.com/nodekit-project/nodekit/internal/topdir"
)

func write(text string) func(*os.File) error {
	return func(f *os.File) error {
		_, err := f.WriteString(text)
		return err
	}
}

// TestSpreadCreate: files with their content and mode, made by many at once, and nothing
// else in their directory.
func TestSpreadCreate(t *testing.T) {
	s, dir := topdir.Spread(filepath.Join(t.TempDir(), "a", "spread")), t.TempDir()
	var all sync.WaitGroup
	for i := range 100 {
		all.Go(func() {
			name := "f" + strings.Repeat("x", i)
			if err := s.Create(filepath.Join(dir, name), 0o640, write(name)); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 100 {
		t.Fatalf("%d files, %v", len(entries), err)
	}
	for _, e := range entries {
		fi, _ := e.Info()
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if string(text) != e.Name() || err != nil || fi.Mode() != 0o640 || fi.Sys().(*syscall.Stat_t).Nlink != 1 {
			t.Errorf("%q, %v, mode %v", text, err, fi.Mode())
		}
	}
	parts, _ := filepath.Glob(filepath.Join(string(s), "*"))
	left, _ := filepath.Glob(filepath.Join(string(s), "*", "*"))
	if len(parts) != 32 || len(left) > 0 {
		t.Errorf("directories %q with %q", parts, left)
	}
}

// TestSpreadCreateNothing: an existing file is left alone, and a file that could not be
// filled, or has nowhere to be, is not created.
func TestSpreadCreateNothing(t *testing.T) {
	s, dir := topdir.Spread(filepath.Join(t.TempDir(), "spread")), t.TempDir()
	there := filepath.Join(dir, "there")
	if err := s.Create(there, 0o600, write("first")); err != nil {
		t.Fatal(err)
	}
	if err := s.Create(there, 0o600, write("second")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("an existing file: %v", err)
	}
	full := errors.New("full")
	if err := s.Create(filepath.Join(dir, "other"), 0o600, func(*os.File) error { return full }); !errors.Is(err, full) {
		t.Errorf("one that could not be filled: %v", err)
	}
	if err := s.Create(filepath.Join(dir, "none", "f"), 0o600, write("")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("one without a directory: %v", err)
	}
	entries, _ := os.ReadDir(dir)
	if text, err := os.ReadFile(there); len(entries) != 1 || string(text) != "first" || err != nil {
		t.Errorf("left are %v, and %q, %v", entries, text, err)
	}
}

// TestSpreadCreateUnsupported: another file system, or a place where nothing can be made.
func TestSpreadCreateUnsupported(t *testing.T) {
	testenv.Require(t, testenv.Root)
	dir := t.TempDir()
	other, file := filepath.Join(dir, "other"), filepath.Join(dir, "file")
	if err := errors.Join(os.Mkdir(other, 0o700), os.WriteFile(file, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("none", other, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(other, 0) })
	for _, s := range []string{other, file, "/proc/nowhere"} {
		if err := topdir.Spread(s).Create(filepath.Join(dir, "f"), 0o600, write("x")); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("with %q: %v", s, err)
		}
	}
	if _, err := os.Lstat(filepath.Join(dir, "f")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file: %v", err)
	}
}

// TestSpreadPut: a new file and a replaced one, also where the disk cannot be chosen.
func TestSpreadPut(t *testing.T) {
	dir := t.TempDir()
	inTheWay := filepath.Join(dir, "file")
	if err := os.WriteFile(inTheWay, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, s := range []topdir.Spread{topdir.Spread(filepath.Join(dir, "spread")), topdir.Spread(inTheWay)} {
		in := t.TempDir()
		for _, want := range []string{"first and longer", "second"} {
			if err := s.Put(filepath.Join(in, "f"), []byte(want), 0o640); err != nil {
				t.Fatal(err)
			}
			fi, err := os.Stat(filepath.Join(in, "f"))
			if text, rerr := os.ReadFile(filepath.Join(in, "f")); string(text) != want || errors.Join(err, rerr) != nil || fi.Mode() != 0o640 {
				t.Errorf("with %q: %q, %v, mode %v", s, text, errors.Join(err, rerr), fi.Mode())
			}
		}
		if entries, err := os.ReadDir(in); err != nil || len(entries) != 1 {
			t.Errorf("with %q: %v, %v", s, entries, err)
		}
	}
	if err := topdir.Spread(dir).Put(filepath.Join(dir, "none", "f"), nil, 0o600); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a directory: %v", err)
	}
}

// TestSpreadMakesAgain: somebody removed a directory.
func TestSpreadMakesAgain(t *testing.T) {
	s, dir := topdir.Spread(filepath.Join(t.TempDir(), "spread")), t.TempDir()
	for i := range 64 {
		if err := s.Create(filepath.Join(dir, strings.Repeat("f", i+1)), 0o600, write("")); err != nil {
			t.Fatal(err)
		}
		parts, _ := filepath.Glob(filepath.Join(string(s), "*"))
		for _, p := range parts {
			_ = os.Remove(p)
		}
	}
}
