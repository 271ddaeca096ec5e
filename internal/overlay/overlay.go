// Package overlay creates overlay mounts of many read-only directories
// (Documentation/filesystems/overlayfs.rst). It acts in the mount namespace of the
// calling thread and is safe for concurrent use on different targets. The content of
// an upper directory is complete and under its own names: the mounts create and
// follow no redirects, and copy up whole files. On systems other than Linux its
// functions return fault.Unimplemented.
package overlay

import (
	"os"
	"path/filepath"
)

// Options describe a mount. All directories must exist; Upper and Work must be on one
// file system that is not an overlay, and belong to this mount alone. Without both
// the mount is read-only and needs two lower directories.
type Options struct {
	Target, Upper, Work string
	Lower               []string // the topmost first, at least one
	// Volatile skips all syncing, by fsync(2) in the mount and at its unmounting,
	// which otherwise costs milliseconds. After a crash of the machine the content of
	// Upper is undefined. Linux then refuses to use Upper and Work again until Forget
	// is called, or both are removed. It needs Linux 5.10.
	Volatile bool
	// Context is the SELinux label of all files of the mount; if empty, each file
	// keeps its own. Without SELinux in the kernel the mount is refused.
	Context string
}

// ContextOption returns the mount option for an SELinux label, to be appended to
// others; "" if there is no label.
func ContextOption(label string) string {
	if label == "" {
		return ""
	}
	return `,context="` + label + `"` // quoted, because a level has commas
}

// Forget allows the directories of a volatile mount to be used again, for a caller
// that knows that the machine has not crashed since. It does nothing if there was no
// such mount.
func Forget(work string) error {
	return os.RemoveAll(filepath.Join(work, "work", "incompat", "volatile"))
}
