// Package repocheck has tests of this repository's own structure: who may import
// whom, what the small binaries link, and that an example folder can be copied out
// and built. Nothing imports it.
package repocheck

import (
	"cmp"
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Module is the path of the module whose imports are checked.
const Module = "github.com/nodekit-project/nodekit"

// Import is one package importing another of the module, both relative to it.
type Import struct {
	From, To string
	File     string
	Test     bool // in a _test.go file
}

// layer says what the packages that match From may import, as patterns for matches;
// an exclamation mark excludes again.
type layer struct {
	From string
	May  []string
}

// layers returns who may import whom, as drawn in docs/architecture.md. The first
// match applies. Everything but the examples may import packages below internal.
func layers() []layer {
	reference := []string{
		"!cri/oci/...", "!cni/bridge/...", "!cni/hostlocal/...", "!cni/portmap/...", "!cni/loopback/...",
		"!csi/hostpath/...", "!deviceplugin/gpu/...",
	}
	// What an author builds a plugin with: the SDK roots, and the toolkits of CSI.
	sdks := []string{"cri", "cni", "csi", "csi/mount", "csi/store", "deviceplugin"}
	wires := slices.Concat(sdks, []string{"internal/...", "cri/client", "cri/log", "csi/client", "deviceplugin/client"})
	return []layer{
		{"cmd/...", []string{"..."}},
		{"kubelet/node", []string{"...", "!cmd/...", "!examples/...", "!conformance/...", "!kubelet/nodetest"}},
		{"kubelet/nodetest", []string{"kubelet/node", "internal/..."}},
		{"kubelet", slices.Concat(wires, []string{"kubelet/...", "!kubelet/node", "!kubelet/nodetest"})},
		{"kubelet/api/...", slices.Concat(wires, []string{"kubelet/pod", "kubelet/object", "kubelet/api/..."})},
		{"kubelet/simulation", []string{"internal/...", "kubelet/observer", "kubelet/pod", "kubelet/probe", "kubelet/status", "kubelet/worker"}},
		{"kubelet/...", slices.Concat(wires, []string{"kubelet/pod", "kubelet/object"})},
		{"examples/...", slices.Concat(sdks, []string{"conformance/...", "kubelet/nodetest"})},

		{"conformance", []string{"internal/..."}},
		{"conformance/internal/...", []string{"conformance"}},
		{"conformance/crisuite/...", []string{"conformance", "conformance/internal/...", "cri", "cri/client", "cri/log", "internal/..."}},
		{"conformance/criclientsuite/...", []string{"conformance", "conformance/internal/...", "cri", "cri/client", "cri/log", "internal/..."}},
		{"conformance/cnisuite/...", []string{"conformance", "cni", "cni/runtime", "internal/..."}},
		{"conformance/cniruntimesuite/...", []string{"conformance", "cni", "cni/runtime", "internal/..."}},
		{"conformance/csisuite/...", []string{"conformance", "csi", "csi/mount", "csi/store", "csi/client", "internal/..."}},
		{"conformance/devicesuite/...", []string{"conformance", "deviceplugin", "deviceplugin/client", "internal/..."}},
		{"conformance/podsuite/...", []string{"conformance", "cri", "cri/client", "cri/log", "internal/..."}},

		// Only tests use cri/nri: see TestOptional.
		{"cri/oci/...", []string{"cri", "cri/log", "cri/nri", "cri/oci/...", "cni/runtime", "internal/..."}},
		{"cni/bridge/...", slices.Concat([]string{"cni/...", "internal/..."}, reference)},
		{"cni/hostlocal/...", slices.Concat([]string{"cni/...", "internal/..."}, reference)},
		{"cni/portmap/...", slices.Concat([]string{"cni/...", "internal/..."}, reference)},
		{"cni/loopback/...", slices.Concat([]string{"cni/...", "internal/..."}, reference)},
		{"csi/hostpath/...", slices.Concat([]string{"csi/...", "internal/..."}, reference, []string{"csi/hostpath/..."})},
		{"deviceplugin/gpu/...", slices.Concat([]string{"deviceplugin/...", "internal/..."}, reference, []string{"deviceplugin/gpu/..."})},

		{"cri/...", slices.Concat([]string{"cri/...", "internal/..."}, reference)},
		{"cni/...", slices.Concat([]string{"cni/...", "internal/..."}, reference)},
		{"csi/...", slices.Concat([]string{"csi/...", "internal/..."}, reference)},
		{"deviceplugin/...", slices.Concat([]string{"deviceplugin/...", "internal/..."}, reference)},
		{"internal/...", []string{"internal/..."}},
	}
}

// Check returns the import if the rules forbid it, as an error that says what
// is allowed instead.
func (i Import) Check() error {
	if i.Test && i.usesOwnSuite() {
		return nil
	}
	for _, l := range layers() {
		if !matches(l.From, i.From) {
			continue
		}
		if i.From == i.To || allowed(l.May, i.To) {
			return nil
		}
		return fmt.Errorf("%s: %s imports %s; it may import %s", i.File, i.From, i.To, strings.Join(l.May, " "))
	}
	return fmt.Errorf("%s: %s is in no layer; see docs/architecture.md for where things belong", i.File, i.From)
}

// usesOwnSuite reports whether the import is of the family's own suite, which any
// test of the family may use, or the reverse: the suite's tests make mutants of the
// family's plugins.
func (i Import) usesOwnSuite() bool {
	suites := map[string]string{
		"cri": "crisuite", "cni": "cnisuite", "csi": "csisuite", "deviceplugin": "devicesuite", "kubelet": "podsuite",
	}
	family, _, _ := strings.Cut(i.From, "/")
	suite, ok := suites[family]
	if ok {
		return i.To == "conformance" || i.To == "conformance/"+suite
	}
	family, _, _ = strings.Cut(i.To, "/")
	suite, ok = suites[family]
	return ok && i.From == "conformance/"+suite
}

// allowed applies patterns in order: the last one that matches decides.
func allowed(patterns []string, pkg string) bool {
	ok := false
	for _, p := range patterns {
		if name, out := strings.CutPrefix(p, "!"); matches(name, pkg) {
			ok = !out
		}
	}
	return ok
}

// matches interprets a pattern as the go command does: "a/..." is a and everything
// below.
func matches(pattern, pkg string) bool {
	if pattern == "..." {
		return true
	}
	if tree, ok := strings.CutSuffix(pattern, "/..."); ok {
		return pkg == tree || strings.HasPrefix(pkg, tree+"/")
	}
	return pattern == pkg
}

// Scan reads every import of a package of the module below dir, for every operating
// system and architecture: it ignores build constraints. It skips other modules below
// dir, testdata and hidden folders.
func Scan(dir string) ([]Import, error) {
	var imports []Import
	err := filepath.WalkDir(dir, func(file string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, file)
		if err != nil {
			return err
		}
		if entry.IsDir() {
			return skip(file, rel)
		}
		if !strings.HasSuffix(file, ".go") {
			return nil
		}
		found, err := scanFile(file, filepath.ToSlash(rel))
		imports = append(imports, found...)
		return err
	})
	slices.SortFunc(imports, func(a, b Import) int { return cmp.Compare(a.File, b.File) })
	return imports, err
}

func skip(dir, rel string) error {
	base := filepath.Base(dir)
	if rel == "." {
		return nil
	}
	if base == "testdata" || strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") {
		return filepath.SkipDir
	}
	if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
		return filepath.SkipDir
	}
	return nil
}

func scanFile(file, rel string) ([]Import, error) {
	syntax, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
	if err != nil {
		return nil, err
	}
	var imports []Import
	for _, spec := range syntax.Imports {
		to, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return nil, err
		}
		if to, ours := strings.CutPrefix(to, Module+"/"); ours {
			imports = append(imports, Import{From: path.Dir(rel), To: to, File: rel, Test: strings.HasSuffix(rel, "_test.go")})
		}
		if strings.HasPrefix(to, "k8s.io/kubernetes") {
			return nil, fmt.Errorf("%s imports %s, which this module never does", rel, to)
		}
	}
	return imports, nil
}
