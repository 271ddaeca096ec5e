package runtime

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/internal/fault"
)

var namePattern = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.\-]*$`)

// list is a network configuration: a name and the plugins of its chain. It is
// what a record keeps, so that DEL sees the configuration that ADD saw.
type list struct {
	Name         string   `json:"name"`
	Version      string   `json:"cniVersion"`
	DisableCheck bool     `json:"disableCheck,omitempty"`
	DisableGC    bool     `json:"disableGC,omitempty"`
	Plugins      []plugin `json:"plugins"`
}

// plugin is one plugin's configuration. Values are kept as they were written:
// a round trip through Go numbers would change large ones.
type plugin map[string]json.RawMessage

// kind returns the plugin's type, or "".
func (p plugin) kind() string {
	var s string
	if json.Unmarshal(p["type"], &s) != nil {
		return ""
	}
	return s
}

// capabilities returns what the plugin declares to understand.
func (p plugin) capabilities() map[string]bool {
	var c map[string]bool
	if json.Unmarshal(p["capabilities"], &c) != nil {
		return nil
	}
	return c
}

// loadDir returns the first valid network configuration of the directory in the
// order of file names, and what is wrong with the files before and after it. No
// valid one is fault.Unavailable: it may appear later.
func loadDir(dir string) (l *list, problems []error, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, nil, fmt.Errorf("reading network configurations: %w", err)
	}
	for _, e := range entries { // sorted by name
		file := filepath.Join(dir, e.Name())
		if e.IsDir() || !slices.Contains([]string{".conflist", ".conf", ".json"}, filepath.Ext(file)) {
			continue
		}
		found, err := loadFile(file)
		if err != nil {
			problems = append(problems, err)
		} else if l == nil {
			l = found
		}
	}
	if l == nil {
		return nil, problems, fault.Unavailable.Wrap(errors.Join(append([]error{fmt.Errorf("no valid network configuration is in %q", dir)}, problems...)...))
	}
	return l, problems, nil
}

// loadFile reads a *.conflist, or a file with a single plugin.
func loadFile(file string) (*list, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading network configuration: %w", err)
	}
	l, err := parse(content, filepath.Dir(file))
	if err != nil {
		return nil, fmt.Errorf("network configuration %s: %w", place(file, content, err), err)
	}
	return l, nil
}

// place returns the file and, where the error tells, the line.
func place(file string, content []byte, err error) string {
	var syntax *json.SyntaxError
	var typed *json.UnmarshalTypeError
	offset := int64(-1)
	switch {
	case errors.As(err, &syntax):
		offset = syntax.Offset
	case errors.As(err, &typed):
		offset = typed.Offset
	}
	if offset < 0 || offset > int64(len(content)) {
		return fmt.Sprintf("%q", file)
	}
	return fmt.Sprintf("%q line %d", file, 1+bytes.Count(content[:offset], []byte("\n")))
}

// document is a configuration file as it is written.
type document struct {
	list
	Versions    []string        `json:"cniVersions"`
	OnlyInlined bool            `json:"loadOnlyInlinedPlugins"`
	Plugins     json.RawMessage `json:"plugins"`
}

func parse(content []byte, dir string) (*list, error) {
	var d document
	if err := json.Unmarshal(content, &d); err != nil {
		return nil, err
	}
	l := &d.list
	switch {
	case d.Plugins != nil:
		if err := json.Unmarshal(d.Plugins, &l.Plugins); err != nil {
			return nil, fmt.Errorf("plugins: %w", err)
		}
	case d.OnlyInlined:
		return nil, fault.Invalid.Errorf("loadOnlyInlinedPlugins is set and plugins is missing")
	default:
		var single plugin
		if err := json.Unmarshal(content, &single); err != nil {
			return nil, err
		}
		if single["type"] != nil {
			l.Plugins = []plugin{single}
		}
	}
	if !namePattern.MatchString(l.Name) {
		return nil, fault.Invalid.Errorf("its name is %q: it must begin with a letter or digit and go on with those, '_', '.' and '-'", l.Name)
	}
	if !d.OnlyInlined && d.Plugins != nil || len(l.Plugins) == 0 {
		more, err := besides(filepath.Join(dir, l.Name))
		if err != nil {
			return nil, err
		}
		l.Plugins = append(l.Plugins, more...)
	}
	return l, l.complete(d.Versions)
}

// besides reads the plugins that stand in files of their own below a directory
// with the network's name (CNI 1.1.0, section 1, loadOnlyInlinedPlugins).
func besides(dir string) ([]plugin, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.conf"))
	if err != nil {
		return nil, err
	}
	var out []plugin
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		var p plugin
		if err := json.Unmarshal(content, &p); err != nil {
			return nil, fmt.Errorf("%s: %w", place(file, content, err), err)
		}
		out = append(out, p)
	}
	return out, nil
}

// complete checks the list and selects the version: the highest that both the
// configuration and this runtime know.
func (l *list) complete(versions []string) error {
	if l.Version != "" {
		versions = append(versions, l.Version)
	}
	l.Version = ""
	for _, v := range cni.Versions() { // oldest first
		if slices.Contains(versions, v) {
			l.Version = v
		}
	}
	if l.Version == "" {
		return fault.Invalid.Errorf("its cniVersion is %q, and this runtime speaks %q", versions, cni.Versions())
	}
	if len(l.Plugins) == 0 {
		return fault.Invalid.Errorf("it has no plugins")
	}
	for i, p := range l.Plugins {
		if !namePattern.MatchString(p.kind()) {
			return fault.Invalid.Errorf("plugins[%d] has the type %q", i, p.kind())
		}
	}
	return nil
}
