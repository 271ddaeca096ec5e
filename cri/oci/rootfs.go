package oci

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cri/oci/spec"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// maxAccounts bounds how much is read of an image's passwd and group files, which may be
// as large as a layer.
const maxAccounts = 4 << 20

// usersOf reads the image's accounts. Symbolic links are resolved as in the container, so
// they never lead out of the image.
func usersOf(rootfs string) (u spec.Users, err error) {
	root, err := os.Open(rootfs)
	if err != nil {
		return u, err
	}
	defer root.Close()
	for name, into := range map[string]*[]byte{"etc/passwd": &u.Passwd, "etc/group": &u.Group} {
		if *into, err = readInside(root, name); err != nil {
			return u, fault.Invalid.Errorf("reading the image's /%s: %w", name, err)
		}
	}
	return u, nil
}

// readInside reads a regular file; a missing one counts as empty.
func readInside(root *os.File, name string) ([]byte, error) {
	at, err := openInside(root, name, unix.O_PATH)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer at.Close()
	return readRegular(at, maxAccounts)
}

// readRegular reads the regular file of at most limit bytes that an O_PATH descriptor
// refers to. Nothing else is even opened: opening a device may have effects, and opening
// a named pipe blocks.
func readRegular(at *os.File, limit int64) ([]byte, error) {
	info, err := at.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > limit {
		return nil, fmt.Errorf("want a file of at most %d bytes, and it is %v with %d", limit, info.Mode(), info.Size())
	}
	f, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", at.Fd()))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit))
}

// openInside opens a path as if root were the root of the file system.
func openInside(root *os.File, name string, flags int) (*os.File, error) {
	how := &unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC), Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	for {
		fd, err := unix.Openat2(int(root.Fd()), name, how)
		switch {
		case err == nil:
			return os.NewFile(uintptr(fd), name), nil
		case errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN): // a rename anywhere
			continue
		}
		return nil, &os.PathError{Op: "openat2", Path: name, Err: err}
	}
}

// addVolumes gives the container the volumes that its image declares, except those at or
// below one of its mounts. They are directories of its own root file system and live as
// long as that; if it is read-only, they are still writable.
func addVolumes(doc *specs.Spec, volumes map[string]struct{}, u *ownUsers) error {
	root, err := os.Open(doc.Root.Path)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, name := range slices.Sorted(maps.Keys(volumes)) {
		to := path.Clean("/" + name)
		if to == "/" || slices.ContainsFunc(doc.Mounts, func(m specs.Mount) bool { return strings.HasPrefix(to+"/", m.Destination+"/") }) {
			continue
		}
		source, err := makeInside(root, to, u)
		if err != nil {
			return fault.Invalid.Errorf("making the image's volume %q: %w", name, err)
		}
		if doc.Root.Readonly {
			doc.Mounts = append(doc.Mounts, specs.Mount{Destination: to, Type: "bind", Source: source, Options: []string{"rbind", "rw"}})
		}
	}
	spec.SortMounts(doc.Mounts)
	return nil
}

// directory has the flags of a descriptor that only refers to a directory.
const directory = unix.O_PATH | unix.O_DIRECTORY

// makeInside creates the missing directories of an absolute path below root and returns
// the resolved path. Nobody changes root meanwhile: the container has never run.
func makeInside(root *os.File, dir string, u *ownUsers) (string, error) {
	at, err := openInside(root, ".", directory)
	if err != nil {
		return "", err
	}
	whole := ""
	for name := range strings.SplitSeq(strings.TrimPrefix(dir, "/"), "/") {
		whole = path.Join(whole, name)
		if at, err = stepInside(root, at, u, whole, name); err != nil {
			return "", err
		}
	}
	defer at.Close()
	return os.Readlink(fmt.Sprintf("/proc/self/fd/%d", at.Fd()))
}

// stepInside opens the directory whole, creating it if necessary, and closes at, its
// parent.
func stepInside(root, at *os.File, u *ownUsers, whole, name string) (*os.File, error) {
	defer at.Close()
	next, err := openInside(root, whole, directory)
	if !errors.Is(err, unix.ENOENT) {
		return next, err
	}
	if err := unix.Mkdirat(int(at.Fd()), name, 0o755); err != nil {
		return nil, &os.PathError{Op: "mkdir", Path: whole, Err: err}
	}
	if next, err = openInside(root, whole, directory); err != nil {
		return nil, err
	}
	// Regardless of this process's umask. fchmod accepts no O_PATH descriptor.
	uid, gid := u.root()
	here := fmt.Sprintf("/proc/self/fd/%d", next.Fd())
	if err := errors.Join(os.Chmod(here, 0o755), os.Chown(here, uid, gid)); err != nil {
		return nil, errors.Join(err, next.Close())
	}
	return next, nil
}
