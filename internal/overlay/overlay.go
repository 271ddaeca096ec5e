// Package overlay makes overlay mounts of many read-only directories
// (Documentation/filesystems/overlayfs.rst). It acts in the mount namespace of
// the calling thread and is safe for concurrent use on different targets. What is in an
// upper directory is all there, under its own name: the mounts make and follow no
// redirects, and copy up files whole.
// Elsewhere than on Linux its functions return fault.Unimplemented.
package overlay

import (
	"os"
	"path/filepath"
)

// Options are what a mount is made of. All directories exist; Upper and Work lie
// on one file system, which is no overlay, and belong to this mount alone. Without
// both the mount is read-only and needs two lower directories.
type Options struct {
	Target, Upper, Work string
	Lower               []string // the topmost first, at least one
	// Volatile leaves syncing out, of fsync(2) in the mount and of everything
	// when it is unmounted, which otherwise costs milliseconds. After a crash of
	// the machine Upper holds anything. Linux then refuses to use Upper and Work again until
	// Forget is called, or both are removed. It needs Linux 5.10.
	Volatile bool
	// Context is the SELinux label of all files of the mount; empty leaves each its
	// own. Without SELinux in the kernel the mount is refused.
	Context string
}

// ContextOption is the mount option for an SELinux label, behind others; nothing for none.
func ContextOption(label string) string {
	if label == "" {
		return ""
	}
	return `,context="` + label + `"` // a level has commas
}

// Forget lets the directories of a volatile mount be used again, for a caller
// who knows that the machine has not crashed since. It does nothing when there
// was none.
func Forget(work string) error {
	return os.RemoveAll(filepath.Join(work, "work", "incompat", "volatile"))
}
