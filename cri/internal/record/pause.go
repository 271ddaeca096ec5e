package record

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/nodekit-project/nodekit/internal/atomicfile"
)

// Pause is a checkpoint in progress.
type Pause struct {
	SandboxID string
	// Partial is the file that is being written, or "".
	Partial string
}

// PutPause records that containers of the sandbox are about to be paused. A server that
// finds this record resumes them and removes the partial file.
func (d *Dir) PutPause(p Pause) error {
	return atomicfile.Replace(filepath.Join(d.path, "pauses", p.SandboxID), []byte(p.Partial), 0o600)
}

// ForgetPause records that none of them is paused any more. Idempotent.
func (d *Dir) ForgetPause(sandboxID string) error {
	return forget(filepath.Join(d.path, "pauses", sandboxID))
}

// Pauses returns the recorded pauses.
func (d *Dir) Pauses() ([]Pause, error) {
	entries, err := os.ReadDir(filepath.Join(d.path, "pauses"))
	if err != nil {
		return nil, fmt.Errorf("reading the records: %w", err)
	}
	var all []Pause
	for _, e := range entries {
		partial, err := os.ReadFile(filepath.Join(d.path, "pauses", e.Name()))
		if err != nil {
			return nil, fmt.Errorf("reading the records: %w", err)
		}
		all = append(all, Pause{SandboxID: e.Name(), Partial: string(partial)})
	}
	return all, nil
}
