package validate

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// Deadline refuses a call without a deadline. The CRI requires one for checkpointing and
// restoring a Pod.
func Deadline(ctx context.Context) error {
	if _, ok := ctx.Deadline(); !ok {
		return fault.Invalid.Errorf("the call has no deadline")
	}
	return nil
}

// Options refuses unknown options.
func Options(options map[string]string, known []string) error {
	for key := range options {
		if !slices.Contains(known, key) {
			return fault.Invalid.Errorf("option %q: unknown, this runtime has %q", key, known)
		}
	}
	return nil
}

// Archive refuses a path at which no file can be created.
func Archive(path string) error {
	if !filepath.IsAbs(path) || strings.Contains(path, "\x00") || strings.HasSuffix(path, "/") || filepath.Base(path) == ".." || filepath.Base(path) == "." {
		return fault.Invalid.Errorf("location %q: it must be the absolute path of a file", path)
	}
	if info, err := os.Stat(filepath.Dir(path)); err != nil || !info.IsDir() {
		return fault.Invalid.Errorf("location %q: its directory does not exist", path)
	}
	if info, err := os.Lstat(path); err == nil && !info.Mode().IsRegular() {
		return fault.Invalid.Errorf("location %q: something that is not a file is there", path)
	}
	return nil
}

// Directory refuses a path that is not an existing directory.
func Directory(what, path string) error {
	if !filepath.IsAbs(path) || strings.Contains(path, "\x00") {
		return fault.Invalid.Errorf("%s %q: it must be absolute", what, path)
	}
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fault.Invalid.Errorf("%s %q: it does not exist", what, path)
	case err != nil:
		return fault.Invalid.Errorf("%s: %w", what, err)
	case !info.IsDir():
		return fault.Invalid.Errorf("%s %q: it is not a directory", what, path)
	}
	return nil
}

// EmptyDirectory opens a directory in which nothing can be lost, and refuses any other.
func EmptyDirectory(what, path string) (*os.Root, error) {
	if err := Directory(what, path); err != nil {
		return nil, err
	}
	dir, err := os.OpenRoot(path)
	if err != nil {
		return nil, fault.Invalid.Errorf("%s: %w", what, err)
	}
	if entries, err := fs.ReadDir(dir.FS(), "."); err != nil || len(entries) > 0 {
		return nil, errors.Join(err, fault.Invalid.Errorf("%s %q: it is not empty", what, path), dir.Close())
	}
	return dir, nil
}
