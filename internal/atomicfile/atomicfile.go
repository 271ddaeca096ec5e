// Package atomicfile replaces files so that a crash at any instant leaves
// either the old content or the new one, never a mixture and never an empty
// file (fsync of the file, rename(2), fsync of the directory).
package atomicfile

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Write replaces path with data. The directory must exist. Concurrent writers
// of one path each write a whole file; the last rename wins. A crash may leave
// a file named ".<base>.tmp*" in the directory, which Clean removes.
func Write(path string, data []byte, perm os.FileMode) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".tmp*")
	if err != nil {
		return fmt.Errorf("writing %q: %w", path, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("writing %q: %w", path, err), removeIfThere(f.Name()))
		}
	}()
	if err := fill(f, data, perm); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return SyncDir(dir)
}

func fill(f *os.File, data []byte, perm os.FileMode) error {
	_, err := f.Write(data)
	if err == nil {
		err = f.Chmod(perm)
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// Remove deletes path and makes the deletion durable. A file that is not
// there is not an error.
func Remove(path string) error {
	if err := removeIfThere(path); err != nil {
		return err
	}
	err := SyncDir(filepath.Dir(path))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// Clean removes what interrupted writes left in dir. Call it once at start,
// before anything writes there.
func Clean(dir string) error {
	left, err := filepath.Glob(filepath.Join(dir, ".*.tmp*"))
	if err != nil {
		return err
	}
	var errs []error
	for _, f := range left {
		errs = append(errs, removeIfThere(f))
	}
	return errors.Join(errs...)
}

// SyncDir makes the entries of dir durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
