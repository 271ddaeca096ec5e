package repocheck_test

import (
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/nodekit-project/nodekit/internal/repocheck"
)

// root is the repository's root, seen from this package.
const root = "../.."

func TestImports(t *testing.T) {
	imports, err := repocheck.Scan(root)
	if err != nil {
		t.Fatal(err)
	}
	if len(imports) < 50 {
		t.Errorf("only %d imports were found", len(imports))
	}
	for _, i := range imports {
		if err := i.Check(); err != nil {
			t.Error(err)
		}
	}
}

// TestRules shows the rules to allow and forbid what they shall.
func TestRules(t *testing.T) {
	const test = true
	for _, c := range []struct {
		from, to string
		test, ok bool
	}{
		{"cmd/nodekit", "kubelet/node", false, true},
		{"kubelet/node", "csi/hostpath", false, true},
		{"kubelet/node", "conformance", false, false},
		{"kubelet", "kubelet/worker", false, true},
		{"kubelet", "kubelet/node", false, false},
		{"kubelet/worker", "kubelet/pod", false, true},
		{"kubelet/worker", "kubelet/volume", false, false},
		{"kubelet/worker", "kubelet/volume", test, false},
		{"kubelet/volume", "csi/client", false, true},
		{"kubelet/volume", "csi/hostpath", false, false},
		{"kubelet/volume", "internal/mount", false, true},
		{"examples/csi-hello", "csi", false, true},
		{"examples/csi-hello", "internal/mount", false, false},
		{"examples/csi-hello", "csi/hostpath", test, false},
		{"examples/csi-hello", "conformance/csisuite", test, true},
		{"conformance/cnisuite", "cni", false, true},
		{"conformance/cnisuite", "cni/bridge", false, false},
		{"conformance/cnisuite", "cni/bridge", test, true},
		{"conformance/cnisuite", "csi/hostpath", test, false},
		{"conformance/cnisuite", "csi", false, false},
		{"conformance/cniruntimesuite", "cni/runtime", test, true},
		{"conformance/cniruntimesuite", "cri/client", false, false},
		{"conformance/crisuite", "kubelet/pod", false, false},
		{"cri/oci", "cni/runtime", false, true},
		{"cri/oci", "cni/bridge", false, false},
		{"cri/oci", "csi", false, false},
		{"cri/oci/keeper", "cri/log", false, true},
		{"cri", "cri/oci", false, false},
		{"cri/client", "cri", false, true},
		{"cri", "cni", false, false},
		{"cni/bridge", "cni", false, true},
		{"cni/bridge", "cni/hostlocal", false, false},
		{"cni/bridge", "conformance/cnisuite", test, true},
		{"cni/bridge", "conformance/cnisuite", false, false},
		{"cni/bridge", "conformance/csisuite", test, false},
		{"csi/hostpath/store", "csi/hostpath", false, true},
		{"internal/mount", "internal/fault", false, true},
		{"internal/mount", "csi", false, false},
		{"pkg/util", "internal/fault", false, false},
	} {
		err := repocheck.Import{From: c.from, To: c.to, File: "x.go", Test: c.test}.Check()
		if (err == nil) != c.ok {
			t.Errorf("%s imports %s (test %v): %v", c.from, c.to, c.test, err)
		}
	}
}

// TestScanFindsViolations runs the whole check over a tree that breaks the
// rules, one file a rule.
func TestScanFindsViolations(t *testing.T) {
	imports, err := repocheck.Scan("testdata/bad")
	if err != nil {
		t.Fatal(err)
	}
	var broken []string
	for _, i := range imports {
		if i.Check() != nil {
			broken = append(broken, i.File)
		}
	}
	want := "cri/darwin.go cri/root.go kubelet/worker/sibling_test.go"
	if got := strings.Join(broken, " "); got != want {
		t.Errorf("found %q, want %q", got, want)
	}
	if _, err := repocheck.Scan("testdata/kubernetes"); err == nil || !strings.Contains(err.Error(), "k8s.io/kubernetes") {
		t.Errorf("an import of k8s.io/kubernetes: %v", err)
	}
}

// TestSmallBinaries: what runtimes exec for every Pod, and what stays in
// memory for every node, links neither grpc, Kubernetes nor HTTP, and is small
// when it is built to be installed.
func TestSmallBinaries(t *testing.T) {
	dir := t.TempDir()
	for main, megabytes := range map[string]int64{"cni": 6, "cni-shim": 3, "keeper": 6} {
		for _, dep := range deps(t, root, "./cmd/"+main) {
			if strings.HasPrefix(dep, "google.golang.org/grpc") || strings.HasPrefix(dep, "k8s.io/") ||
				strings.HasPrefix(dep, "sigs.k8s.io/") || strings.HasPrefix(dep, "net/http") {
				t.Errorf("%s links %s", main, dep)
			}
		}
		file := filepath.Join(dir, main)
		cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w -buildid=", "-o", file, "./cmd/"+main)
		cmd.Dir, cmd.Stderr = root, os.Stderr
		cmd.Env = append(os.Environ(), "GOOS=linux", "CGO_ENABLED=0")
		if err := cmd.Run(); err != nil {
			t.Fatalf("building %s: %v", main, err)
		}
		if fi, err := os.Stat(file); err != nil || fi.Size() > megabytes*1_000_000 {
			t.Errorf("%s: %v, %d bytes, more than %d MB", main, err, fi.Size(), megabytes)
		}
	}
	if len(deps(t, root, "./cmd/nodekit")) < 200 {
		t.Error("the list of what a binary links is not one")
	}
}

