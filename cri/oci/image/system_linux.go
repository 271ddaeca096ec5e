package image

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/containerd/containerd/v2/pkg/archive"
	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// applyLayer unpacks a layer's tar stream into root, with whiteouts in overlay's form.
// The unpacker resolves every path inside root.
func applyLayer(ctx context.Context, root string, r io.Reader, accept archive.Filter, dirs *impliedDirs) error {
	if os.Geteuid() != 0 {
		return fault.PermissionDenied.Errorf("only root can unpack layers: run it with sudo")
	}
	gone := &whiteouts{root: root}
	_, err := archive.Apply(ctx, root, r, archive.WithFilter(accept), archive.WithConvertWhiteout(func(h *tar.Header, path string) (bool, error) {
		dirs.note(path[len(root):], h.Typeflag == tar.TypeDir)
		return gone.convert(h, path)
	}))
	if err != nil {
		return err
	}
	return gone.finish(dirs)
}

// syncFS makes everything written to the file system of dir durable, in one call rather
// than one per file.
func syncFS(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(d.Fd())), d.Close())
}

// diskUsage returns the disk usage of the tree at root; a file with several links counts
// once.
func diskUsage(root string) (bytes, inodes uint64, err error) {
	seen := map[uint64]bool{}
	count := func(fi fs.FileInfo) {
		st := fi.Sys().(*syscall.Stat_t)
		if st.Nlink > 1 && !fi.IsDir() {
			if seen[st.Ino] {
				return
			}
			seen[st.Ino] = true
		}
		bytes += uint64(st.Blocks) * 512
		inodes++
	}
	err = filepath.WalkDir(root, func(_ string, d fs.DirEntry, err error) error {
		if err == nil {
			var fi fs.FileInfo
			if fi, err = d.Info(); err == nil {
				count(fi)
			}
		}
		return ignoreNotExist(err) // a blob may be collected meanwhile
	})
	return bytes, inodes, err
}
