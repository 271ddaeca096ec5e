package main

import (
	"os"
	"strings"
	"testing"

	"github.com/nodekit-project/nodekit/internal/testenv"
)

func TestConformCRI(t *testing.T) {
	testenv.Require(t, testenv.Root, testenv.OCIRuntime)
	c := newCLI(t)
	serve := c.bin + "/nodekit serve runtime --endpoint $(CONTAINER_RUNTIME_ENDPOINT) --root $(STATE_DIRECTORY) --run $(STATE_DIRECTORY)/run --ephemeral"
	profile := c.write("profile.yaml", "suite: cri\nfacts:\n  lacks: imageVolumes, cdi\n")
	// CRI-NS-011 applies where who is nobody on the host can pass through all directories.
	c.must(os.Chmod(c.tmp, 0o711))
	out, code := c.run("conform", "cri", "--exec", serve, "--profile", profile, "--rule", "CRI-CTR-002", "--rule", "CRI-NS-011", "--rule", "CRI-DEV-003", "--rule", "CRI-CRASH-010")
	if code != 0 || strings.Count(out, "pass    CRI-") != 3 || !strings.Contains(out, "na      CRI-DEV-003") || !strings.Contains(out, `lacks "cdi"`) {
		t.Errorf("exit code %d:\n%s", code, out)
	}
	out, code = c.run("conform", "rules", "cri")
	if code != 0 || !strings.Contains(out, "CRI-CTR-001") || !strings.Contains(out, "lacks ") {
		t.Errorf("exit code %d:\n%s", code, out)
	}
	out, code = c.run("conform", "cri", "--exec", serve, "--profile", c.write("bad.yaml", "suite: cri\nfacts:\n  lacks: wings\n"))
	if code != 1 || !strings.Contains(out, `"wings" is none of containers, pull`) {
		t.Errorf("exit code %d:\n%s", code, out)
	}
}
