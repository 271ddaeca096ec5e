package main

import (
	"testing"

	"github.com/nodekit-project/nodekit/conformance/cnisuite"
)

func TestConformance(t *testing.T) {
	cnisuite.Test(t, cnisuite.Build(t, "."))
}
