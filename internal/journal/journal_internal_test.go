package journal

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// TestBegunAnewMeanwhile: who opened the file before another process put it aside does
// not take that one for the journal.
func TestBegunAnewMeanwhile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j")
	if err := os.WriteFile(path, []byte(header), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := os.Rename(path, path+".damaged"); err != nil {
		t.Fatal(err)
	}
	anew, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer anew.Close()
	if err := (&Journal{path: path, file: f}).load(); !errors.Is(err, fault.AlreadyExists) {
		t.Errorf("the earlier file is opened: %v", err)
	}
}
