package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nodekit-project/nodekit/internal/mount"
)

// TestConformAfterAKill: what a killed run has left is gone after the next one.
func TestConformAfterAKill(t *testing.T) {
	c := newCLI(t)
	plugin := filepath.Join(t.TempDir(), "loopback")
	c.must(os.Symlink(filepath.Join(c.bin, "cni"), plugin))
	p := c.start("conform", "cni", plugin, "--tier", "quick")
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		if points, err := mount.Below(c.tmp); err != nil || len(points) > 0 {
			c.must(err)
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("no network namespace is pinned:\n%s", p.out)
		}
	}
	p.kill()
	out, code := c.run("conform", "cni", plugin, "--rule", "CNI-VERSION-001")
	if code != 0 || !strings.Contains(out, "taking down what a killed run left in "+c.tmp+"/nk") {
		t.Errorf("exit code %d:\n%s", code, out)
	}
	c.clean(out)
}
