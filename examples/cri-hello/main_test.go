package main

import (
	"testing"

	"github.com/nodekit-project/nodekit/conformance/crisuite"
)

func TestConformance(t *testing.T) {
	target := crisuite.Build(t, ".")
	target.Image = "any"
	target.Sleep = []string{"sleep", "1000"}
	target.Fail = []string{"sh", "-c", "exit 7"}
	crisuite.Test(t, target)
}
