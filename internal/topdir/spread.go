package topdir

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"

	"github.com/nodekit-project/nodekit/internal/atomicfile"
)

// Spread is the path of a directory from which files get their places on the disk, for
// directories that hold a file of each Pod: their files would otherwise lie in one part
// of it. Below it are empty directories, which Create makes when they are needed for the
// first time, and in which there is never a file, not even after a crash. It must be on
// the file system of the files. All of its users, in one process or in many, may use it
// at once.
type Spread string

// parts is how many directories there are. A new file then has to pass by a 32nd of what
// was deleted from its directory.
const parts = 32

// Create creates the file path with what fill writes into it. Until fill has returned
// without an error nobody sees the file, and a crash leaves nothing. An existing file is
// left alone: the error is then fs.ErrExist. It is errors.ErrUnsupported if that cannot be
// done here, for example because the file system has no files without a name (O_TMPFILE of
// open(2)), or no links: the caller then creates the file where it shall be, or learns why
// that is impossible. The file is not synced.
func (s Spread) Create(path string, perm os.FileMode, fill func(f *os.File) error) error {
	f, err := unnamed(s.part(), perm)
	if errors.Is(err, os.ErrNotExist) {
		if err = s.make(); err == nil {
			f, err = unnamed(s.part(), perm)
		}
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errors.ErrUnsupported, err)
	}
	if err = fill(f); err == nil {
		err = name(f, path)
	}
	return errors.Join(err, f.Close())
}

// Put creates the file path with data, or replaces it (atomicfile.Replace), also where the
// disk cannot be chosen. The death of the process leaves the old content or the new one.
func (s Spread) Put(path string, data []byte, perm os.FileMode) error {
	err := s.Create(path, perm, func(f *os.File) error {
		_, err := f.Write(data)
		return err
	})
	if errors.Is(err, os.ErrExist) || errors.Is(err, errors.ErrUnsupported) {
		return atomicfile.Replace(path, data, perm)
	}
	return err
}

// part returns one of the directories.
func (s Spread) part() string { return s.numbered(rand.N(parts)) }

func (s Spread) numbered(n int) string {
	return filepath.Join(string(s), fmt.Sprintf("%02x", n))
}

// make makes all of the directories: what there is does not depend on chance.
func (s Spread) make() error {
	err := Make(string(s), 0o700)
	for n := 0; n < parts && err == nil; n++ {
		err = os.MkdirAll(s.numbered(n), 0o700)
	}
	return err
}
