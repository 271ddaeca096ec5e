package main

import (
	"os/exec"
	"testing"

	"github.com/nodekit-project/nodekit/conformance/csisuite"
)

func TestConformance(t *testing.T) {
	driver := t.TempDir() + "/csi-hello"
	if out, err := exec.Command("go", "build", "-o", driver, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	csisuite.Test(t, csisuite.Target{Exec: []string{driver}})
}
