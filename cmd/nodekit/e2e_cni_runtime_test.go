package main

import (
	"path/filepath"
	"strings"
	"testing"
)

// The suite for CNI runtimes, against our own runtime and against nobody's.

func TestConformCNIRuntime(t *testing.T) {
	c := newCLI(t)
	serve := filepath.Join(c.bin, "nodekit") + " serve runtime --ephemeral --endpoint $(CONTAINER_RUNTIME_ENDPOINT) --root $(STATE_DIRECTORY)/root" +
		" --run $(STATE_DIRECTORY)/run --cni-conf-dir $(CNI_CONF_DIR) --cni-bin-dir $(CNI_BIN_DIR)"
	// One with the life of a sandbox, and one that kills the runtime in the middle.
	out, code := c.run("conform", "cni-runtime", "--exec", serve, "--rule", "CNIRT-002", "--rule", "CNIRT-005", "--rule", "CNIRT-012")
	if code != 0 || !strings.Contains(out, "2 passed, 0 failed, 1 not applicable") {
		t.Errorf("exit code %d:\n%s", code, out)
	}
	c.clean(out)
}

func TestConformCNIRuntimeByCommands(t *testing.T) {
	c := newCLI(t)
	add := `grep -q suite-net "$CONF_DIR"/*.conflist && test -x "$BIN_DIR/suite-a" && echo it cannot $CNI_ARGS; exit 4`
	out, code := c.run("conform", "cni-runtime", "--add", add, "--del", "true", "--rule", "CNIRT-010")
	if code != 1 || !strings.Contains(out, "it cannot IgnoreUnknown=1;K8S_POD_NAMESPACE=suite;K8S_POD_NAME=suite-1") {
		t.Errorf("exit code %d:\n%s", code, out)
	}
	out, code = c.run("conform", "cni-runtime", "--add", "true")
	if code != 1 || !strings.Contains(out, "del") {
		t.Errorf("exit code %d:\n%s", code, out)
	}
	c.clean(out)
}
