package hostlocal_test

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// TestStatusOfAReadOnlyDirectory: no ADD could make the network's directory.
func TestStatusOfAReadOnlyDirectory(t *testing.T) {
	testenv.Require(t, testenv.Root)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	p := newPoolIn(t, dir, `[[{"subnet":"10.0.0.0/24"}]]`)
	if _, err := p.call("STATUS", ""); cni.CodeOf(err) != cni.CodeUnavailable || !strings.Contains(err.Error(), "read-only") {
		t.Errorf("STATUS: %v", err)
	}
	if _, err := p.call("DEL", "a"); err != nil { // nothing was given
		t.Errorf("DEL: %v", err)
	}
}
