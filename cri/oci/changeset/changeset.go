// Package changeset writes what a container has changed in its root file system,
// the upper directory of an overlay, as a tar file in the form of an image's
// layer (OCI image specification, layer.md), and makes the changes in another one.
//
// While they are written the container may run on, and root in it owns the directory: it can put a
// link, a named pipe or another file in the place of what was just looked at.
// So nothing is opened by its path. Each name is opened below the descriptor of
// its directory and never followed or waited for, and what is written down is
// what the descriptor says. A file that changes while it is read is written
// with the size that it had when it was opened.
package changeset

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cri/oci/layer"
	"github.com/nodekit-project/nodekit/internal/ctxio"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/xattr"
)

// deepest is how many directories may lie in one another, each of which is
// open while what is below it is written.
const deepest = 512

// Names by which layers say that something is gone, or hides what is below.
const gone, opaque = ".wh.", ".wh..wh..opq"

// Write writes what is below dir to w, in the order of names. What disappears
// meanwhile is left out, and so are sockets, which only their process could
// use. It returns fault.Invalid for a tree that is deeper than any program
// needs, fault.FailedPrecondition where a file says to an overlay that what it has is
// elsewhere (layer.Elsewhere), and the context's error when that ends.
func Write(ctx context.Context, w io.Writer, dir string) error {
	root, err := os.OpenFile(dir, unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer root.Close()
	c := &changes{ctx: ctx, tar: tar.NewWriter(w), links: map[inode]string{}}
	return errors.Join(c.directory(root, "", 0), c.tar.Close())
}

// changes is the writing of one tar file.
type changes struct {
	ctx   context.Context
	tar   *tar.Writer
	links map[inode]string // names of files that have more than one
}

type inode struct{ dev, ino uint64 }

// directory writes what is in a directory whose name in the tar file is name.
func (c *changes) directory(dir *os.File, name string, depth int) error {
	if depth > deepest {
		return fault.Invalid.Errorf("directories lie more than %d deep in one another: %.100s...", deepest, name)
	}
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, n := range names {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		err := c.entry(dir, n, path.Join(name, n), depth)
		// It is not there any more, or it is not what it was.
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, errChanged) {
			return fmt.Errorf("%s: %w", path.Join(name, n), err)
		}
	}
	return nil
}

// errChanged is what open says of a name that came to mean something else.
var errChanged = errors.New("it is another file now")

func (c *changes) entry(dir *os.File, base, name string, depth int) error {
	var st unix.Stat_t
	if err := unix.Fstatat(int(dir.Fd()), base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return c.enter(dir, base, name, depth)
	case unix.S_IFREG:
		return c.file(dir, base, name)
	case unix.S_IFLNK:
		target := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(int(dir.Fd()), base, target)
		if errors.Is(err, unix.EINVAL) {
			return errChanged
		}
		if err != nil {
			return err
		}
		h := header(&st, name)
		h.Typeflag, h.Linkname = tar.TypeSymlink, string(target[:n])
		return c.tar.WriteHeader(h)
	case unix.S_IFCHR, unix.S_IFBLK, unix.S_IFIFO:
		return c.tar.WriteHeader(special(&st, name))
	}
	return nil
}

// open opens a name of a directory without following or waiting, and looks at
// what was opened.
func open(dir *os.File, base string, flags int, want uint32) (*os.File, *unix.Stat_t, error) {
	fd, err := unix.Openat(int(dir.Fd()), base, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC|flags, 0)
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ENXIO) {
		return nil, nil, errChanged
	}
	if err != nil {
		return nil, nil, err
	}
	f := os.NewFile(uintptr(fd), base)
	var st unix.Stat_t
	err = unix.Fstat(fd, &st)
	if err == nil && st.Mode&unix.S_IFMT != want {
		err = errChanged
	}
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return f, &st, nil
}

