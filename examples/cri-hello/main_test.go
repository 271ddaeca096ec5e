package main

import (
	"testing"

	"github.com/nodekit-project/nodekit/conformance/crisuite"
)

func TestConformance(t *testing.T) {
	target := crisuite.Build(t, ".")
	target.Image = "host"
	target.Sleep = []string{"sleep", "1000"}
	target.Fail = []string{"sh", "-c", "exit 7"}
	target.Print = []string{"echo", "hello"}
	crisuite.Test(t, target)
}
