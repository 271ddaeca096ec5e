package volume

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// writer replaces the files of a volume in one step, in the layout that programs in
// containers know:
//
//	..2x7q.../a/b      the files, never changed once they are visible
//	..data             a link to that directory; a new version replaces it
//	a -> ..data/a      one link for each name at the top
//
// A reader that opens ..data once sees one version of all files. A crash leaves
// directories that nothing links to; the next write removes them.
type writer struct {
	dir   string
	group int // fsGroup, or -1
}

const dataLink = "..data"

// write makes the volume contain exactly files. It changes nothing if it already does.
func (w writer) write(files content) error {
	if err := os.MkdirAll(w.dir, 0o755); err != nil {
		return err
	}
	current, err := os.Readlink(filepath.Join(w.dir, dataLink))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if current == "" || !w.holds(current, files) {
		if current, err = w.replace(files); err != nil {
			return err
		}
	}
	return w.tidy(current, files)
}

// replace writes a new version and points ..data to it.
func (w writer) replace(files content) (version string, err error) {
	version = ".." + strings.ToLower(rand.Text())
	if err := w.fill(filepath.Join(w.dir, version), files); err != nil {
		return "", errors.Join(err, os.RemoveAll(filepath.Join(w.dir, version)))
	}
	next := filepath.Join(w.dir, dataLink+"_next")
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if err := os.Symlink(version, next); err != nil {
		return "", err
	}
	return version, os.Rename(next, filepath.Join(w.dir, dataLink))
}

func (w writer) fill(dir string, files content) error {
	if err := w.makeDir(dir); err != nil {
		return err
	}
	for name, f := range files {
		at := dir
		for _, part := range strings.Split(filepath.Dir(name), "/") {
			at = filepath.Join(at, part)
			if err := w.makeDir(at); err != nil {
				return err
			}
		}
		if err := w.writeFile(filepath.Join(dir, name), f); err != nil {
			return err
		}
	}
	return nil
}

func (w writer) makeDir(dir string) error {
	mode := fs.FileMode(0o755)
	if err := os.Mkdir(dir, mode); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return nil
		}
		return err
	}
	if w.group >= 0 {
		mode |= fs.ModeSetgid
		if err := os.Chown(dir, -1, w.group); err != nil {
			return err
		}
	}
	return os.Chmod(dir, mode) // regardless of the umask
}

func (w writer) writeFile(name string, f file) error {
	if err := os.WriteFile(name, f.data, 0o600); err != nil {
		return err
	}
	if w.group >= 0 {
		if err := os.Chown(name, -1, w.group); err != nil {
			return err
		}
	}
	return os.Chmod(name, w.mode(f))
}

// mode returns the file's mode, with read permission for owner and group if the Pod has
// an fsGroup.
func (w writer) mode(f file) fs.FileMode {
	if w.group >= 0 {
		return f.mode | 0o440
	}
	return f.mode
}

// holds reports whether the version has exactly these files.
func (w writer) holds(version string, files content) bool {
	dir := filepath.Join(w.dir, version)
	found := 0
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		want, ok := files[name]
		fi, err := e.Info()
		if err != nil || !ok || fi.Mode().Perm() != w.mode(want) {
			return errors.Join(err, fs.ErrInvalid)
		}
		have, err := os.ReadFile(path)
		if err != nil || !bytes.Equal(have, want.data) {
			return errors.Join(err, fs.ErrInvalid)
		}
		found++
		return nil
	})
	return err == nil && found == len(files)
}

// tidy corrects the links at the top and removes what no link leads to.
func (w writer) tidy(current string, files content) error {
	top := map[string]bool{}
	for name := range files {
		first, _, _ := strings.Cut(name, "/")
		top[first] = true
	}
	entries, err := os.ReadDir(w.dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		name := e.Name()
		if name == dataLink || name == current || top[name] {
			continue
		}
		errs = append(errs, os.RemoveAll(filepath.Join(w.dir, name)))
	}
	for name := range top {
		link, want := filepath.Join(w.dir, name), filepath.Join(dataLink, name)
		if slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() == name }) {
			continue
		}
		errs = append(errs, os.Symlink(want, link))
	}
	return errors.Join(errs...)
}
