package bridge_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/internal/netnstest"
)

// TestOptionsReachTheKernel looks with ip(8) at what each key came to.
func TestOptionsReachTheKernel(t *testing.T) {
	const host, guest, br = "ip -d link show dev $HOST", "ip -d link show dev eth0", "ip -d link show dev $BRIDGE"
	six := map[string]any{"type": "test-ipam", "six": true}
	cases := []struct {
		name    string
		config  map[string]any
		inside  bool // where the command runs
		command string
		shows   string
	}{
		{"mtu of the host's end", map[string]any{"mtu": 1400}, false, host, "mtu 1400"},
		{"mtu in the container", map[string]any{"mtu": 1400}, true, guest, "mtu 1400"},
		{"mtu of the bridge", map[string]any{"mtu": 1400}, false, br, "mtu 1400"},
		{"hairpin mode", map[string]any{"hairpinMode": true}, false, host, "hairpin on"},
		{"no hairpin mode", nil, false, host, "hairpin off"},
		{"port isolation", map[string]any{"portIsolation": true}, false, host, "isolated on"},
		{"no port isolation", nil, false, host, "isolated off"},
		{"promiscuous", map[string]any{"promiscMode": true}, false, br, "PROMISC"},
		{"alias", nil, false, host, "alias nodekit:$NETWORK/opt/eth0"},
		{"no address", map[string]any{"ipam": map[string]any{}}, true, "ip -br link show dev eth0", "UP"},
		{"left down", map[string]any{"ipam": map[string]any{}, "disableContainerInterface": true}, true, "ip -br link show dev eth0", "DOWN"},
		{"MAC of runtimeConfig", map[string]any{
			"runtimeConfig": map[string]any{"mac": "02:11:22:33:44:55"},
			"args":          map[string]any{"cni": map[string]any{"mac": "02:00:00:00:00:01"}},
		}, true, guest, "02:11:22:33:44:55"},
		{"MAC of args", map[string]any{"args": map[string]any{"cni": map[string]any{"mac": "02:00:00:00:00:02"}}}, true, guest, "02:00:00:00:00:02"},
		{"no advertisements to the host", nil, false, "cat /proc/sys/net/ipv6/conf/$HOST/accept_ra /proc/sys/net/ipv6/conf/$BRIDGE/accept_ra | tr '\\n' ' '", "0 0"},
		{"ARP announcements", nil, true, "cat /proc/sys/net/ipv4/conf/eth0/arp_notify", "1"},
		{"IPv6 addresses stay", map[string]any{"ipam": six}, true, "cat /proc/sys/net/ipv6/conf/eth0/keep_addr_on_down", "1"},
		{"no duplicate detection on the host", nil, false, "cat /proc/sys/net/ipv6/conf/$BRIDGE/accept_dad; ip -6 addr show dev $BRIDGE tentative | grep -c inet6 || true", "0\n0"},
		{"duplicate detection on the host", map[string]any{"enabledad": true}, false, "cat /proc/sys/net/ipv6/conf/$BRIDGE/accept_dad", "1"},
		{"no duplicate detection", map[string]any{"ipam": six}, true, "cat /proc/sys/net/ipv6/conf/eth0/accept_dad", "0"},
		{"IPv6 forwarding", map[string]any{"ipam": six}, false, "cat /proc/sys/net/ipv6/conf/all/forwarding", "1"},
		{"gateway", nil, false, "ip -br addr show dev $BRIDGE", "10.77.$OCTET.1/24"},
		{"no gateway", map[string]any{"isDefaultGateway": false}, false, "ip -br -4 addr show dev $BRIDGE; echo none", "none"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			n := newNetwork(t, c.config)
			ns := netnstest.New(t)
			raw, result := n.add("opt", ns)
			replace := strings.NewReplacer("$HOST", result.Interfaces[1].Name, "$BRIDGE", n.config["bridge"].(string),
				"$NETWORK", n.config["name"].(string), "$OCTET", fmt.Sprint(n.octet()))
			where := ""
			if c.inside {
				where = ns
			}
			if out := netnstest.Run(t, where, "sh", "-c", replace.Replace(c.command)); !strings.Contains(out, replace.Replace(c.shows)) {
				t.Errorf("%s shows %s", c.command, out)
			}
			if _, err := n.call("CHECK", "opt", ns, map[string]any{"prevResult": raw}); err != nil {
				t.Errorf("CHECK: %v", err)
			}
			n.compareResult(ns, result)
			n.del("opt", ns)
			if rest := n.rest(); rest != "0 ports, 0 elements, 0 addresses" {
				t.Error(rest)
			}
		})
	}
}

