package main

import (
	"testing"

	"github.com/nodekit-project/nodekit/conformance/devicesuite"
)

func TestConformance(t *testing.T) {
	devicesuite.Test(t, devicesuite.Build(t, "."))
}
