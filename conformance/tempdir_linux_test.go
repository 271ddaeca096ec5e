package conformance_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nodekit-project/nodekit/conformance"
	"github.com/nodekit-project/nodekit/internal/mount"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// TestTempDirWithAMount has a directory of the machine that is still mounted in a rule's
// own when the rule is over.
func TestTempDirWithAMount(t *testing.T) {
	testenv.Require(t, testenv.Root)
	volume := t.TempDir()
	precious := filepath.Join(volume, "precious")
	if err := os.WriteFile(precious, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var dir string
	t.Cleanup(func() {
		if err := mount.DetachTree(dir); err != nil {
			t.Error(err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	s := newSuite()
	s.Rules[0].Check = func(_ context.Context, in *input) error {
		dir = in.TempDir
		at := filepath.Join(dir, "volume")
		if err := os.Mkdir(at, 0o755); err != nil {
			return err
		}
		return mount.Bind(volume, at, nil)
	}
	report, err := s.Run(t.Context(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if r := report.Results[0]; r.Status != conformance.Fail || !strings.Contains(r.Message, "is still mounted") {
		t.Errorf("%s: %s", r.Status, r.Message)
	}
	if _, err := os.Stat(precious); err != nil {
		t.Errorf("what was mounted is gone: %v", err)
	}
}
