// Package bootid tells the runs of the kernel apart: mounts, links and processes
// do not outlive the one that they were made in.
package bootid

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"

	"github.com/nodekit-project/nodekit/internal/atomicfile"
	"github.com/nodekit-project/nodekit/internal/rawfile"
)

// Read returns the id of the running boot, which every start of the machine
// changes (random(4)). It needs Linux. No process outlives a boot: it is read once.
func Read() (string, error) {
	if id := running.Load(); id != nil {
		return *id, nil
	}
	text, err := rawfile.Read("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("reading the boot id: %w", err)
	}
	id := strings.TrimSpace(string(text))
	running.Store(&id)
	return id, nil
}

var running atomic.Pointer[string]

// Changed reports whether the machine was started since Note was called for the file,
// also when it never was, and returns which boot this is. Where the system does not
// tell it was not, and boot is empty.
func Changed(file string) (boot string, changed bool, err error) {
	boot, err = Read()
	if errors.Is(err, os.ErrNotExist) {
		return "", false, nil
	}
	if err != nil {
		return "", false, err
	}
	last, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", false, err
	}
	return boot, strings.TrimSpace(string(last)) != boot, nil
}

// Note writes into the file that what the boots before have left was dealt with, and
// syncs it.
func Note(file, boot string) error { return atomicfile.Write(file, []byte(boot+"\n"), 0o600) }
