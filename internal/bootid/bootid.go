// Package bootid tells the runs of the kernel apart: mounts, links and processes
// do not outlive the one that they were made in.
package bootid

import (
	"fmt"
	"os"
	"strings"
)

// Read returns the id of the running boot, which every start of the machine
// changes (random(4)). It needs Linux.
func Read() (string, error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("reading the boot id: %w", err)
	}
	return strings.TrimSpace(string(id)), nil
}
