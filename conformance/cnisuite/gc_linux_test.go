package cnisuite_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/nodekit-project/nodekit/conformance"
	"github.com/nodekit-project/nodekit/conformance/cnisuite"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// faultyGC is the good plugin with a file for each attachment, and one fault in
// how GC treats them.
type faultyGC struct {
	nothing  bool                           // it does nothing and succeeds
	before   func(*exchange)                // what the plugin does first
	refuses  func(*exchange) bool           // what it fails for
	stale    func(x *exchange, f file) bool // instead of what the list says
	deaf     bool                           // it asks no delegate
	gives    bool                           // up when the delegate fails
	forgives bool                           // the delegate's failure
}

// file is the name of an attachment's file.
type file struct{ network, id, ifName string }

func (f file) String() string { return f.network + "," + f.id + "," + f.ifName }

func collectors() map[string]func() int {
	plugins := map[string]faultyGC{
		"gc-legal":      {},
		"gc-nothing":    {nothing: true},
		"gc-everything": {stale: func(x *exchange, f file) bool { return f.network == x.network() }},
		"gc-by-id": {stale: func(x *exchange, f file) bool {
			return f.network == x.network() && !slices.ContainsFunc(x.valid(), func(v file) bool { return v.id == f.id })
		}},
		"gc-container": {stale: func(x *exchange, f file) bool { return f.network == x.network() && x.hasStale(f.id) }},
		"gc-by-name": {stale: func(x *exchange, f file) bool {
			return f.network == x.network() && !slices.ContainsFunc(x.valid(), func(v file) bool { return v.ifName == f.ifName })
		}},
		"gc-absent":   {before: func(x *exchange) { x.set("heedless", true) }},
		"gc-networks": {stale: func(x *exchange, f file) bool { f.network = x.network(); return !slices.Contains(x.valid(), f) }},
		"gc-new-key":  {before: func(x *exchange) { x.set("cni.dev/attachments", []any{}); x.set("heedless", true) }},
		"gc-deaf":     {deaf: true},
		"gc-gives-up": {gives: true},
		"gc-forgives": {forgives: true},
		"gc-shared":   {before: func(x *exchange) { _ = remove("shared0") }},
		"gc-counts": {before: func(x *exchange) {
			_ = os.WriteFile(x.state("count-"+filepath.Base(os.TempDir())+x.count()), nil, 0o600)
		}},
		"gc-needs-id":   {refuses: func(x *exchange) bool { return x.env["CNI_CONTAINERID"] == "" }},
		"gc-of-any-age": {before: func(x *exchange) { x.set("cniVersion", "1.1.0") }},
	}
	all := map[string]func() int{}
	for name, p := range plugins {
		all[name] = raw(p.answer)
	}
	return all
}

func (x *exchange) network() string { name, _ := x.config()["name"].(string); return name }

func (x *exchange) count() string {
	have, _ := filepath.Glob(x.state("count-*"))
	return strings.Repeat("x", len(have))
}

// valid is what the list of either key says; nothing where there is none.
func (x *exchange) valid() []file {
	var list struct {
		New, Old []struct{ ContainerID, IfName string }
	}
	config := x.config()
	for key, into := range map[string]any{"cni.dev/valid-attachments": &list.New, "cni.dev/attachments": &list.Old} {
		text, _ := json.Marshal(config[key])
		_ = json.Unmarshal(text, into)
	}
	var all []file
	for _, v := range append(list.New, list.Old...) {
		all = append(all, file{x.network(), v.ContainerID, v.IfName})
	}
	return all
}

// hasStale says whether one of the container's attachments is not in the list.
func (x *exchange) hasStale(id string) bool {
	files, _ := filepath.Glob(x.state(x.network() + "," + id + ",*"))
	return slices.ContainsFunc(files, func(path string) bool {
		return !slices.Contains(x.valid(), file{x.network(), id, strings.Split(filepath.Base(path), ",")[2]})
	})
}

