package main

import (
	"testing"

	"github.com/nodekit-project/nodekit/conformance/crisuite"
)

func TestConformance(t *testing.T) {
	target := crisuite.Build(t, ".")
	target.Image, target.Tool = "host", crisuite.Tool(t)
	target.Lacks = []crisuite.Feature{
		crisuite.Pull, crisuite.Isolation, crisuite.Exec, crisuite.Streaming, crisuite.PortForward, crisuite.Stats, crisuite.Resources,
		crisuite.LogRotation, crisuite.Survival, // a container ends with the runtime
	}
	crisuite.Test(t, target)
}
