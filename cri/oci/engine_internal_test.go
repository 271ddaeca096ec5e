package oci

import (
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nodekit-project/nodekit/internal/cgroup"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// TestProbe: every OCI runtime there is runs the bare container, which is also
// the first process of shared PID namespaces; crun does not on a hybrid host, and
// with the systemd driver only where a D-Bus broker runs.
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
