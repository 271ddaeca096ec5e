package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nodekit-project/nodekit/internal/cgroup"
)

// unitDir is a directory for units that no systemd reads.
func (c *cli) unitDir() (dir, file string) {
	dir = c.t.TempDir()
	return dir, filepath.Join(dir, "nodekit.service")
}

func TestInstallForAnotherMachine(t *testing.T) {
	c := newCLI(t)
	dir, file := c.unitDir()
	install := func(args ...string) (out, unit string) {
		t.Helper()
		out, code := c.run(append([]string{"install", "--unit-dir", dir}, args...)...)
		if code != 0 {
			t.Fatalf("exit code %d:\n%s", code, out)
		}
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return out, string(raw)
	}
	out, unit := install()
	if !strings.Contains(out, file+" is written") {
		t.Errorf("it says:\n%s", out)
	}
	if want := "ExecStart=:" + filepath.Join(c.bin, "nodekit") + " node --manifests=" + defaultManifests; !strings.Contains(unit, want) {
		t.Errorf("no %q in:\n%s", want, unit)
	}
	printed, code := c.run("install", "--print")
	if code != 0 || printed != unit {
		t.Errorf("exit code %d, printed:\n%s\nwritten:\n%s", code, printed, unit)
	}
	if out, again := install(); again != unit || !strings.Contains(out, "is up to date") {
		t.Errorf("the second time:\n%s%s", out, again)
	}
	if out, other := install("--gpus", "4"); !strings.Contains(other, "--gpus=4") || !strings.Contains(out, "is written") {
		t.Errorf("with another flag:\n%s%s", out, other)
	}
	if out, code := c.run("uninstall", "--unit-dir", dir); code != 0 {
		t.Errorf("exit code %d:\n%s", code, out)
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if out, code := c.run("uninstall", "--unit-dir", dir); code != 1 || !strings.Contains(out, "there is no "+file) {
		t.Errorf("exit code %d:\n%s", code, out)
	}
}

func TestInstallIsRefused(t *testing.T) {
	c := newCLI(t)
	dir, file := c.unitDir()
	const foreign = "[Service]\nExecStart=/bin/true\n"
	if err := os.WriteFile(file, []byte(foreign), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		args []string
		want string
	}{
		{"a unit of somebody else's", []string{"install", "--unit-dir", dir}, "was not written by nodekit install"},
		{"its removal", []string{"uninstall", "--unit-dir", dir}, "was not written by nodekit install"},
		{"a name that is none", []string{"install", "--unit-dir", dir, "--name", "../x"}, "--name"},
		{"a path for no unit", []string{"install", "--unit-dir", dir, "--root", "/a\nb"}, "control character"},
		{"a flag that the node refuses", []string{"install", "--unit-dir", dir, "--without", "nothing"}, "--without"},
		{"a directory that is not there", []string{"install", "--unit-dir", filepath.Join(dir, "absent")}, "absent for the unit: make it first"},
	}
	if !cgroup.Systemd() {
		tests = append(tests, []struct {
			name string
			args []string
			want string
		}{
			{"a machine without systemd", []string{"install"}, "this machine does not run systemd"},
			{"starting it there", []string{"install", "--now", "--unit-dir", c.t.TempDir()}, "this machine does not run systemd"},
		}...)
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			out, code := c.run(tt.args...)
			if code != 1 || !strings.Contains(out, tt.want) || strings.Count(strings.TrimSpace(out), "\n") > 0 {
				t.Errorf("exit code %d, want 1 and one line with %q:\n%s", code, tt.want, out)
			}
		})
	}
	if raw, err := os.ReadFile(file); err != nil || string(raw) != foreign {
		t.Errorf("the foreign unit was touched: %q, %v", raw, err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("left: %v", left)
	}
}

// The unit names the program as it was called, so that a link to another
// version is an upgrade.
func TestInstallKeepsTheLinkByWhichItWasCalled(t *testing.T) {
	c := newCLI(t)
	link := filepath.Join(t.TempDir(), "nodekit")
	if err := os.Symlink(filepath.Join(c.bin, "nodekit"), link); err != nil {
		t.Fatal(err)
	}
	c.bin = filepath.Dir(link)
	if out, _ := c.run("install", "--print"); !strings.Contains(out, "ExecStart=:"+link+" ") {
		t.Errorf("called by a link:\n%s", out)
	}
}
