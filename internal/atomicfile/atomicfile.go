// Package atomicfile replaces files so that a crash at any instant leaves either the
// old content or the new one, never a mixture and never an empty file (fsync of the
// file, rename(2), fsync of the directory). Replace does less, for files that a power
// failure makes worthless anyway, or that Sync makes durable later.
package atomicfile

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

const temporary = ".tmp" // between the name and a number

// Write replaces path with data. The directory must exist. Concurrent writers of one
// path each write a whole file; the last rename wins. A crash may leave a file named
// ".<base>.tmp*" in the directory, which Clean and Discard remove.
func Write(path string, data []byte, perm os.FileMode) error {
	if err := replace(path, data, perm, (*os.File).Sync); err != nil {
		return err
	}
	if err := SyncDir(filepath.Dir(path)); err != nil {
		return fmt.Errorf("writing %q: %w", path, err)
	}
	return nil
}

// Replace is Write for a file that need not survive a power failure, or not before
// Sync: such a failure may leave the old content, an empty or truncated file, or none.
// The death of the process at any instant leaves the old content or the new one.
func Replace(path string, data []byte, perm os.FileMode) error {
	return replace(path, data, perm, func(*os.File) error { return nil })
}

func replace(path string, data []byte, perm os.FileMode, settle func(*os.File) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+temporary+"*")
	if err != nil {
		return fmt.Errorf("writing %q: %w", path, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("writing %q: %w", path, err), removeIfThere(f.Name()))
		}
	}()
	if err := fill(f, data, perm, settle); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

func fill(f *os.File, data []byte, perm os.FileMode, settle func(*os.File) error) error {
	_, err := f.Write(data)
	if err == nil {
		err = f.Chmod(perm)
	}
	if err == nil {
		err = settle(f)
	}
	return errors.Join(err, f.Close())
}

// Sync makes the content and the names of files written by Replace durable, with one
// sync of each directory. It returns the error of each path, in order; it is nil if
// the file no longer exists.
func Sync(paths ...string) []error {
	errs := make([]error, len(paths))
	for i, path := range paths {
		if errs[i] = syncFile(path); errors.Is(errs[i], os.ErrNotExist) {
			errs[i] = nil
		}
	}
	dirs := map[string]error{}
	for i, path := range paths {
		dir := filepath.Dir(path)
		err, done := dirs[dir]
		if !done {
			err = SyncDir(dir)
			dirs[dir] = err
		}
		errs[i] = errors.Join(errs[i], err)
	}
	return errs
}

// Remove deletes path and makes the deletion durable. It succeeds if there is no such
// file.
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
	left, err := filepath.Glob(filepath.Join(dir, ".*"+temporary+"*"))
	if err != nil {
		return err
	}
	var errs []error
	for _, f := range left {
		errs = append(errs, removeIfThere(f))
	}
	return errors.Join(errs...)
}

// Discard removes what interrupted writes of path left, and leaves path and all other
// files alone. It makes a concurrent write of path fail. It succeeds if the directory
// does not exist.
func Discard(path string) error {
	dir := filepath.Dir(path)
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	var errs []error
	for _, e := range entries {
		if isTemporary(e.Name(), filepath.Base(path)) {
			errs = append(errs, removeIfThere(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}

// isTemporary also checks the number: "f.tmp1" has temporary files too, and their
// names begin like those of "f".
func isTemporary(name, base string) bool {
	number, is := strings.CutPrefix(name, "."+base+temporary)
	return is && strings.Trim(number, "0123456789") == ""
}

// SyncDir makes the entries of dir durable.
func SyncDir(dir string) error { return syncFile(dir) }

func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
