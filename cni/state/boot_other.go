//go:build !linux

package state

import (
	"os"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// Boot needs Linux.
func Boot() (string, error) {
	return "", fault.Unimplemented.Errorf("the boot id needs Linux")
}

func writable(dir string) error {
	_, err := os.Stat(dir)
	return err
}