// compareResult compares the result's interfaces with the kernel's.
func (n *network) compareResult(ns string, result *cni.Result) {
	n.t.Helper()
	for _, nic := range result.Interfaces {
		where := ""
		if nic.Sandbox != "" {
			where = ns
		}
		var have []struct {
			Address string `json:"address"`
			MTU     int    `json:"mtu"`
		}
		if err := json.Unmarshal([]byte(netnstest.Run(n.t, where, "ip", "-j", "link", "show", "dev", nic.Name)), &have); err != nil {
			n.t.Fatal(err)
		}
		if have[0].Address != nic.Mac || have[0].MTU != nic.Mtu {
			n.t.Errorf("the result says %+v, the kernel %+v", nic, have)
		}
	}
}

func TestMACOfEnvironment(t *testing.T) {
	n := newNetwork(t, nil)
	ns := netnstest.New(t)
	stdin, err := json.Marshal(n.config)
	if err != nil {
		t.Fatal(err)
	}
	_, err = n.plugins.Invoke(t.Context(), "bridge", map[string]string{
		"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "env", "CNI_IFNAME": "eth0", "CNI_NETNS": ns,
		"CNI_ARGS": "IgnoreUnknown=1;MAC=02:00:00:00:00:09",
	}, stdin)
	if err != nil {
		t.Fatal(err)
	}
	defer n.del("env", ns)
	if out := netnstest.Run(t, ns, "ip", "link", "show", "dev", "eth0"); !strings.Contains(out, "02:00:00:00:00:09") {
		t.Error(out)
	}
}

func TestRouteAttributes(t *testing.T) {
	n := newNetwork(t, nil)
	table, link := 77, 253
	n.config["ipam"].(map[string]any)["routes"] = []map[string]any{
		{"dst": "198.51.100.0/24", "mtu": 1300, "advmss": 1200, "priority": 42},
		{"dst": "203.0.113.0/24", "table": table},
		{"dst": "192.0.2.0/24", "gw": fmt.Sprintf("10.77.%d.9", n.octet())},
		{"dst": "192.0.2.99/32", "gw": nil, "scope": link},
	}
	n.config["isDefaultGateway"], n.config["isGateway"] = false, false
	ns := netnstest.New(t)
	raw, _ := n.add("routes", ns)
	defer n.del("routes", ns)
	all := netnstest.Run(t, ns, "ip", "route", "show", "table", "all")
	for _, want := range []string{
		fmt.Sprintf("198.51.100.0/24 via 10.77.%d.1 dev eth0", n.octet()), "metric 42", "mtu 1300", "advmss 1200",
		"203.0.113.0/24 via", "table 77", fmt.Sprintf("192.0.2.0/24 via 10.77.%d.9", n.octet()), "192.0.2.99",
	} {
		if !strings.Contains(all, want) {
			t.Errorf("%q is not in %s", want, all)
		}
	}
	if _, err := n.call("CHECK", "routes", ns, map[string]any{"prevResult": raw}); err != nil {
		t.Error(err)
	}
	netnstest.Run(t, ns, "ip", "route", "del", "203.0.113.0/24", "table", "77")
	if _, err := n.call("CHECK", "routes", ns, map[string]any{"prevResult": raw}); err == nil || !strings.Contains(err.Error(), "203.0.113.0/24") {
		t.Errorf("CHECK says %v", err)
	}
}

