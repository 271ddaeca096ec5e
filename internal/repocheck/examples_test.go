package repocheck_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nodekit-project/nodekit/internal/repocheck"
)

// examples returns the example folders, one plugin each.
func examples(t *testing.T) []string {
	t.Helper()
	mains, err := filepath.Glob(filepath.Join(root, "examples", "*", "main.go"))
	if err != nil {
		t.Fatal(err)
	}
	if len(mains) < 4 {
		t.Fatalf("%d example folders: %v", len(mains), mains)
	}
	var dirs []string
	for _, main := range mains {
		dirs = append(dirs, filepath.Dir(main))
	}
	return dirs
}

// TestExamplesAreSmall: an example is read in one go and copied whole.
func TestExamplesAreSmall(t *testing.T) {
	may := []string{"main.go", "main_test.go", "README.md", "deploy.yaml", "pod.yaml"}
	for _, dir := range examples(t) {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
			if !slices.Contains(may, e.Name()) {
				t.Errorf("%s has %s: an example is %v", dir, e.Name(), may)
			}
		}
		for _, must := range may[:3] {
			if !slices.Contains(names, must) {
				t.Errorf("%s has no %s", dir, must)
			}
		}
		if n := lines(t, filepath.Join(dir, "main.go")); n >= 50 {
			t.Errorf("%s/main.go has %d lines; an example has less than 50", dir, n)
		}
		if n := lines(t, filepath.Join(dir, "main_test.go")); n > 25 {
			t.Errorf("%s/main_test.go has %d lines; it shall call the suite and no more", dir, n)
		}
	}
}

func lines(t *testing.T, file string) int {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(data), "\n")
}

// TestExamplesCopyOut does what an author does first: it copies a folder into
// a new module and builds it there, against the public API alone.
func TestExamplesCopyOut(t *testing.T) {
	for _, dir := range examples(t) {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			copied := copyOut(t, dir)
			for _, args := range [][]string{{"vet", "./..."}, {"build", "-o", os.DevNull, "."}} {
				if out, err := goTool(copied, args...); err != nil {
					t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
				}
			}
		})
	}
}

// TestCopyOutCatchesInternal: the check must fail for a folder that builds
// only inside this repository.
func TestCopyOutCatchesInternal(t *testing.T) {
	dir := t.TempDir()
	source := "package main\n\nimport _ \"" + repocheck.Module + "/internal/fault\"\n\nfunc main() {}\n"
	if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := goTool(copyOut(t, dir), "build", "-o", os.DevNull, "."); err == nil || !strings.Contains(out, "internal") {
		t.Errorf("an example that imports an internal package was built: %v\n%s", err, out)
	}
}

// copyOut copies a folder into a new module that uses this one. Versions and
// sums of third parties are this module's, so that nothing newer is looked for.
func copyOut(t *testing.T, dir string) string {
	t.Helper()
	copied := t.TempDir()
	if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	sums, err := os.ReadFile(filepath.Join(root, "go.sum"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(copied, "go.sum"), sums, 0o600); err != nil {
		t.Fatal(err)
	}
	repo, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"mod", "init", "example.com/hello"},
		{"mod", "edit", "-require=" + repocheck.Module + "@v0.0.0", "-replace=" + repocheck.Module + "=" + repo},
	} {
		if out, err := goTool(copied, args...); err != nil {
			t.Fatalf("go %v: %v\n%s", args, err, out)
		}
	}
	return copied
}

func goTool(dir string, args ...string) (output string, err error) {
	cmd := exec.Command("go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod -buildvcs=false", "GOWORK=off", "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	return string(out), err
}
