package image

import (
	"archive/tar"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/pkg/archive"
	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/xattr"
)

// Names by which a layer marks something as deleted, or hides what is below.
const gonePrefix, opaqueName = ".wh.", ".wh..wh..opq"

// opaqueAttr is "y" on a directory that hides everything below it
// (Documentation/filesystems/overlayfs.rst).
const opaqueAttr = "trusted.overlay.opaque"

// hidesAllBelow reports whether an unpacked layer is opaque as a whole. Overlay ignores
// that on the roots of its layers.
func hidesAllBelow(layer string) (bool, error) {
	value, err := xattr.GetAt(layer, opaqueAttr)
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP) {
		return false, nil
	}
	return string(value) == "y", err
}

// whiteouts turns a layer's whiteouts into overlay's. A whiteout applies only to the
// layers below (OCI image spec v1.1 layer.md, "Whiteouts"): the layer may have an entry
// of its own under the same name, before or after it. So whiteouts are made after
// everything else. It is for one goroutine.
type whiteouts struct {
	root string
	gone []string // paths below root, without symbolic links when they were noted
}

// convert is the unpacker's archive.ConvertWhiteout. It returns true for an entry that is
// not a whiteout. A whiteout of "", "." or ".." never gets here: the unpacker refuses it.
func (w *whiteouts) convert(h *tar.Header, path string) (writeFile bool, err error) {
	dir, base := filepath.Split(path)
	if base == opaqueName {
		return archive.OverlayConvertWhiteout(h, path)
	}
	name, isGone := strings.CutPrefix(base, gonePrefix)
	if isGone {
		w.gone = append(w.gone, filepath.Join(dir, name)[len(w.root):])
	}
	return !isGone, nil
}

// finish makes the whiteouts. A file of the layer hides what is below by its presence, a
// directory by being opaque; the latter are recorded in dirs.
func (w *whiteouts) finish(dirs *impliedDirs) error {
	top, err := unix.Open(w.root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(top)
	slices.Sort(w.gone) // a directory that becomes opaque comes before its entries
	for _, path := range w.gone {
		isDir, err := markGone(top, path)
		if err != nil {
			return fmt.Errorf("whiteout of %q: %w", path, err)
		}
		if isDir {
			dirs.hide(path)
		}
	}
	return nil
}

// markGone hides what is below path, which begins with a slash, and reports whether the
// layer has a directory there. A later entry may have replaced a directory on the way
// with a link or a file: then there is nothing to hide, and no link is followed.
func markGone(top int, path string) (isDir bool, err error) {
	up, base := filepath.Split(path)
	dir, err := unix.Openat2(top, "."+up, &unix.OpenHow{
		Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	})
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer unix.Close(dir)
	if value, err := xattr.Get(dir, opaqueAttr); err == nil && string(value) == "y" {
		return false, nil // in an opaque directory, overlay would list a whiteout as a file that cannot be opened
	}
	var has unix.Stat_t
	err = unix.Fstatat(dir, base, &has, unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case errors.Is(err, unix.ENOENT):
		return false, mknodUnseen(dir, base)
	case err != nil || has.Mode&unix.S_IFMT != unix.S_IFDIR:
		return false, err
	}
	return true, unix.Lsetxattr(fmt.Sprintf("/proc/self/fd/%d/%s", dir, base), opaqueAttr, []byte{'y'}, 0)
}

// mknodUnseen makes overlay's whiteout in dir, whose times stay those of the layer.
func mknodUnseen(dir int, base string) error {
	var was unix.Stat_t
	if err := unix.Fstat(dir, &was); err != nil {
		return err
	}
	if err := unix.Mknodat(dir, base, unix.S_IFCHR, 0); err != nil {
		return err
	}
	return unix.UtimesNanoAt(dir, ".", []unix.Timespec{was.Atim, was.Mtim}, 0)
}
