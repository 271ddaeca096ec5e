package main

import (
	"regexp"
	"testing"

	"github.com/nodekit-project/nodekit/internal/testenv"
)

// The benchmark of the CRI runtime runs in namespaces of its own and leaves nothing.
func TestBenchCRI(t *testing.T) {
	testenv.Require(t, testenv.Root, testenv.Runc)
	c := newCLI(t)
	out, code := c.run("bench", "cri", "--rounds", "1", "--pods", "12", "--sides", "nodekit, runc", "--image", "nodekit.dev/podtool:v1")
	want := regexp.MustCompile(`(?s)nodekit, runc +1 .*RunPodSandbox +1 .*down +1 .*12 Pods from .*nodekit, runc +1 .*from SIGKILL.*nodekit, runc +1 .*memory.*nodekit, runc +\d+\.\d +\d+\.\d`)
	if code != 0 || !want.MatchString(out) {
		t.Errorf("exit code %d:\n%s", code, out)
	}
	c.clean(out)
}

func TestBenchCRIRefuses(t *testing.T) {
	testenv.Require(t, testenv.Root)
	c := newCLI(t)
	out, code := c.run("bench", "cri", "--only", "pods")
	if code != 1 || !regexp.MustCompile(`no table "pods": there are floor, pod, crowd`).MatchString(out) {
		t.Errorf("exit code %d:\n%s", code, out)
	}
}
