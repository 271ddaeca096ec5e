package main

import (
	"strings"
	"testing"

	"github.com/nodekit-project/nodekit/internal/testenv"
)

// The suite for CRI clients, against our own node and against nobody's.

func TestConformCRIClient(t *testing.T) {
	testenv.Require(t, testenv.Root)
	c := newCLI(t)
	where := " --runtime-endpoint $(CONTAINER_RUNTIME_ENDPOINT) --root $(STATE_DIRECTORY)/root --run $(STATE_DIRECTORY)/run"
	node := c.bin + "/nodekit node --manifests $(MANIFEST_DIRECTORY) --without gpu,csi-hostpath" + where
	profile := c.write("profile.yaml", "suite: cri-client\nfacts:\n  exec: "+node+"\n  cleanup: "+c.bin+"/nodekit reset"+where+"\n  lacks: userNamespaces\n")
	// One that shares a kubelet, one that kills it, and what the profile says.
	out, code := c.run("conform", "cri-client", "--profile", profile,
		"--rule", "CRIC-SBX-001", "--rule", "CRIC-SBX-017", "--rule", "CRIC-CFG-006", "--rule", "CRIC-CRASH-004")
	if code != 0 || !strings.Contains(out, "2 passed, 0 failed, 2 not applicable") {
		t.Errorf("exit code %d:\n%s", code, out)
	}
	c.clean(out)
	out, code = c.run("conform", "cri-client", "--exec", "sh -c 'echo it is broken; exit 3'", "--rule", "CRIC-SBX-001",
		"--profile", c.write("impatient.yaml", "facts:\n  patience: 4s\n"))
	if code != 1 || !strings.Contains(out, "it is broken") {
		t.Errorf("exit code %d:\n%s", code, out)
	}
	for _, wrong := range []struct{ exec, profile, want string }{
		{"true", "facts:\n  lacks: wings\n", `"wings" is none of`}, {"true", "facts:\n  patience: soon\n", "fact patience"}, {"", "facts: {}\n", "no command"},
	} {
		out, code = c.run("conform", "cri-client", "--exec", wrong.exec, "--profile", c.write("bad.yaml", "suite: cri-client\n"+wrong.profile))
		if code != 1 || !strings.Contains(out, wrong.want) {
			t.Errorf("%q: exit code %d:\n%s", wrong.profile, code, out)
		}
	}
}
