package checkpoint

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/atomicfile"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// Prepare makes the directories of a checkpoint of n containers in dir, which is empty.
// A directory that others than root can write to is fault.Invalid.
func Prepare(dir string, n int) error {
	if err := private(dir, dir); err != nil {
		return err
	}
	for i := range n {
		if err := os.MkdirAll(filepath.Join(dir, Images(i)), 0o700); err != nil {
			return fmt.Errorf("preparing the checkpoint: %w", err)
		}
	}
	return nil
}

// Seal writes the description of what is in dir, when everything else is there and on
// the disk. Without that it is no checkpoint.
func Seal(dir string, p *Pod) error {
	dir = filepath.Clean(dir)
	var err error
	if p.Files, err = filesIn(dir); err != nil {
		return fmt.Errorf("sealing the checkpoint: %w", err)
	}
	if err := p.check(); err != nil {
		return fmt.Errorf("sealing the checkpoint: %w", err)
	}
	text, err := encode(p)
	if err == nil {
		err = sync(dir)
	}
	if err == nil {
		err = atomicfile.Write(filepath.Join(dir, description), text, 0o600)
	}
	if err != nil {
		return fmt.Errorf("sealing the checkpoint: %w", err)
	}
	return nil
}

// sync has what was written, by criu, too, on the disk.
func sync(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(d.Fd())), d.Close())
}

// filesIn returns the files below dir, but for the description, with their sizes. What is
// neither a file nor a directory, or not root's alone to write, is fault.Invalid.
func filesIn(dir string) (map[string]int64, error) {
	files := map[string]int64{}
	err := filepath.WalkDir(dir, func(at string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(at, dir+"/")
		if err := private(at, name); err != nil || e.IsDir() || name == description {
			return err
		}
		info, err := e.Info()
		if err != nil {
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
func private(at, name string) error {
	var st unix.Stat_t
	if err := unix.Lstat(at, &st); err != nil {
		return &os.PathError{Op: "lstat", Path: at, Err: err}
	}
	kind := st.Mode & unix.S_IFMT
	switch {
	case kind != unix.S_IFREG && kind != unix.S_IFDIR:
		return fault.Invalid.Errorf("%q is neither a file nor a directory", name)
	case int(st.Uid) != os.Geteuid():
		return fault.Invalid.Errorf("%q belongs to user %d: a checkpoint is root's, for who can write to it can do everything when it is restored", name, st.Uid)
	case st.Mode&0o022 != 0:
		return fault.Invalid.Errorf("%q has mode %o: a checkpoint is for root alone to write, for who can do that can do everything when it is restored", name, st.Mode&0o7777)
	}
	return nil
}
