package bridge_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/cni/bridge"
	"github.com/nodekit-project/nodekit/internal/netnstest"
)

// damage is something that is taken from a whole attachment.
type damage struct {
	config map[string]any
	inside string // a command in the container
	host   string // and on the host; $HOST, $BRIDGE, $IP, $IP6 are the attachment's
	says   string // what CHECK says; nothing is wrong when it is empty
	stays  bool   // Repair does not mend it
	still  string // what ip(8) says of the port after Repair
}

func damages() map[string]damage {
	spoof := map[string]any{"macspoofchk": true}
	six := map[string]any{"ipam": map[string]any{"type": "test-ipam", "six": true}}
	return map[string]damage{
		"nothing":               {},
		"promiscuous bridge":    {host: "ip link set $BRIDGE promisc on"},
		"container's link":      {inside: "ip link del eth0", says: `"eth0"`, stays: true},
		"container's link down": {inside: "ip link set eth0 down", says: `"eth0" in the container is down`},
		"container's MAC":       {inside: "ip link set eth0 address 02:00:00:00:00:66", says: "MAC address 02:00:00:00:00:66", stays: true},
		"container's MTU":       {inside: "ip link set eth0 mtu 9000", says: `"eth0" in the container has the MTU 9000 instead of 1500`},
		"container's lower MTU": {inside: "ip link set eth0 mtu 1400"},
		"port's MTU":            {host: "ip link set $HOST mtu 1400", says: "on the host has the MTU 1400 instead of 1500"},
		"address":               {inside: "ip addr flush dev eth0", says: "lacks the address", stays: true},
		"IPv6 address":          {config: six, inside: "ip -6 addr flush dev eth0 scope global", says: "lacks the address fd77", stays: true},
		"default route":         {inside: "ip route del default", says: "route to 0.0.0.0/0"},
		"IPv6 default route":    {config: six, inside: "ip -6 route del default", says: "route to ::/0"},
		"port":                  {host: "ip link set $HOST nomaster", says: "is not a port"},
		"port down":             {host: "ip link set $HOST down", says: "on the host is down"},
		"port disabled":         {host: "bridge link set dev $HOST state 0", says: "is a disabled port"},
		"bridge down":           {host: "ip link set $BRIDGE down", says: "is down"},
		"bridge":                {host: "ip link del $BRIDGE", says: "bridge"},
		"gateway":               {host: "ip addr flush dev $BRIDGE", says: "lacks the address"},
		"hairpin":               {config: map[string]any{"hairpinMode": true}, host: "ip link set $HOST type bridge_slave hairpin off", says: "lost its hairpin mode"},
		"foreign hairpin":       {host: "ip link set $HOST type bridge_slave hairpin on isolated on", still: "hairpin on, isolated on"},
		"isolation":             {config: map[string]any{"portIsolation": true}, host: "ip link set $HOST type bridge_slave isolated off hairpin on", says: "lost its isolation", still: "hairpin on"},
		"promiscuity":           {config: map[string]any{"promiscMode": true}, host: "ip link set $BRIDGE promisc off", says: "not promiscuous"},
		"masquerade element":    {host: "nft delete element inet cni-$BRIDGE masquerade4 { $IP }", says: "is masqueraded"},
		"IPv6 element":          {config: six, host: "nft delete element inet cni-$BRIDGE masquerade6 { $IP6 }", says: "is masqueraded"},
		"index":                 {host: "nft flush map inet cni-$BRIDGE byport", says: "indexes"},
		"masquerade rules":      {host: "nft flush chain inet cni-$BRIDGE postrouting", says: "has 0 rules"},
		"masquerade chain":      {host: "nft delete chain inet cni-$BRIDGE postrouting", says: "has 0 rules"},
		"masquerade table":      {host: "nft delete table inet cni-$BRIDGE", says: "has 0 rules"},
		"spoof rules":           {config: spoof, host: "nft flush chain bridge cni-$BRIDGE prerouting", says: "has 0 rules"},
		"spoof elements":        {config: spoof, host: "nft flush set bridge cni-$BRIDGE allowed", says: "MAC address check"},
		"watched port":          {config: spoof, host: "nft flush set bridge cni-$BRIDGE watched", says: "MAC address check"},
		"forwarding":            {host: "echo 0 >/proc/sys/net/ipv4/ip_forward", says: "does not forward"},
		"without IPAM":          {config: map[string]any{"ipam": map[string]any{}}},
	}
}

// TestCheckAndRepair: CHECK names what is missing and changes nothing, and Repair
// puts it back where that needs no ADD.
func TestCheckAndRepair(t *testing.T) {
	for name, d := range damages() {
		t.Run(name, func(t *testing.T) {
			n := newNetwork(t, d.config)
			ns := netnstest.New(t)
			raw, result := n.add("check", ns)
			defer n.del("check", ns)
			n.breakIt(ns, result, d)
			prev := map[string]any{"prevResult": raw}
			_, err := n.call("CHECK", "check", ns, prev)
			if (err == nil) != (d.says == "") || err != nil && (!strings.Contains(err.Error(), d.says) || cni.CodeOf(err) != cni.CodeNotAsExpected) {
				t.Errorf("CHECK says %v, want %q", err, d.says)
			}
			err = n.repair("check", ns, raw)
			if err == nil {
				_, err = n.call("CHECK", "check", ns, prev)
			}
			if (err != nil) != d.stays {
				t.Errorf("after Repair: %v", err)
			}
			if d.still != "" {
				port := netnstest.Run(t, "", "ip", "-d", "link", "show", result.Interfaces[1].Name)
				for _, word := range strings.Split(d.still, ", ") {
					if !strings.Contains(port, word) {
						t.Errorf("after Repair %q is not in %s", word, port)
					}
				}
			}
		})
	}
}