// TestChained: what an earlier plugin made stays in the result.
func TestChained(t *testing.T) {
	n := newNetwork(t, map[string]any{"dns": map[string]any{"nameservers": []string{"192.0.2.53"}}})
	ns := netnstest.New(t)
	earlier := map[string]any{
		"cniVersion": "1.1.0",
		"interfaces": []map[string]any{{"name": "other0", "sandbox": ns, "mac": "02:00:00:00:00:77"}},
		"ips":        []map[string]any{{"address": "198.51.100.7/24", "interface": 0}},
		"routes":     []map[string]any{{"dst": "198.51.100.0/24"}},
	}
	out, err := n.call("ADD", "chain", ns, map[string]any{"prevResult": earlier})
	if err != nil {
		t.Fatal(err)
	}
	result, err := cni.DecodeResult(out, "")
	if err != nil {
		t.Fatal(err)
	}
	if len(result.Interfaces) != 4 || result.Interfaces[0].Name != "other0" || result.Interfaces[3].Name != "eth0" ||
		len(result.IPs) != 2 || *result.IPs[1].Interface != 3 || len(result.Routes) != 2 || result.DNS.Nameservers[0] != "192.0.2.53" {
		t.Errorf("result %s", out)
	}
	n.del("chain", ns)
}

func TestForceAddress(t *testing.T) {
	n := newNetwork(t, nil)
	br := n.config["bridge"].(string)
	netnstest.Run(t, "", "ip", "link", "add", br, "type", "bridge")
	other := fmt.Sprintf("10.77.%d.254/16", n.octet())
	netnstest.Run(t, "", "ip", "addr", "add", other, "dev", br)
	ns := netnstest.New(t)
	if _, err := n.call("ADD", "force", ns, nil); cni.CodeOf(err) != cni.CodeConfig || !strings.Contains(err.Error(), "forceAddress") {
		t.Errorf("without forceAddress: %v", err)
	}
	if rest := n.rest(); rest != "0 ports, 0 elements, 0 addresses" {
		t.Error(rest)
	}
	n.config["forceAddress"] = true
	n.add("force", ns)
	defer n.del("force", ns)
	if out := netnstest.Run(t, "", "ip", "-br", "-4", "addr", "show", "dev", br); strings.Contains(out, other) || !strings.Contains(out, fmt.Sprintf("10.77.%d.1/24", n.octet())) {
		t.Error(out)
	}
}

// TestDriftOfTheBridge: another MTU is mended where no port is in the way.
func TestDriftOfTheBridge(t *testing.T) {
	n := newNetwork(t, nil)
	br := n.config["bridge"].(string)
	netnstest.Run(t, "", "ip", "link", "add", br, "type", "bridge")
	mtu := func() string {
		return strings.Fields(netnstest.Run(t, "", "sh", "-c", "ip -o link show dev "+br+" | sed 's/.* mtu //'"))[0]
	}
	a, b := netnstest.New(t), netnstest.New(t)
	for _, step := range []struct {
		id, ns string
		mtu    int
		fails  bool
		then   string
	}{
		{"a", a, 9000, false, "9000"},
		{"b", b, 1400, false, "1400"},
		{"c", netnstest.New(t), 9000, true, "1400"},
	} {
		n.config["mtu"] = step.mtu
		out, err := n.call("ADD", step.id, step.ns, nil)
		if step.fails != (err != nil) || step.fails && (cni.CodeOf(err) != cni.CodeConfig || !strings.Contains(err.Error(), "mtu 9000")) {
			t.Errorf("ADD with mtu %d: %v, %s", step.mtu, err, out)
		}
		if now := mtu(); now != step.then {
			t.Errorf("after an ADD with mtu %d the bridge has %s", step.mtu, now)
		}
	}
	n.del("a", a)
	n.del("b", b)
}

