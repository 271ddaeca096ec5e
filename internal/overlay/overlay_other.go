//go:build !linux

package overlay

import "github.com/nodekit-project/nodekit/internal/fault"

// Mount works on Linux only.
func Mount(Options) error { return unsupported() }

// IsMounted works on Linux only.
func IsMounted(string) (bool, error) { return false, unsupported() }

// Unmount works on Linux only.
func Unmount(string) error { return unsupported() }

func unsupported() error { return fault.Unimplemented.Errorf("overlay mounts work on Linux only") }
