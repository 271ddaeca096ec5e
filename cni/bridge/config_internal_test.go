package bridge

import (
	"bytes"
	"log/slog"
	"net"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/nodekit-project/nodekit/cni"
)

// TestIPTablesIsTaken: a configuration for upstream's plugin works, and its user
// learns where the rules are.
func TestIPTablesIsTaken(t *testing.T) {
	for backend, line := range map[string]string{"": "", "nftables": "", "iptables": "cni-cni0"} {
		c := &Config{IPMasq: true, IPMasqBackend: backend}
		if err := c.complete(); err != nil {
			t.Errorf("%q: %v", backend, err)
		}
		var log bytes.Buffer
		c.tell(slog.New(slog.NewTextHandler(&log, nil)))
		if got := log.String(); (got == "") != (line == "") || !strings.Contains(got, line) {
			t.Errorf("%q: the log says %q", backend, got)
		}
	}
}

// TestDefaultGateway: a default route of IPAM's takes the place of the gateway's, but for
// one in a table that only some packets are looked up in.
func TestDefaultGateway(t *testing.T) {
	_, address, err := net.ParseCIDR("10.1.0.0/24")
	if err != nil {
		t.Fatal(err)
	}
	address.IP = net.IP{10, 1, 0, 2}
	table := func(n int) *int { return &n }
	for name, c := range map[string]struct {
		given []*types.Route
		want  int // routes of the plan
	}{
		"none":          {nil, 1},
		"one":           {[]*types.Route{{Dst: defaultRoute(address.IP)}}, 1},
		"by its number": {[]*types.Route{{Dst: defaultRoute(address.IP), Table: table(254)}}, 1},
		"unspecified":   {[]*types.Route{{Dst: defaultRoute(address.IP), Table: table(0)}}, 1},
		"elsewhere":     {[]*types.Route{{Dst: defaultRoute(address.IP), Table: table(77)}}, 2},
	} {
		config := &Config{IsDefaultGateway: true}
		if err := config.complete(); err != nil {
			t.Fatal(err)
		}
		p, err := makePlan(config, &cni.Result{IPs: []*types100.IPConfig{{Address: *address}}, Routes: c.given})
		if err != nil || len(p.result.Routes) != c.want || !inMainTable(p.result.Routes[c.want-1]) {
			t.Errorf("%s: %v, %v", name, p, err)
		}
	}
}