func (c *changes) enter(dir *os.File, base, name string, depth int) error {
	f, st, err := open(dir, base, unix.O_DIRECTORY, unix.S_IFDIR)
	if err != nil {
		return err
	}
	defer f.Close()
	h := header(st, name+"/")
	h.Typeflag = tar.TypeDir
	if h.PAXRecords, err = attributes(f); err != nil {
		return err
	}
	if err := c.tar.WriteHeader(h); err != nil {
		return err
	}
	if isOpaque(f) {
		if err := c.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: path.Join(name, opaque)}); err != nil {
			return err
		}
	}
	return c.directory(f, name, depth+1)
}

// file writes a regular file, or that it is another name of one that was written.
func (c *changes) file(dir *os.File, base, name string) error {
	f, st, err := open(dir, base, 0, unix.S_IFREG)
	if err != nil {
		return err
	}
	defer f.Close()
	h := header(st, name)
	if id := (inode{st.Dev, st.Ino}); st.Nlink > 1 {
		if first, written := c.links[id]; written {
			h.Typeflag, h.Linkname = tar.TypeLink, first
			return c.tar.WriteHeader(h)
		}
		c.links[id] = name
	}
	h.Typeflag, h.Size = tar.TypeReg, st.Size
	if h.PAXRecords, err = attributes(f); err != nil {
		return err
	}
	if err := c.tar.WriteHeader(h); err != nil {
		return err
	}
	n, err := io.Copy(c.tar, ctxio.Reader(c.ctx, io.LimitReader(f, st.Size)))
	if err != nil {
		return err
	}
	_, err = io.CopyN(c.tar, zeros{}, st.Size-n) // it has shrunk
	return err
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// header has what all kinds of files have.
func header(st *unix.Stat_t, name string) *tar.Header {
	return &tar.Header{
		Name: name, Mode: int64(st.Mode & 0o7777), Uid: int(st.Uid), Gid: int(st.Gid),
		ModTime: time.Unix(st.Mtim.Sec, st.Mtim.Nsec), Format: tar.FormatPAX,
	}
}

// special is the header of a file that is a device or a named pipe. The device
// 0:0 is how an overlay says that a name of a lower layer is gone.
func special(st *unix.Stat_t, name string) *tar.Header {
	kind := st.Mode & unix.S_IFMT
	if kind == unix.S_IFCHR && st.Rdev == 0 {
		dir, base := path.Split(name)
		return &tar.Header{Typeflag: tar.TypeReg, Name: dir + gone + base}
	}
	h := header(st, name)
	h.Typeflag = map[uint32]byte{unix.S_IFCHR: tar.TypeChar, unix.S_IFBLK: tar.TypeBlock, unix.S_IFIFO: tar.TypeFifo}[kind]
	if kind != unix.S_IFIFO {
		h.Devmajor, h.Devminor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	}
	return h
}

// label is the attribute with the SELinux label, which is of the machine that a file is
// on: another one's policy may not know it, and refuses it then.
const label = "security.selinux"

// attributes are the extended ones as tar(1) and image layers write them, but
// for those that are the overlay's own, and labels. nil where the file system has none.
func attributes(f *os.File) (map[string]string, error) {
	names, err := xattr.List(int(f.Fd()))
	if err = ignoreGone(err); err != nil || len(names) == 0 {
		return nil, err
	}
	records := map[string]string{}
	for _, name := range names {
		if layer.Elsewhere(name) {
			return nil, fault.FailedPrecondition.Errorf("its attribute %q says that what it has is elsewhere in an overlay, and cannot be written", name)
		}
		if strings.HasPrefix(name, "trusted.") || name == label {
			continue
		}
		value, err := xattr.Get(int(f.Fd()), name)
		if err = ignoreGone(err); err != nil {
			return nil, err
		}
		if len(value) > 0 { // PAX has no empty values
			records[layer.PAXPrefix+name] = string(value)
		}
	}
	return records, nil
}

// ignoreGone is for an attribute that grew meanwhile, or is gone: it is left out.
func ignoreGone(err error) error {
	if errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ERANGE) {
		return nil
	}
	return err
}

// isOpaque reports whether a directory of an overlay hides what is below it.
func isOpaque(dir *os.File) bool {
	value, err := xattr.Get(int(dir.Fd()), "trusted.overlay.opaque")
	return err == nil && string(value) == "y"
}
