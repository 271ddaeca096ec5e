package leak

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

func loops(scope *Scope) (things, error) {
	backing, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return nil, err
	}
	found := make(things)
	for _, path := range backing {
		data, err := os.ReadFile(path)
		if gone(err) || errors.Is(err, unix.ENXIO) {
			continue // detached just now
		}
		if err != nil {
			return nil, err
		}
		file := strings.TrimSpace(string(data))
		if scope.matches(Loop, file) {
			name := fmt.Sprintf("%s (/dev/%s)", file, strings.Split(path, "/")[3])
			found.add(name, name)
		}
	}
	return found, nil
}

func files(scope *Scope) (things, error) {
	found := make(things)
	for _, dir := range scope.Dirs {
		err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			if gone(err) {
				return nil
			}
			if err != nil {
				return err
			}
			if path != dir && scope.matches(File, path) {
				found.add(path, path)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return found, nil
}

// contents identifies files by a digest of their content.
func contents(scope *Scope) (things, error) {
	found := make(things)
	for _, dir := range scope.Dirs {
		err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			if gone(err) || err == nil && !entry.Type().IsRegular() || !scope.matches(Content, path) {
				return nil
			}
			if err != nil {
				return err
			}
			data, err := os.ReadFile(path)
			if gone(err) {
				return nil
			}
			if err != nil {
				return err
			}
			found.add(fmt.Sprintf("%s %x", path, sha256.Sum256(data)), fmt.Sprintf("%s (%d bytes)", path, len(data)))
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return found, nil
}
