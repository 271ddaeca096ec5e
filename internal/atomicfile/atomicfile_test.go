package atomicfile_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/nodekit-project/nodekit/internal/atomicfile"
)

// writers are the two ways to write.
func writers() map[string]func(string, []byte, os.FileMode) error {
	return map[string]func(string, []byte, os.FileMode) error{"Write": atomicfile.Write, "Replace": atomicfile.Replace}
}

func TestWriteReplaces(t *testing.T) {
	for name, write := range writers() {
		t.Run(name, func(t *testing.T) { wantReplaced(t, write) })
	}
}

func wantReplaced(t *testing.T, write func(string, []byte, os.FileMode) error) {
	path := filepath.Join(t.TempDir(), "f")
	for _, content := range []string{"first", "second and longer", ""} {
		if err := write(path, []byte(content), 0o640); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil || string(got) != content {
			t.Fatalf("read %q, %v; want %q", got, err, content)
		}
	}
	if fi, _ := os.Stat(path); fi.Mode().Perm() != 0o640 {
		t.Errorf("mode %v", fi.Mode())
	}
}

func TestSync(t *testing.T) {
	dir := t.TempDir()
	there, gone, without := filepath.Join(dir, "f"), filepath.Join(dir, "gone"), filepath.Join(dir, "no", "f")
	if err := atomicfile.Replace(there, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	errs := atomicfile.Sync(there, gone, without)
	if len(errs) != 3 || errs[0] != nil || errs[1] != nil || !errors.Is(errs[2], os.ErrNotExist) {
		t.Errorf("got %v: only the directory that is not there fails", errs)
	}
}

func TestFailureLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	if err := os.MkdirAll(filepath.Join(path, "in the way"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, write := range writers() {
		if err := write(path, []byte("x"), 0o600); err == nil {
			t.Fatalf("%s: a directory was replaced", name)
		}
		if err := write(filepath.Join(dir, "no", "f"), nil, 0o600); !errors.Is(err, os.ErrNotExist) {
			t.Fatalf("%s without the directory: %v", name, err)
		}
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Fatalf("left behind: %v", left)
	}
}

func TestCleanRemovesOnlyInterruptedWrites(t *testing.T) {
	dir := t.TempDir()
	for _, f := range []string{".f.tmp123", "f", ".hidden"} {
		if err := os.WriteFile(filepath.Join(dir, f), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := atomicfile.Clean(dir); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 2 {
		t.Fatalf("left: %v", left)
	}
}

func TestDiscardRemovesOnlyItsOwn(t *testing.T) {
	dir := t.TempDir()
	for _, f := range []string{".f[1].tmp123", ".f[1].tmp9", ".f[1].tmp1.tmp5", ".f1.tmp4", "f[1]", ".f[1]", ".f[1].tmpx"} {
		if err := os.WriteFile(filepath.Join(dir, f), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := atomicfile.Discard(filepath.Join(dir, "f[1]")); err != nil {
			t.Fatal(err)
		}
	}
	if left, _ := os.ReadDir(dir); len(left) != 5 {
		t.Errorf("left: %v", left)
	}
	if err := atomicfile.Discard(filepath.Join(dir, "no", "f")); err != nil {
		t.Errorf("without the directory: %v", err)
	}
}

func TestRemoveTwice(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := atomicfile.Write(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := atomicfile.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}
