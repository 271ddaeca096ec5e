package runtime

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// writeAll writes files below dir; names may hold directories.
func writeAll(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestLoad(t *testing.T) {
	for name, c := range map[string]struct {
		files         map[string]string
		version, want string
	}{
		"list":              {map[string]string{"a.conflist": `{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"a"},{"type":"b"}]}`}, "1.0.0", "a b"},
		"single plugin":     {map[string]string{"a.conf": `{"cniVersion":"0.4.0","name":"n","type":"a"}`}, "0.4.0", "a"},
		"first by name":     {map[string]string{"b.conf": `{"cniVersion":"0.4.0","name":"n","type":"b"}`, "a.json": `{"cniVersion":"0.4.0","name":"n","type":"a"}`}, "0.4.0", "a"},
		"highest of union":  {map[string]string{"a.conflist": `{"cniVersion":"1.0.0","cniVersions":["0.4.0","1.1.0","9.0.0"],"name":"n","plugins":[{"type":"a"}]}`}, "1.1.0", "a"},
		"cniVersion higher": {map[string]string{"a.conflist": `{"cniVersion":"1.1.0","cniVersions":["0.4.0"],"name":"n","plugins":[{"type":"a"}]}`}, "1.1.0", "a"},
		"cniVersions alone": {map[string]string{"a.conflist": `{"cniVersions":["0.3.1","0.4.0"],"name":"n","plugins":[{"type":"a"}]}`}, "0.4.0", "a"},
		"by directory": {map[string]string{
			"a.conflist": `{"cniVersion":"1.1.0","name":"n","plugins":[{"type":"a"}]}`,
			"n/2.conf":   `{"type":"c"}`, "n/1.conf": `{"type":"b"}`, "n/3.json": `{"type":"d"}`, "other/1.conf": `{"type":"e"}`,
		}, "1.1.0", "a b c"},
		"only by directory": {map[string]string{"a.conflist": `{"cniVersion":"1.1.0","name":"n"}`, "n/1.conf": `{"type":"b"}`}, "1.1.0", "b"},
		"inlined alone": {map[string]string{
			"a.conflist": `{"cniVersion":"1.1.0","name":"n","loadOnlyInlinedPlugins":true,"plugins":[{"type":"a"}]}`, "n/1.conf": `{`,
		}, "1.1.0", "a"},
		"a string for a bool": {map[string]string{
			"a.conflist": `{"cniVersion":"1.1.0","name":"n","loadOnlyInlinedPlugins":"True","plugins":[{"type":"a"}]}`, "n/1.conf": `{`,
		}, "1.1.0", "a"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			writeAll(t, dir, c.files)
			l, problems, err := loadDir(dir)
			if err != nil || len(problems) > 0 {
				t.Fatal(err, problems)
			}
			if got := strings.Join(l.kinds(), " "); l.Version != c.version || got != c.want {
				t.Errorf("version %s, plugins %s; want %s, %s", l.Version, got, c.version, c.want)
			}
		})
	}
}

// TestBadFiles has each kind of bad file beside a good one, which must be used,
// and looks for file, line and reason in what is said of the bad one.
func TestBadFiles(t *testing.T) {
	for content, want := range map[string][]string{
		"{\n\"cniVersion\": \"1.1.0\",\n oops}":                                                {`line 3`, "invalid character"},
		"{\n\"cniVersion\": 7}":                                                                {`line 2`, "cniVersion is 7, and must be a string"},
		"{\"cniVersion\":\"1.1.0\",\n\"name\":\n\"a/b\"}":                                      {`line 3`, `the name is "a/b"`},
		"{\"cniVersion\":\"1.1.0\",\"plugins\":[{\"type\":\"a\"}]}":                            {`line 1`, `the name is ""`},
		"{\"name\":\"n\",\n\"cniVersion\":\"9.0.0\"}":                                          {`line 2`, "cniVersion is 9.0.0", "1.1.0"},
		"{\"name\":\"n\",\"plugins\":[{\"type\":\"a\"}]}":                                      {"cniVersion is missing"},
		"{\"cniVersion\":\"1.1.0\",\"name\":\"n\",\n\"plugins\":[\n{\"type\":\"a\"},\n{}]}":    {`line 4`, `the type is ""`},
		"{\"cniVersion\":\"1.1.0\",\"name\":\"n\",\n\"plugins\":[{\n\"type\":\"../a\"}]}":      {`line 3`, `the type is "../a"`},
		"{\"cniVersion\":\"1.1.0\",\"name\":\"n\",\n\"plugins\":[]}":                           {`line 2`, "no plugins"},
		"{\"cniVersion\":\"1.1.0\",\"name\":\"n\"}":                                            {"no plugins"},
		"{\"cniVersion\":\"1.1.0\",\"name\":\"n\",\n\"loadOnlyInlinedPlugins\":true}":          {`line 2`, "loadOnlyInlinedPlugins"},
		"{\"cniVersion\":\"1.1.0\",\"name\":\"n\",\"plugins\":[],\n\"disableGC\":\"perhaps\"}": {`line 2`, `disableGC is "perhaps", and must be true or false`},
		"{\"cniVersion\":\"1.1.0\",\"name\":\"n\",\n\"cniVersions\":\"1.0.0\"}":                {`line 2`, `cniVersions is "1.0.0", and must be an array of strings`},
		"{\"cniVersion\":\"1.1.0\",\"name\":\"n\",\n\"plugins\":{}}":                           {`line 2`, "plugins is {}, and must be an array of objects"},
		"{\"cniVersion\":\"1.1.0\",\"Name\":\"n\",\"plugins\":[{\"type\":\"a\"}]}":             {`the name is ""`},
		"[{\"type\":\"a\"}]": {"it is no JSON object"},
		"{\"cniVersion\":\"1.1.0\",\"name\":\"n\",\n\"plugins\":[\n7]}":                         {`line 3`, "plugins[0] is 7, and must be an object"},
		"{\"cniVersion\":\"1.1.0\",\"name\":\"dir\",\"plugins\":[{\"type\":\"a\"}]}":            {`dir/1.conf" line 2`, "the type"},
		"{\"cniVersion\":\"1.1.0\",\"name\":\"torn\",\"plugins\":[{\"type\":\"a\"}]}":           {`torn/1.conf" line 3`, "unexpected end"},
		"{\"cniVersion\":\"1.1.0\",\"name\":\"n\",\"type\":\"a\",\n\"capabilities\":[\"mac\"]}": {`line 2`, "capabilities"},
		"": {"unexpected end"},
	} {
		dir := t.TempDir()
		writeAll(t, dir, map[string]string{
			"1-bad.conflist": content, "dir/1.conf": "{\n\"type\":\"/\"}", "torn/1.conf": "{\n\n",
			"2-good.conflist": `{"cniVersion":"1.1.0","name":"good","plugins":[{"type":"a"}]}`,
		})
		l, problems, err := loadDir(dir)
		if err != nil || l.Name != "good" || len(problems) != 1 {
			t.Errorf("%s: %v, %v, %v", content, l, problems, err)
			continue
		}
		for _, w := range append(want, dir) {
			if !strings.Contains(problems[0].Error(), w) {
				t.Errorf("%s: %v does not say %q", content, problems[0], w)
			}
		}
	}
}