// TestUnusableAddresses: nothing of an ADD stays when IPAM gave nonsense.
func TestUnusableAddresses(t *testing.T) {
	for name, c := range map[string]struct {
		ips     []map[string]any
		changes map[string]any
		code    uint
	}{
		"no room for a gateway": {[]map[string]any{{"address": "10.9.9.9/32"}}, nil, cni.CodeDelegate},
		"multicast":             {[]map[string]any{{"address": "224.0.0.1/24"}}, nil, cni.CodeDelegate},
		"own gateway":           {[]map[string]any{{"address": "10.9.9.9/24", "gateway": "10.9.9.9"}}, nil, cni.CodeDelegate},
		"IPv6 with a small MTU": {[]map[string]any{{"address": "fd00::9/64"}}, map[string]any{"mtu": 1000}, cni.CodeConfig},
		"gateway elsewhere":     {[]map[string]any{{"address": "10.9.9.9/24", "gateway": "10.1.1.1"}}, map[string]any{"isDefaultGateway": false, "isGateway": false, "ipMasq": true, "route": true}, 0},
		"twice the same":        {[]map[string]any{{"address": "10.9.9.9/24"}, {"address": "10.9.9.9/24"}}, nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNetwork(t, nil)
			ipam := n.config["ipam"].(map[string]any)
			ipam["ips"] = c.ips
			changes := maps.Clone(c.changes)
			if changes["route"] != nil {
				delete(changes, "route")
				ipam["routes"] = []map[string]any{{"dst": "0.0.0.0/0"}}
			}
			maps.Copy(n.config, changes)
			ns := netnstest.New(t)
			_, err := n.call("ADD", "bad", ns, nil)
			if err == nil || c.code != 0 && cni.CodeOf(err) != c.code {
				t.Errorf("ADD: %d, %v", cni.CodeOf(err), err)
			}
			if rest := n.rest(); rest != "0 ports, 0 elements, 0 addresses" {
				t.Error(rest)
			}
			if links := netnstest.Run(t, ns, "ip", "-br", "link"); strings.Contains(links, "eth0") {
				t.Error(links)
			}
		})
	}
}

// TestDuplicateDetection: with enabledad an address that another container has is
// found out before the ADD ends, and one that is free is usable then.
func TestDuplicateDetection(t *testing.T) {
	n := newNetwork(t, map[string]any{"enabledad": true, "isDefaultGateway": false, "ipMasq": false})
	n.config["ipam"].(map[string]any)["ips"] = []map[string]any{{"address": "fd77:99::9/64"}}
	a, b := netnstest.New(t), netnstest.New(t)
	n.add("first", a)
	if out := netnstest.Run(t, a, "ip", "-6", "addr", "show", "dev", "eth0"); strings.Contains(out, "tentative") {
		t.Errorf("after the ADD: %s", out)
	}
	if _, err := n.call("ADD", "second", b, nil); cni.CodeOf(err) != cni.CodeExists || !strings.Contains(err.Error(), "fd77:99::9") {
		t.Errorf("ADD with an address that is taken: %v", err)
	}
	if links := netnstest.Run(t, b, "ip", "-br", "link"); strings.Contains(links, "eth0") {
		t.Error(links)
	}
	n.del("first", a)
}

// TestRoutesOfOlderVersions: what IPAM says of a route holds whatever the version that
// the network is in, and CHECK looks for that route.
func TestRoutesOfOlderVersions(t *testing.T) {
	for _, version := range []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		n := newNetwork(t, map[string]any{"cniVersion": version, "isDefaultGateway": false, "isGateway": true, "ipam": map[string]any{
			"type": "test-ipam", "routes": json.RawMessage(`[{"dst":"10.9.0.0/16","mtu":1300,"table":77,"priority":5}]`),
		}})
		ns := netnstest.New(t)
		raw, _ := n.add("c", ns)
		if got := netnstest.Run(t, ns, "sh", "-c", "ip route show table all | grep 'table 77'; true"); !strings.Contains(got, "10.9.0.0/16") || !strings.Contains(got, "metric 5 mtu 1300") {
			t.Fatalf("version %s: table 77 has %q", version, got)
		}
		if version != "0.3.1" { // which has no CHECK
			check := map[string]any{"prevResult": raw}
			if _, err := n.call("CHECK", "c", ns, check); err != nil {
				t.Errorf("version %s: %v", version, err)
			}
			netnstest.Run(t, ns, "ip", "route", "flush", "table", "77")
			if _, err := n.call("CHECK", "c", ns, check); err == nil {
				t.Errorf("version %s: CHECK does not miss the route", version)
			}
		}
		n.del("c", ns)
	}
}
