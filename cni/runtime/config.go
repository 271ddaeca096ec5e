package runtime

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/internal/cniname"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// list is a network configuration: a name and a chain of plugins. A record keeps it,
// so that DEL sees the configuration of its ADD.
type list struct {
	Name         string   `json:"name"`
	Version      string   `json:"cniVersion"`
	DisableCheck flag     `json:"disableCheck,omitempty"`
	DisableGC    flag     `json:"disableGC,omitempty"`
	Plugins      []plugin `json:"plugins"`
}

// kinds returns the types of the network's plugins, in order.
func (l *list) kinds() []string {
	out := make([]string, len(l.Plugins))
	for i, p := range l.Plugins {
		out[i] = p.kind()
	}
	return out
}

// flag is a boolean that may also be written as a string, as other runtimes accept
// it.
type flag bool

// UnmarshalJSON reads true, false, "true" and "false".
func (f *flag) UnmarshalJSON(data []byte) error {
	text := bytes.ToLower(bytes.Trim(data, `"`))
	return json.Unmarshal(text, (*bool)(f))
}

// plugin is one plugin's configuration. Values are kept as they were written: a round
// trip through Go numbers would change large ones.
type plugin map[string]json.RawMessage

// kind returns the plugin's type, or "".
func (p plugin) kind() string {
	var s string
	if json.Unmarshal(p["type"], &s) != nil {
		return ""
	}
	return s
}

// ipam returns the type of the plugin's IPAM plugin, or "". It names an executable
// (CNI 1.1.0, section 1, Well-known keys), if the plugin uses the key.
func (p plugin) ipam() string {
	var ipam plugin
	if json.Unmarshal(p["ipam"], &ipam) != nil {
		return ""
	}
	return ipam.kind()
}

// capabilities returns the capabilities that the plugin declares.
func (p plugin) capabilities() map[string]bool {
	var c map[string]bool
	if json.Unmarshal(p["capabilities"], &c) != nil {
		return nil
	}
	return c
}

// check returns what is wrong with a plugin's configuration, and under which key.
func (p plugin) check() error {
	kind := p.kind()
	if !cniname.Valid(kind) {
		return atKey(fault.Invalid.Errorf("the type is %q: it must be the name of a plugin's file", kind), "type")
	}
	if raw, ok := p["capabilities"]; ok {
		var c map[string]bool
		if err := json.Unmarshal(raw, &c); err != nil {
			return atKey(fault.Invalid.Errorf("capabilities of %q: they must be an object of true and false", kind), "capabilities")
		}
	}
	return nil
}

// document is a configuration file as written: a list, or a single plugin that stands
// for a list of one.
type document struct {
	list
	versions    []string
	onlyInlined flag
	keys        plugin // all of them
}

// decode decodes the document. Keys must match exactly, and if one occurs twice, the
// last value replaces the first: encoding/json would decode the second plugins list
// over the first.
func decode(content []byte) (*document, error) {
	d := &document{}
	if err := json.Unmarshal(content, &d.keys); err != nil {
		if _, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			err = fault.Invalid.Errorf("it is no JSON object: %s", excerpt(content))
		}
		return nil, err
	}
	var plugins []json.RawMessage
	for _, k := range []struct {
		name string
		into any
		must string
	}{
		{"name", &d.Name, "a string"},
		{"cniVersion", &d.Version, "a string"},
		{"cniVersions", &d.versions, "an array of strings"},
		{"disableCheck", &d.DisableCheck, "true or false"},
		{"disableGC", &d.DisableGC, "true or false"},
		{"loadOnlyInlinedPlugins", &d.onlyInlined, "true or false"},
		{"plugins", &plugins, "an array of objects"},
	} {
		if value, ok := d.keys[k.name]; ok && json.Unmarshal(value, k.into) != nil {
			return nil, atKey(fault.Invalid.Errorf("%s is %.60s, and must be %s", k.name, value, k.must), k.name)
		}
	}
	if plugins != nil {
		d.Plugins = make([]plugin, len(plugins))
	}
	for i, value := range plugins {
		if json.Unmarshal(value, &d.Plugins[i]) != nil {
			return nil, atKey(fault.Invalid.Errorf("plugins[%d] is %.60s, and must be an object", i, value), "plugins", i)
		}
	}
	return d, nil
}

// parse parses a configuration. besides returns the plugins in separate files for the
// network of that name.
func parse(content []byte, besides func(name string) ([]plugin, error)) (*list, error) {
	d, err := decode(content)
	if err != nil {
		return nil, err
	}
	l := &d.list
	if !cniname.Valid(l.Name) {
		return nil, atKey(fault.Invalid.Errorf("the name is %q: it must begin with a letter or digit and go on with those, '_', '.' and '-'", l.Name), "name")
	}
	if err := l.selectVersion(d.versions); err != nil {
		return nil, err
	}
	single := d.single()
	switch {
	case single != nil:
		l.Plugins = []plugin{single}
	case l.Plugins == nil && bool(d.onlyInlined):
		return nil, atKey(fault.Invalid.Errorf("loadOnlyInlinedPlugins is true and there are no plugins"), "loadOnlyInlinedPlugins")
	}
	if err := l.checkPlugins(single != nil); err != nil {
		return nil, err
	}
	if single == nil && !bool(d.onlyInlined) {
		more, err := besides(l.Name)
		if err != nil {
			return nil, err
		}
		l.Plugins = append(l.Plugins, more...)
	}
	if len(l.Plugins) == 0 {
		return nil, atKey(fault.Invalid.Errorf("there are no plugins"), "plugins")
	}
	return l, nil
}

// single returns the whole document as a plugin if it is one, or nil.
func (d *document) single() plugin {
	if d.Plugins != nil || d.keys["type"] == nil {
		return nil
	}
	p := maps.Clone(d.keys)
	// Keys for the runtime are not part of the plugin's configuration.
	for _, key := range []string{"cniVersions", "disableCheck", "disableGC", "loadOnlyInlinedPlugins", "plugins"} {
		delete(p, key)
	}
	return p
}

// selectVersion selects the highest version that both the configuration and this
// runtime support (CNI 1.1.0, Version considerations).
func (l *list) selectVersion(versions []string) error {
	if l.Version != "" {
		versions = append(versions, l.Version)
	}
	l.Version = ""
	for _, v := range cni.Versions() { // oldest first
		if slices.Contains(versions, v) {
			l.Version = v
		}
	}
	if l.Version != "" {
		return nil
	}
	if len(versions) == 0 {
		return fault.Invalid.Errorf("cniVersion is missing")
	}
	return atKey(fault.Invalid.Errorf("cniVersion is %s, and this runtime speaks %s", strings.Join(versions, ", "), strings.Join(cni.Versions(), ", ")), "cniVersion")
}

func (l *list) checkPlugins(single bool) error {
	for i, p := range l.Plugins {
		err := p.check()
		if err != nil && !single {
			err = atKey(err, "plugins", i)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
