package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nodekit-project/nodekit/internal/fault"
)

func TestBinDirs(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	if err := errors.Join(os.Mkdir("plug", 0o700), os.WriteFile("file", nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ named, want []string }{
		{nil, []string{"/opt/cni/bin", "/usr/lib/cni"}},
		{[]string{"plug", dir}, []string{filepath.Join(dir, "plug"), dir}},
	} {
		got, err := binDirs(c.named)
		if diff := cmp.Diff(c.want, got); diff != "" || err != nil {
			t.Errorf("%q: %v\n%s", c.named, err, diff)
		}
	}
	for _, name := range []string{"absent", "file", ""} {
		if _, err := binDirs([]string{"plug", name}); !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "--cni-bin-dir") {
			t.Errorf("%q: %v", name, err)
		}
	}
}
