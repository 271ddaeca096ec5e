//go:build linux

package leak_test

import (
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/nodekit-project/nodekit/internal/leak"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

func TestRoutesRulesAndSysctls(t *testing.T) {
	testenv.Require(t, testenv.Root)
	inNetNS(t, func() {
		lo, err := netlink.LinkByName("lo")
		must(t, err)
		must(t, netlink.LinkSetUp(lo))
		scope := leak.Scope{Kinds: []leak.Kind{leak.Route, leak.Rule}}
		audit(t, scope, func() func() {
			route := &netlink.Route{LinkIndex: lo.Attrs().Index, Dst: &net.IPNet{IP: net.IPv4(10, 1, 0, 0), Mask: net.CIDRMask(16, 32)}, Table: 77, MTU: 1400}
			must(t, netlink.RouteAdd(route))
			rule := netlink.NewRule()
			rule.Priority, rule.Table, rule.Family = 500, 77, netlink.FAMILY_V4
			must(t, netlink.RuleAdd(rule))
			return func() {
				must(t, netlink.RouteDel(route))
				must(t, netlink.RuleDel(rule))
			}
		}, "route lo 10.1.0.0/16 table 77 mtu 1400",
			"rule 500: from all to all table 77 (family 2)")
	})
}

func TestSysctls(t *testing.T) {
	testenv.Require(t, testenv.Root)
	inNetNS(t, func() {
		scope := only(leak.Sysctl, "net/ipv4/conf/lo/")
		before := take(t, scope)
		must(t, os.WriteFile("/proc/sys/net/ipv4/conf/lo/arp_notify", []byte("1"), 0o644))
		if got := before.Diff(take(t, scope)); len(got) != 1 || got[0].String() != "sysctl net/ipv4/conf/lo/arp_notify = 1" {
			t.Errorf("found %v", got)
		}
	})
}

func TestContents(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	must(t, os.WriteFile(file, []byte("one"), 0o600))
	scope := leak.Scope{Kinds: []leak.Kind{leak.Content}, Dirs: []string{dir}}
	before := take(t, scope)
	must(t, os.WriteFile(file, []byte("other"), 0o600))
	after := take(t, scope)
	if got := before.Diff(after); len(got) != 1 || got[0].Name != file+" (5 bytes)" {
		t.Errorf("found %v", got)
	}
	if got := after.Diff(before); len(got) != 1 || got[0].Name != file+" (3 bytes)" {
		t.Errorf("gone: %v", got)
	}
}
