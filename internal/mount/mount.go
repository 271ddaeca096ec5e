// Package mount is the small part of mount(2) that nodekit needs: bind mounts that
// appear complete or not at all, idempotent unmounting, tmpfs, shared propagation,
// and the kernel's mount table.
//
// Whether a path is a mount point is read from mountinfo (proc_pid_mountinfo(5)),
// never from stat: a hung network file system blocks stat forever, and two bind
// mounts of one file system have the same device number. The last component of a path
// is never followed if it is a symbolic link.
//
// All functions act in the mount namespace of the calling thread and are safe for
// concurrent use on different paths. On systems other than Linux they return
// ErrUnsupported. The package links neither grpc nor k8s.io.
package mount

import (
	"os"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// ErrUnsupported is returned by every function on systems other than Linux.
var ErrUnsupported = fault.Unimplemented.Errorf("mounts are only supported on linux")

// Mount is one line of the mount table.
type Mount struct {
	ID, Parent int
	// Root is the directory or file of the file system that is mounted here: "/" for
	// a whole file system, the source's path for a bind mount.
	Root string
	// Point is the absolute path of the mount point.
	Point string
	// ReadOnly is the mount's own flag; SuperReadOnly the file system's.
	ReadOnly, SuperReadOnly bool
	// Options are the mount's own options as mountinfo prints them ("noexec").
	Options []string
	// Shared reports that the mount sends and receives propagation events.
	Shared bool
	// Slave reports that the mount only receives them, or receives them from a group
	// other than the one it sends to.
	Slave  bool
	Type   string // the file system's type: "ext4", "tmpfs"
	Source string // the file system's source, e.g. its device
}

// BindOptions change how Bind mounts. nil means a writable, private,
// non-recursive bind mount.
type BindOptions struct {
	// ReadOnly makes the mount read-only for everybody, from the moment it appears.
	ReadOnly bool
	// Recursive includes the mounts below source. With ReadOnly they become read-only
	// too.
	Recursive bool
	// NoExec, NoSUID and NoDev are the restrictions of mount(8).
	NoExec, NoSUID, NoDev bool
	// Owners, if not nil, is an open user namespace: the mount is id-mapped, so that
	// files of user 0 appear as those of the user to which the namespace maps 0, and
	// so on. It needs Linux 5.12 and support by the file system; if either is
	// missing, Bind returns fault.FailedPrecondition.
	Owners *os.File
}

// TmpfsOptions change a tmpfs. nil means mode 0777 and the kernel's own limit,
// half of the memory.
type TmpfsOptions struct {
	Size int64  // in bytes; 0 is the kernel's default
	Mode uint32 // permission bits of its root, set-gid (02000) included; 0 is 0777
	GID  int    // group of its root
}
