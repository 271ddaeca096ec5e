package crisuite

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// module is the package that podtool is built from.
const module = "github.com/nodekit-project/nodekit/cmd/podtool"

// Tool returns the path of podtool, which it builds if it finds none, for a target whose
// containers are processes of the host.
func Tool(t testing.TB) string {
	t.Helper()
	path, err := findProgram("", t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// findProgram returns the path of podtool: as declared, next to this program, in PATH, or
// built into dir.
func findProgram(declared, dir string) (string, error) {
	if declared != "" {
		return declared, nil
	}
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), "podtool")
		if info, err := os.Stat(beside); err == nil && info.Mode().IsRegular() {
			return beside, nil
		}
	}
	if path, err := exec.LookPath("podtool"); err == nil {
		return path, nil
	}
	path := filepath.Join(dir, "podtool")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", path, module)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("podtool, which runs in the suite's containers, is neither beside this program nor in PATH, and cannot be built: %w\n%s", err, out)
	}
	return path, nil
}
