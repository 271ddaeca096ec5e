package rawfile_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

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
