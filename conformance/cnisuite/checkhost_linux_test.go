package cnisuite_test

import (
	"context"
	"os/exec"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/cni/portmap"
	"github.com/nodekit-project/nodekit/conformance"
	"github.com/nodekit-project/nodekit/conformance/cnisuite"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// checkMoreMutants have a CHECK that sees some of what ADD made.
func checkMoreMutants() []attachment {
	return []attachment{
		{"map-counts", "CNI-CHECK-020", declarePortmap},
		{"blind-to-the-host-end", "CNI-CHECK-021", nil},
	}
}

// mapsCounted looks in CHECK for what is the container's in the table, and not for
// what leads there: it misses the whole table, and passes CNI-CHECK-010.
func mapsCounted(x *exchange) (string, int) {
	if x.command() == "CHECK" {
		table, _ := exec.Command("nft", "list", "table", "inet", "cni-portmap").Output()
		if !strings.Contains(string(table), x.env["CNI_CONTAINERID"]) {
			return refuse(103, "no port is mapped")
		}
		return "", 0
	}
	out, err := cni.Invoke(context.Background(), portmap.Plugin(), x.env, x.stdin)
	if err != nil {
		return string(out), 1
	}
	return string(out), 0
}

// hostEndUp does what the good plugin's CHECK knows nothing of.
func hostEndUp(r *cni.Request, _ *cni.Result) error {
	l, err := netlink.LinkByName(hostEnd(r))
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(l)
}

// TestCheckFaultsDiffer holds that the mutant of the finer rule passes the coarser.
func TestCheckFaultsDiffer(t *testing.T) {
	testenv.Require(t, testenv.Root, testenv.NFT)
	tgt := target(t, "map-counts")
	declarePortmap(&tgt)
	if got := only(t, cnisuite.Suite(), "CNI-CHECK-010", tgt); got.Status != conformance.Pass {
		t.Errorf("%s: %s", got.Status, got.Message)
	}
}
