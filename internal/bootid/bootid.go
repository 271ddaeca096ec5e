// Package bootid distinguishes boots of the kernel: mounts, links and processes do
// not outlive the boot in which they were created.
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

// Read returns the id of the current boot, which changes at every start of the
// machine (random(4)). It needs Linux. It reads the id only once, because no process
// outlives a boot.
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
// or Note was never called, and returns the current boot. If the system has no boot
// id, changed is false and boot is empty.
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

// Note records in the file that what earlier boots left has been dealt with, and
// syncs it.
func Note(file, boot string) error { return atomicfile.Write(file, []byte(boot+"\n"), 0o600) }