func (p faultyGC) answer(x *exchange) (string, int) {
	name := file{x.network(), x.env["CNI_CONTAINERID"], x.env["CNI_IFNAME"]}.String()
	switch x.command() {
	case "GC":
		return p.collect(x)
	case "ADD":
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "shared0"
		_ = netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}) // it exists after the first
		out, rc := x.good()
		if rc == 0 {
			_ = os.WriteFile(x.state(name), nil, 0o600)
		}
		return out, rc
	case "DEL":
		_ = os.Remove(x.state(name))
	}
	return x.good()
}

func (p faultyGC) collect(x *exchange) (string, int) {
	if p.nothing {
		return "", 0
	}
	if p.before != nil {
		p.before(x)
	}
	if p.refuses != nil && p.refuses(x) {
		return refuse(4, "no")
	}
	config := x.config()
	heedless := config["heedless"] != nil
	if heedless { // or numbers would change
		delete(config, "heedless")
		x.stdin, _ = json.Marshal(config)
	}
	out, rc := "", 0
	if !p.deaf {
		out, rc = x.good()
	}
	if rc != 0 && (p.gives || x.config()["cniVersion"] != "1.1.0") {
		return out, rc
	}
	if config["cni.dev/valid-attachments"] != nil || config["cni.dev/attachments"] != nil || heedless {
		p.sweep(x)
	}
	if p.forgives {
		return "", 0
	}
	return out, rc
}

func (p faultyGC) sweep(x *exchange) {
	files, _ := filepath.Glob(x.state("*,*,*"))
	for _, path := range files {
		part := strings.Split(filepath.Base(path), ",")
		f := file{part[0], part[1], part[2]}
		gone := f.network == x.network() && !slices.Contains(x.valid(), f)
		if p.stale != nil {
			gone = p.stale(x, f)
		}
		if gone {
			_ = os.Remove(path)
		}
	}
}

// gcFaults are the plugins that the rules on GC must catch.
func gcFaults() []fault {
	return []fault{
		{"gc-nothing", "CNI-GC-001"},
		{"gc-everything", "CNI-GC-002"},
		{"gc-container", "CNI-GC-002"},
		{"gc-by-name", "CNI-GC-001"},
		{"gc-by-id", "CNI-GC-003"},
		{"gc-nothing", "CNI-GC-004"},
		{"gc-absent", "CNI-GC-005"},
		{"gc-deaf", "CNI-GC-006"},
		{"drops-args", "CNI-GC-006"},
		{"gc-gives-up", "CNI-GC-007"},
		{"gc-forgives", "CNI-GC-007"},
		{"gc-networks", "CNI-GC-008"},
		{"gc-shared", "CNI-GC-009"},
		{"gc-counts", "CNI-GC-010"},
		{"gc-needs-id", "CNI-GC-011"},
		{"gc-of-any-age", "CNI-GC-012"},
		{"gc-new-key", "CNI-GC-013"},
	}
}

// fault is a plugin of these tests and the rule that must catch it.
type fault struct{ name, rule string }

// only runs one rule.
func only(t *testing.T, s *conformance.Suite[cnisuite.Target], id string, tgt cnisuite.Target) *conformance.Result {
	t.Helper()
	one := *s
	one.Rules = slices.DeleteFunc(slices.Clone(s.Rules), func(r conformance.Rule[cnisuite.Target]) bool { return r.ID != id })
	report, err := one.Run(t.Context(), tgt, &conformance.Options{Tier: conformance.Soak})
	if err != nil {
		t.Fatal(err)
	}
	return report.Result(id)
}

// TestGCLegal runs the rules on a plugin with files of its own.
func TestGCLegal(t *testing.T) {
	testenv.Require(t, testenv.Root)
	legal(t, "CNI-GC-", target(t, "gc-legal"))
}

// legal runs the rules whose ids begin so on a plugin that does nothing wrong.
func legal(t *testing.T, ids string, tgt cnisuite.Target) {
	s := cnisuite.Suite()
	for _, r := range s.Rules {
		if strings.HasPrefix(r.ID, ids) && r.Tier == conformance.Quick {
			t.Run(r.ID, func(t *testing.T) {
				t.Parallel()
				if got := only(t, s, r.ID, tgt); got.Status == conformance.Fail {
					t.Error(got.Message)
				} else {
					t.Log(got.Status, got.Message)
				}
			})
		}
	}
}
