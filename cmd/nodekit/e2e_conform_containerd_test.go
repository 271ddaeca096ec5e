package main

import (
	"flag"
	"testing"
	"time"

	"github.com/nodekit-project/nodekit/internal/testenv"
)

var containerdRules = flag.String("containerd-rules", "CRI-STATUS-*,CRI-SBX-*,CRI-CTR-*,CRI-STOP-*,CRI-LIST-*,CRI-EXEC-*,CRI-IMG-*",
	"to which rules TestConformContainerd holds containerd; make soak takes all, for two minutes")

// Debian's containerd keeps to the suite but for what its profile declares away by
// name, as docs/conformance-cri.md tells it.
func TestConformContainerd(t *testing.T) {
	testenv.Require(t, testenv.Root, testenv.Containerd, testenv.CNIPlugins)
	ownNetwork(t)
	c := newCLI(t)
	d := c.startContainerd(upstreamPlugins)
	p := c.start("conform", "cri", "--endpoint", d.endpoint(), "--profile", "testdata/containerd-1.6.yaml", "--tier", "quick", "--strict", "--rule", *containerdRules)
	if code := p.exitWithin(5 * time.Minute); code != 0 {
		t.Errorf("exit code %d:\n%s", code, p.out)
	}
	c.clean("")
	c.networkClean()
}
