package topdir

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
)

// Spread is the path of a directory from which files get their places on the disk, for
// directories that hold a file of each Pod: their files would otherwise lie in one part
// of it. Below it are directories that Create makes when they are needed, and in which
// there is never a file, not even after a crash. It must be on the file system of the
// files. All of its users, in one process or in many, may use it at once.
type Spread string

// parts is how many directories there are. A new file then has to pass by a 32nd of what
// was deleted from its directory.
const parts = 32

// Create creates the file path with what fill writes into it. Until fill has returned
// without an error nobody sees the file, and a crash leaves nothing. An existing file is
// left alone: the error is then fs.ErrExist. A file system that has no files without a
// name (O_TMPFILE of open(2)), or no links, is errors.ErrUnsupported. The file is not
// synced.
func (s Spread) Create(path string, perm os.FileMode, fill func(f *os.File) error) error {
	part := filepath.Join(string(s), fmt.Sprintf("%02x", rand.N(parts)))
	f, err := unnamed(part, perm)
	if errors.Is(err, os.ErrNotExist) {
		if err = errors.Join(Make(string(s)), os.MkdirAll(part, 0o700)); err == nil {
			f, err = unnamed(part, perm)
		}
	}
	if err != nil {
		return err
	}
	if err = fill(f); err == nil {
		err = name(f, path)
	}
	return errors.Join(err, f.Close())
}