// TestEntries: make build gives what is executed for every container or Pod the entry that
// runs before the Go runtime starts.
func TestEntries(t *testing.T) {
	cmd := exec.Command("make", "--just-print", "build")
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, m := range regexp.MustCompile(`'\./cmd/([a-z-]+)=([^']* -E (\S+))'`).FindAllStringSubmatch(string(out), -1) {
		main, flags, symbol := m[1], m[2], strings.TrimPrefix(m[3], "github.com/nodekit-project/nodekit/")
		found = append(found, main+" "+symbol)
		file := filepath.Join(t.TempDir(), main)
		cmd := exec.Command("go", "build", "-trimpath", "-ldflags="+flags, "-o", file, "./cmd/"+main)
		cmd.Dir, cmd.Stderr = root, os.Stderr
		cmd.Env = append(os.Environ(), "GOOS=linux", "CGO_ENABLED=0")
		if err := cmd.Run(); err != nil {
			t.Fatalf("building %s: %v", main, err)
		}
		if got := entryOf(t, file); !strings.HasSuffix(got, symbol+".abi0") && !strings.HasSuffix(got, symbol) {
			t.Errorf("%s starts at %q", main, got)
		}
	}
	var want []string // for other architectures
	if runtime.GOARCH == "amd64" || runtime.GOARCH == "arm64" {
		want = []string{"cni internal/oneshot.entry", "cni-shim main.entry", "keeper internal/pause.entry", "podtool internal/pause.entry"}
	}
	if !slices.Equal(found, want) {
		t.Errorf("make build has entries for %q, want %q", found, want)
	}
}

// entryOf returns the name of where an executable starts.
func entryOf(t *testing.T, file string) string {
	t.Helper()
	f, err := elf.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	symbols, err := f.Symbols()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range symbols {
		if s.Value == f.Entry && elf.ST_TYPE(s.Info) == elf.STT_FUNC {
			return s.Name
		}
	}
	return ""
}

// TestOptional: who does not want NRI plugins does not link what they need.
func TestOptional(t *testing.T) {
	for _, pkg := range []string{"./cri", "./cri/oci", "./kubelet"} {
		for _, dep := range deps(t, root, pkg) {
			if strings.HasPrefix(dep, "github.com/containerd/nri") || strings.HasSuffix(dep, "/cri/nri") {
				t.Errorf("%s links %s", pkg, dep)
			}
		}
	}
}

func deps(t *testing.T, dir, pkg string) []string {
	t.Helper()
	cmd := exec.Command("go", "list", "-deps", pkg)
	cmd.Dir, cmd.Stderr = dir, os.Stderr
	cmd.Env = append(os.Environ(), "GOOS=linux", "CGO_ENABLED=0")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("listing what %s links: %v", pkg, err)
	}
	return strings.Fields(string(out))
}

// TestGoMod: each direct dependency has its line of reason, and none needs a
// replace line, which users of this module would have to repeat.
func TestGoMod(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	reasons, err := os.ReadFile(filepath.Join(root, "docs/decisions/001-dependencies.md"))
	if err != nil {
		t.Fatal(err)
	}
	direct := 0
	stale := string(reasons)
	for line := range strings.Lines(string(data)) {
		if strings.Contains(line, "k8s.io/kubernetes ") || strings.HasPrefix(line, "replace") {
			t.Errorf("go.mod: %s", line)
		}
		words := strings.Fields(line)
		if len(words) != 2 || !strings.HasPrefix(words[1], "v") {
			continue // not "module version", or "// indirect" behind it
		}
		direct++
		if !strings.Contains(string(reasons), "| "+words[0]+" | ") {
			t.Errorf("docs/decisions/001-dependencies.md has no reason for %s", words[0])
		}
		stale = strings.ReplaceAll(stale, "| "+words[0]+" | ", "")
	}
	for line := range strings.Lines(stale) {
		if strings.HasPrefix(line, "| ") && strings.Contains(line, ".") && strings.Contains(line, "/") {
			t.Errorf("docs/decisions/001-dependencies.md has a reason for what is no direct dependency: %s", line)
		}
	}
	if direct < 10 {
		t.Errorf("%d direct dependencies were found", direct)
	}
}
