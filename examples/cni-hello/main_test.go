package main

import (
	"testing"

	"github.com/nodekit-project/nodekit/conformance/cnisuite"
)

func TestConformance(t *testing.T) {
	target := cnisuite.Build(t, ".")
	target.Config = `{"root": "${DIR}", "ipam": {"type": "suite-ipam"}}` // the suite's own
	cnisuite.Test(t, target)
}
