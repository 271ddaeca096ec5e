package image_test

import (
	"testing"

	"golang.org/x/sys/unix"
)

// unmountAll takes away every mount on path, as a reboot does.
func unmountAll(t testing.TB, path string) {
	t.Helper()
	for unix.Unmount(path, unix.MNT_DETACH) == nil {
	}
}
