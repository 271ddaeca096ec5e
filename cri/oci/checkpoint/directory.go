package checkpoint

import (
	"errors"
	"io/fs"
	"os"
	"syscall"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// openDirectory opens a checkpoint's directory, which must be root's alone to write. Who can
// write to one above it may have put another one of root's there; what is opened below it
// is in this one.
func openDirectory(dir string) (*os.Root, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	info, err := root.Lstat(".")
	if err == nil {
		err = private(info, dir)
	}
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return root, nil
}

// filesIn returns the files in a checkpoint, but for the description, with their sizes.
// What is neither a file nor a directory, or not root's alone to write, is fault.Invalid.
func filesIn(dir *os.Root) (map[string]int64, error) {
	files := map[string]int64{}
	err := fs.WalkDir(dir.FS(), ".", func(name string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := dir.Lstat(name)
		if err != nil {
			return err
		}
		if err := private(info, name); err != nil || info.IsDir() || name == description {
			return err
		}
		if len(files) == maxFiles {
			return fault.Invalid.Errorf("there are more than %d files", maxFiles)
		}
		files[name] = info.Size()
		return nil
	})
	return files, err
}

// maxFiles is more than any checkpoint has: criu writes some for each process.
const maxFiles = 1 << 18

// private refuses what is no file or directory, or what others than root can write to.
func private(info fs.FileInfo, name string) error {
	owner, mode := info.Sys().(*syscall.Stat_t).Uid, info.Mode().Perm()
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		return fault.Invalid.Errorf("%q is a link, and neither a file nor a directory", name)
	case !info.Mode().IsRegular() && !info.IsDir():
		return fault.Invalid.Errorf("%q is neither a file nor a directory", name)
	case int(owner) != os.Geteuid():
		return fault.Invalid.Errorf("%q belongs to user %d: a checkpoint is root's, for who can write to it can do everything when it is restored", name, owner)
	case mode&0o022 != 0:
		return fault.Invalid.Errorf("%q has mode %o: a checkpoint is for root alone to write, for who can do that can do everything when it is restored", name, mode)
	}
	return nil
}
