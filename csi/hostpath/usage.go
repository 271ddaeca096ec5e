package hostpath

import (
	"errors"
	"io/fs"
	"path/filepath"
	"syscall"
)

// sizes is the contents of a directory, in allocated bytes and in files.
type sizes struct{ bytes, inodes int64 }

// usage measures dir as du does: it counts files with several links once, and ignores
// files that disappear during the walk.
func usage(dir string) (s sizes, err error) {
	seen := map[uint64]bool{}
	err = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err == nil {
			var fi fs.FileInfo
			if fi, err = e.Info(); err == nil {
				s.add(fi, seen)
			}
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	return s, err
}

func (s *sizes) add(fi fs.FileInfo, seen map[uint64]bool) {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok || seen[st.Ino] {
		return
	}
	if st.Nlink > 1 && !fi.IsDir() {
		seen[st.Ino] = true
	}
	s.bytes += st.Blocks * 512
	s.inodes++
}
