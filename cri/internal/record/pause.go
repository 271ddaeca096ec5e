package record

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/nodekit-project/nodekit/internal/atomicfile"
)

// PutPause writes that containers of the sandbox are about to be paused. A
// server that finds this resumes them.
func (d *Dir) PutPause(sandboxID string) error {
	return atomicfile.Write(filepath.Join(d.path, "pauses", sandboxID), nil, 0o600)
}

// ForgetPause writes that none of them is paused any more. Idempotent.
func (d *Dir) ForgetPause(sandboxID string) error {
	return atomicfile.Remove(filepath.Join(d.path, "pauses", sandboxID))
}

// Pauses returns the ids of the sandboxes that PutPause was called for.
func (d *Dir) Pauses() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(d.path, "pauses"))
	if err != nil {
		return nil, fmt.Errorf("reading the records: %w", err)
	}
	var ids []string
	for _, e := range entries {
		ids = append(ids, e.Name())
	}
	return ids, nil
}
