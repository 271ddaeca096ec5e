package runtime

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// loadDir returns the directory's first valid network configuration by file name, and
// what is wrong with the other files. If none is valid, the error is
// fault.Unavailable: one may appear later.
func loadDir(dir string) (l *list, problems []error, err error) {
	files, err := filesOf(dir, ".conflist", ".conf", ".json")
	if err != nil {
		return nil, nil, fmt.Errorf("reading network configurations: %w", err)
	}
	for _, file := range files {
		found, err := loadFile(file)
		if err != nil {
			problems = append(problems, err)
		} else if l == nil {
			l = found
		}
	}
	if len(files) == 0 {
		return nil, nil, fault.Unavailable.Errorf("no network configuration is in %q: no file's name there ends in .conflist, .conf or .json", dir)
	}
	if l == nil {
		return nil, problems, fault.Unavailable.Wrap(errors.Join(append([]error{fmt.Errorf("no valid network configuration is in %q", dir)}, problems...)...))
	}
	return l, problems, nil
}

// filesOf returns the files with one of the extensions, sorted by name; none if the
// directory does not exist.
func filesOf(dir string, extensions ...string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var files []string
	for _, e := range entries {
		if !e.IsDir() && slices.Contains(extensions, filepath.Ext(e.Name())) {
			files = append(files, filepath.Join(dir, e.Name()))
		}
	}
	return files, nil
}

// loadFile reads a configuration. Its errors name the file and, if known, the line.
func loadFile(file string) (*list, error) {
	content, err := readRegular(file)
	if err != nil {
		return nil, fmt.Errorf("reading network configuration: %w", err)
	}
	l, err := parse(content, besides(filepath.Dir(file)))
	if err != nil {
		return nil, fmt.Errorf("network configuration %w", place(file, content, err))
	}
	return l, nil
}

// readRegular reads a file, and nothing that might have a reader wait, or never end.
func readRegular(file string) ([]byte, error) {
	if fi, err := os.Stat(file); err == nil && !fi.Mode().IsRegular() {
		return nil, fault.Invalid.Errorf("%q is no regular file", file)
	}
	return os.ReadFile(file)
}

// besides returns the function that reads the plugins of a network which stand
// in files of their own, in a directory with the network's name (CNI 1.1.0,
// loadOnlyInlinedPlugins). One file that cannot be read makes the network
// invalid: a chain without one of its plugins, which may be the firewall, is
// another network.
func besides(dir string) func(name string) ([]plugin, error) {
	return func(name string) ([]plugin, error) {
		files, err := filesOf(filepath.Join(dir, name), ".conf")
		if err != nil {
			return nil, err
		}
		var out []plugin
		for _, file := range files {
			content, err := readRegular(file)
			if err != nil {
				return nil, err
			}
			var p plugin
			if err = json.Unmarshal(content, &p); err == nil {
				err = p.check()
			}
			if err != nil {
				return nil, place(file, content, err)
			}
			out = append(out, p)
		}
		return out, nil
	}
}