// TestCheckMTU: the final result counts, in which a later plugin of the chain may have
// written what it has set, and the configuration if the result has no MTU.
func TestCheckMTU(t *testing.T) {
	for name, c := range map[string]struct {
		version  string
		config   int
		tuned    int // what a later plugin says
		has, hub int // in the container, and on the host
		says     string
	}{
		"1.0.0":                {version: "1.0.0", config: 1400, has: 1400, hub: 1400},
		"1.0.0 tuned":          {version: "1.0.0", config: 1400, has: 1300, hub: 1400},
		"1.0.0 raised":         {version: "1.0.0", config: 1400, has: 1500, hub: 1400, says: `"eth0" in the container has the MTU 1500 instead of 1400`},
		"1.0.0 port":           {version: "1.0.0", config: 1400, has: 1400, hub: 1300, says: "on the host has the MTU 1300 instead of 1400"},
		"1.0.0 not configured": {version: "1.0.0", has: 9000, hub: 1400},
		"tuned":                {version: "1.1.0", tuned: 1300, has: 1300, hub: 1500},
		"tuned up":             {version: "1.1.0", config: 1400, tuned: 1500, has: 1500, hub: 1400},
		"tuned and raised":     {version: "1.1.0", tuned: 1300, has: 1500, hub: 1500, says: "has the MTU 1500 instead of 1300"},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNetwork(t, map[string]any{"mtu": c.config, "cniVersion": c.version})
			ns := netnstest.New(t)
			raw, result := n.add("mtu", ns)
			defer n.del("mtu", ns)
			n.breakIt(ns, result, damage{inside: fmt.Sprintf("ip link set eth0 mtu %d", c.has), host: fmt.Sprintf("ip link set $HOST mtu %d", c.hub)})
			if c.tuned > 0 {
				result.Interfaces[2].Mtu = c.tuned
				raw, _ = cni.EncodeResult(result, c.version)
			}
			_, err := n.call("CHECK", "mtu", ns, map[string]any{"prevResult": raw})
			if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
				t.Errorf("CHECK says %v, want %q", err, c.says)
			}
		})
	}
}

func (n *network) breakIt(ns string, result *cni.Result, d damage) {
	n.t.Helper()
	names := []string{"$BRIDGE", n.config["bridge"].(string), "$HOST", result.Interfaces[1].Name}
	for i, ip := range result.IPs {
		names = append(names, []string{"$IP", "$IP6"}[i]+" ", ip.Address.IP.String()+" ")
	}
	replace := strings.NewReplacer(names...)
	netnstest.Run(n.t, ns, "sh", "-c", d.inside)
	netnstest.Run(n.t, "", "sh", "-c", replace.Replace(d.host))
}

// TestMACInCapitals: a later plugin of the chain that changes the address writes it
// into the result as its configuration has it.
func TestMACInCapitals(t *testing.T) {
	n := newNetwork(t, map[string]any{"macspoofchk": true})
	ns := netnstest.New(t)
	raw, result := n.add("capitals", ns)
	defer n.del("capitals", ns)
	mac := result.Interfaces[2].Mac
	for _, written := range []string{strings.ToUpper(mac), strings.ReplaceAll(mac, ":", "-")} {
		prev := strings.ReplaceAll(string(raw), mac, written)
		if _, err := n.call("CHECK", "capitals", ns, map[string]any{"prevResult": json.RawMessage(prev)}); err != nil {
			t.Errorf("CHECK with %s: %v", written, err)
		}
	}
}

// TestCheckOnlyLooks: CHECK of what is broken mends none of it.
func TestCheckOnlyLooks(t *testing.T) {
	n := newNetwork(t, map[string]any{"macspoofchk": true})
	ns := netnstest.New(t)
	raw, result := n.add("look", ns)
	defer n.del("look", ns)
	n.breakIt(ns, result, damage{
		inside: "ip route flush table main",
		host:   "nft delete table inet cni-$BRIDGE; nft flush ruleset bridge; ip addr flush dev $BRIDGE; ip link set $HOST type bridge_slave hairpin on",
	})
	look := func() string {
		// Link states and IPv6 addresses of link scope change in the kernel's own time.
		const commands = "ip -4 -o addr; ip -o link | grep -o 'master [^ ]*' || true; ip -4 route show table main; nft list ruleset"
		return netnstest.Run(t, "", "sh", "-c", commands) + netnstest.Run(t, ns, "sh", "-c", commands)
	}
	before := look()
	if _, err := n.call("CHECK", "look", ns, map[string]any{"prevResult": raw}); err == nil {
		t.Error("CHECK missed all")
	}
	if after := look(); after != before {
		t.Errorf("CHECK changed\n%s\nto\n%s", before, after)
	}
}

// TestTeardown: nothing is left, also of a bridge that somebody else uses.
func TestTeardown(t *testing.T) {
	n := newNetwork(t, map[string]any{"macspoofchk": true})
	ns := netnstest.New(t)
	n.add("x", ns)
	n.del("x", ns)
	br := n.config["bridge"].(string)
	for range 2 {
		if err := bridge.Teardown(t.Context(), bridge.Config{Bridge: br}); err != nil {
			t.Fatal(err)
		}
	}
	if left := netnstest.Run(t, "", "sh", "-c", "nft list tables; ip link"); strings.Contains(left, br) {
		t.Errorf("left: %s", left)
	}
}
