package state

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Boot returns the kernel's boot id, which every start of the machine changes
// (random(4)).
func Boot() (string, error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("reading the boot id: %w", err)
	}
	return strings.TrimSpace(string(id)), nil
}

func writable(dir string) error {
	return unix.Access(dir, unix.W_OK|unix.X_OK)
}
