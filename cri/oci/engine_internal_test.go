package oci

import (
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nodekit-project/nodekit/internal/cgroup"
	"github.com/nodekit-project/nodekit/internal/mount"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// TestDropState: what a killed runc left does not prevent the removal of a container, and
// its program is not deleted.
func TestDropState(t *testing.T) {
	testenv.Require(t, testenv.Root)
	dir := t.TempDir()
	e := engine{path: filepath.Join(dir, "runc"), root: filepath.Join(dir, "runtime")}
	itself := filepath.Join(e.stateDir("c"), "runc.x")
	if err := errors.Join(os.MkdirAll(e.stateDir("c"), 0o700), os.WriteFile(e.path, []byte("program"), 0o700), os.WriteFile(itself, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := mount.Bind(e.path, itself, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = mount.Detach(itself) })
	for range 2 {
		if err := e.dropState("c"); err != nil {
			t.Fatal(err)
		}
	}
	program, err := os.ReadFile(e.path)
	if left, _ := os.ReadDir(e.root); err != nil || string(program) != "program" || len(left) > 0 {
		t.Errorf("the program is %q (%v), and there are %v", program, err, left)
	}
}

// TestProbe: every installed OCI runtime runs the bare container, which is also the first
// process of shared PID namespaces; crun does not on a hybrid host, and with the systemd
// driver only if a D-Bus broker runs.
func TestProbe(t *testing.T) {
	testenv.Require(t, testenv.Root, testenv.OCIRuntime)
	dir := t.TempDir()
	c := &Config{
		Systemd: os.Getenv("NODEKIT_TEST_SYSTEMD") != "",
		RunDir:  dir, CgroupParent: "/nodekit-oci-" + randomID(), Logger: slog.New(slog.DiscardHandler),
		Keeper: filepath.Join(os.Getenv("NODEKIT_TEST_TOOLS"), "keeper"),
	}
	t.Cleanup(func() {
		if err := c.pruneCgroups(); err != nil {
			t.Error(err)
		}
	})
	for _, name := range []string{"crun", "runc"} {
		path, err := exec.LookPath(name)
		if err != nil {
			continue
		}
		err = engine{path: path, root: dir + "/runtime"}.probe(t.Context(), c, nil)
		if err != nil && (cgroup.Version() == 2 || !strings.Contains(err.Error(), "hybrid mode")) && !strings.Contains(err.Error(), "sd-bus") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
