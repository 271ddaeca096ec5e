package record_test

import (
	"log/slog"
	"path/filepath"
	"testing"

	"github.com/nodekit-project/nodekit/cri/internal/record"
	"github.com/nodekit-project/nodekit/internal/topdir"
)

// TestApart: where the file system takes the hint, homes are kept apart from each other, and
// records from homes.
func TestApart(t *testing.T) {
	probe, path := filepath.Join(t.TempDir(), "probe"), t.TempDir()
	if err := topdir.Make(probe, 0o700); err != nil {
		t.Fatal(err)
	}
	takes, _ := topdir.Marked(probe) // not every file system does
	d, err := record.Open(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for _, dir := range []string{path, filepath.Join(path, "dirs")} {
		if is, err := topdir.Marked(dir); is != takes {
			t.Errorf("%s: marked %t (%v), want %t", dir, is, err, takes)
		}
	}
}
