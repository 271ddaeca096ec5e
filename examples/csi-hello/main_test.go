package main

import (
	"testing"

	"github.com/nodekit-project/nodekit/conformance/csisuite"
)

func TestConformance(t *testing.T) {
	csisuite.Test(t, csisuite.Build(t, "."))
}