// TestDuplicatePlugins: of two lists of plugins the second counts, with nothing of the first.
func TestDuplicatePlugins(t *testing.T) {
	l, err := parse([]byte(`{"cniVersion":"1.1.0","name":"n","plugins":[{"type":"a","of":"a"}],"plugins":[{"type":"b"}]}`),
		func(string) ([]plugin, error) { return nil, nil })
	if err != nil || !slices.Equal(l.kinds(), []string{"b"}) || l.Plugins[0]["of"] != nil {
		t.Errorf("%v, %v", l, err)
	}
}

func TestNoConfiguration(t *testing.T) {
	if _, _, err := loadDir(filepath.Join(t.TempDir(), "absent")); !errors.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "ends in .conflist") {
		t.Errorf("a directory that is not there: %v", err)
	}
}

func FuzzConfiguration(f *testing.F) {
	f.Add([]byte(`{"cniVersion":"1.0.0","cniVersions":["0.4.0"],"name":"n","disableCheck":"true","plugins":[{"type":"a","capabilities":{"mac":true}}]}`))
	f.Add([]byte(`{"cniVersion":"1.0.0","name":"n","type":"a"}`))
	f.Add([]byte(`{"name":"n","plugins":[null,7],"loadOnlyInlinedPlugins":true}`))
	f.Fuzz(func(t *testing.T, content []byte) {
		l, err := parse(content, func(string) ([]plugin, error) { return nil, nil })
		if err != nil {
			_ = place("file", content, err).Error()
			return
		}
		if len(l.Plugins) == 0 || l.Version == "" {
			t.Fatalf("%q is accepted as %v", content, l)
		}
		for _, p := range l.Plugins {
			raw, err := request(&record{List: l}, p, nil)
			if err != nil || !json.Valid(raw) {
				t.Fatalf("%q: request %q, %v", content, raw, err)
			}
		}
	})
}

func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"version":1,"attachment":{"containerID":"c","ifname":"eth0","netns":"/n","capabilityArgs":{"mac":"x"}},"list":{"name":"n","cniVersion":"1.1.0","plugins":[{"type":"a"}]},"result":{}}`))
	f.Add([]byte(`{"version":2}`))
	f.Add([]byte(`{"version":1,"list":{"plugins":[null]}}`))
	f.Fuzz(func(t *testing.T, content []byte) {
		r, err := decodeRecord(content, "file")
		if err != nil {
			return
		}
		for _, p := range r.List.Plugins {
			if raw, err := request(r, p, r.Result); err == nil && !json.Valid(raw) {
				t.Fatalf("%q: request %q", content, raw)
			}
		}
		_ = r.Attachment.args()
	})
}

func FuzzLibcni(f *testing.F) {
	list, err := json.Marshal([]byte(`{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"a"}]}`))
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(`{"kind":"cniCacheV1","containerId":"c","config":` + string(list) + `,"ifName":"eth0","networkName":"n","cniArgs":[["a","b"]],"result":{"cniVersion":"0.4.0"}}`))
	f.Add([]byte(`{"cniVersion":"1.0.0"}`))
	f.Fuzz(func(t *testing.T, content []byte) {
		r, err := decodeLibcni(content, func(string) ([]plugin, error) { return nil, nil })
		if err == nil && (r.Attachment.validate() != nil || len(r.List.Plugins) == 0) {
			t.Fatalf("%q is accepted as %v", content, r)
		}
		if err == nil && len(r.Result) > 0 {
			if _, err := cni.DecodeResult(r.Result, r.List.Version); err != nil {
				t.Fatalf("%q: result %q: %v", content, r.Result, err)
			}
		}
	})
}
