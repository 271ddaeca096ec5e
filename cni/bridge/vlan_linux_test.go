package bridge_test

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"strings"
	"testing"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/internal/netnstest"
	"github.com/nodekit-project/nodekit/internal/rtnl"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

func newVLANs(t *testing.T) *network {
	testenv.Require(t, testenv.Root, testenv.BridgeVLAN)
	return newNetwork(t, map[string]any{"isDefaultGateway": false, "ipMasq": false})
}

// addWith adds a container with changes of the configuration.
func (n *network) addWith(id string, changes map[string]any) (ns string, raw []byte) {
	old := maps.Clone(n.config)
	maps.Copy(n.config, changes)
	defer func() { n.config = old }()
	ns = netnstest.New(n.t)
	raw, _ = n.add(id, ns)
	return ns, raw
}

// TestVLANsAreApart: untagged frames stay in the port's VLAN, and a trunk gets
// the tagged ones of its own.
func TestVLANsAreApart(t *testing.T) {
	n := newVLANs(t)
	ten := map[string]any{"vlan": 10}
	trunk := map[string]any{"vlanTrunk": []map[string]int{{"id": 10}, {"minID": 20, "maxID": 22}}, "vlan": 30}
	stations := map[string]*station{}
	for id, changes := range map[string]map[string]any{
		"ten": ten, "tenth": ten, "twenty": {"vlan": 20}, "forty": {"vlan": 40}, "trunk": trunk, "thirty": {"vlan": 30},
	} {
		ns, _ := n.addWith(id, changes)
		stations[id] = newStation(t, ns)
	}
	say := func(from string, vlan uint16, text string) { stations[from].send(stations[from].link.MAC, vlan, text) }
	hears := func(who string, vlan uint16, want string) {
		t.Helper()
		if text, tag := stations[who].receive(); text != want || tag != vlan {
			t.Errorf("%s hears %q with tag %d, want %q with %d", who, text, tag, want, vlan)
		}
	}
	say("forty", 0, "of 40")
	say("ten", 0, "of 10")
	hears("tenth", 0, "of 10")
	hears("trunk", 10, "of 10")
	say("trunk", 20, "to 20")
	hears("twenty", 0, "to 20")
	say("trunk", 40, "to 40, where the trunk is not")
	say("trunk", 0, "to the native one")
	hears("thirty", 0, "to the native one")
	say("twenty", 0, "of 20")
	hears("trunk", 20, "of 20")
	say("thirty", 0, "of 30")
	hears("trunk", 0, "of 30")
}

// TestVLANsOfPorts looks at the ports' VLANs.
func TestVLANsOfPorts(t *testing.T) {
	n := newVLANs(t)
	n.addWith("first", map[string]any{"vlan": 99}) // a bridge that is made without VLANs gets none while it has ports
	for name, c := range map[string]struct {
		changes map[string]any
		want    string
	}{
		"access":              {map[string]any{"vlan": 100}, "100n"},
		"preserved":           {map[string]any{"vlan": 100, "preserveDefaultVlan": true}, "1 100n"},
		"trunk":               {map[string]any{"vlanTrunk": []map[string]int{{"minID": 5, "maxID": 7}}}, "1n 5 6 7"},
		"trunk and native":    {map[string]any{"vlan": 6, "vlanTrunk": []map[string]int{{"minID": 5, "maxID": 7}}}, "5 6n 7"},
		"trunk, id and range": {map[string]any{"vlan": 9, "vlanTrunk": []map[string]int{{"minID": 5, "maxID": 6, "id": 8}}}, "5 6 8 9n"},
		"none":                {nil, "1n"},
	} {
		t.Run(name, func(t *testing.T) {
			id := strings.ReplaceAll(strings.ReplaceAll(name, ",", ""), " ", "-")
			ns, raw := n.addWith(id, c.changes)
			links, err := rtnl.Open()
			if err != nil {
				t.Fatal(err)
			}
			defer links.Close()
			result, err := cni.DecodeResult(raw, "")
			if err != nil {
				t.Fatal(err)
			}
			port, err := links.Link(result.Interfaces[1].Name)
			if err != nil {
				t.Fatal(err)
			}
			if have := vlansOf(t, links, port); have != c.want {
				t.Errorf("VLANs %s, want %s", have, c.want)
			}
			if c.changes == nil {
				return
			}
			// CHECK notices one too few and one too many, and Repair mends both.
			config := maps.Clone(c.changes)
			config["prevResult"] = jsonOf(raw)
			check := func(want string) {
				t.Helper()
				_, err := n.call("CHECK", id, ns, config)
				if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
					t.Errorf("CHECK says %v, want %q", err, want)
				}
			}
			check("")
			for _, vlan := range strings.Fields(c.want) {
				var number uint16
				fmt.Sscan(strings.TrimSuffix(vlan, "n"), &number)
				if err := links.Do(rtnl.RemoveVLANs(port, rtnl.VLANs{First: number, Last: number})); err != nil {
					t.Fatal(err)
				}
			}
			if err := links.Do(rtnl.AddVLANs(port, rtnl.VLANs{First: 4000, Last: 4000})); err != nil {
				t.Fatal(err)
			}
			check("is in VLAN 4000")
			old := n.config
			n.config = maps.Clone(n.config)
			maps.Copy(n.config, c.changes)
			if err := n.repair(id, ns, raw); err != nil {
				t.Error(err)
			}
			n.config = old
			check("")
			if have := vlansOf(t, links, port); have != c.want {
				t.Errorf("VLANs after Repair %s, want %s", have, c.want)
			}
		})
	}
}

type jsonOf []byte

func (j jsonOf) MarshalJSON() ([]byte, error) { return j, nil }

func vlansOf(t *testing.T, links *rtnl.Conn, port *rtnl.Link) string {
	t.Helper()
	all, err := links.VLANsOf(port)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, v := range all {
		text := fmt.Sprint(v.First)
		if v.Native {
			text += "n"
		}
		out = append(out, text)
	}
	return strings.Join(out, " ")
}

// TestVLANGateway: each VLAN has a gateway of its own, which outlives containers
// and goes with the bridge.
func TestVLANGateway(t *testing.T) {
	n := newVLANs(t)
	n.config["isDefaultGateway"], n.config["ipMasq"], n.config["vlan"] = true, true, 7
	a, outside := netnstest.New(t), netnstest.New(t)
	raw, ra := n.add("a", a)
	name := n.config["bridge"].(string) + ".7"
	if last := ra.Interfaces[len(ra.Interfaces)-1]; last.Name != name || last.Sandbox != "" {
		t.Errorf("the result's last interface is %+v", last)
	}
	n.compareResult(a, ra)
	gateway := ra.IPs[0].Gateway.String()
	if seen := netnstest.Dial(t, a, gateway, netnstest.Listen(t, "")); seen != ra.IPs[0].Address.IP.String() {
		t.Errorf("the gateway saw %s", seen)
	}
	netnstest.Link(t, outside, "up7", "192.0.2.1/24", "192.0.2.2/24")
	if seen := netnstest.Dial(t, a, "192.0.2.2", netnstest.Listen(t, outside)); seen != "192.0.2.1" {
		t.Errorf("outside saw %s", seen)
	}
	prev := map[string]any{"prevResult": jsonOf(raw)}
	if _, err := n.call("CHECK", "a", a, prev); err != nil {
		t.Error(err)
	}
	netnstest.Run(t, "", "ip", "link", "set", name, "down")
	if _, err := n.call("CHECK", "a", a, prev); err == nil || !strings.Contains(err.Error(), name) {
		t.Errorf("CHECK without the gateway: %v", err)
	}
	if err := n.repair("a", a, raw); err != nil {
		t.Error(err)
	}
	if _, err := n.call("CHECK", "a", a, prev); err != nil {
		t.Errorf("after Repair: %v", err)
	}
	n.del("a", a)
}

// TestVLANGatewayIsLookedAfter: whatever a gateway lost, CHECK names it, and both
// Repair and the ADD of another container put it back.
func TestVLANGatewayIsLookedAfter(t *testing.T) {
	n := newVLANs(t)
	n.config["isDefaultGateway"], n.config["ipMasq"], n.config["vlan"] = true, true, 8
	bridge := n.config["bridge"].(string)
	a, b := netnstest.New(t), netnstest.New(t)
	raw, ra := n.add("a", a)
	list := netnstest.Run(t, "", "ip", "-o", "link", "show", "master", bridge)
	port := regexp.MustCompile("vgw[0-9a-f]+").FindString(list)
	for _, harm := range []struct{ act, says string }{
		{"ip link set " + port + " down", "is down"},
		{"ip link set " + port + " nomaster", "is not a port"},
		{"", "is not in VLAN 8"},
		{"nft flush set inet cni-" + bridge + " near", bridge + ".8"},
		{"nft flush ruleset", "has 0 rules"},
	} {
		for _, mend := range []string{"Repair", "ADD"} {
			if harm.act == "" {
				n.leaveVLAN(port, 8)
			}
			netnstest.Run(t, "", "sh", "-c", harm.act)
			check := func() error {
				_, err := n.call("CHECK", "a", a, map[string]any{"prevResult": jsonOf(raw)})
				return err
			}
			if err := check(); err == nil || !strings.Contains(err.Error(), harm.says) {
				t.Errorf("%q: CHECK says %v, want %q", harm.act, err, harm.says)
			}
			if mend == "ADD" {
				n.add("b", b)
				n.del("b", b)
			}
			// What an ADD does not mend are the first container's own elements.
			if near := netnstest.Run(t, "", "sh", "-c", "nft list set inet cni-"+bridge+" near || true"); mend == "ADD" && !strings.Contains(near, bridge+".8") {
				t.Errorf("%q: after ADD near is %s", harm.act, near)
			}
			if mend == "Repair" || harm.act == "nft flush ruleset" {
				if err := n.repair("a", a, raw); err != nil {
					t.Errorf("%q: %v", harm.act, err)
				}
			}
			if err := check(); err != nil {
				t.Errorf("%q: after %s: %v", harm.act, mend, err)
			}
			if seen := netnstest.Dial(t, a, ra.IPs[0].Gateway.String(), netnstest.Listen(t, "")); seen != ra.IPs[0].Address.IP.String() {
				t.Errorf("%q: after %s the gateway saw %q", harm.act, mend, seen)
			}
		}
	}
	n.del("a", a)
}

func (n *network) leaveVLAN(port string, id uint16) {
	n.t.Helper()
	links, err := rtnl.Open()
	if err != nil {
		n.t.Fatal(err)
	}
	l, err := links.Link(port)
	if err == nil {
		err = links.Do(rtnl.RemoveVLANs(l, rtnl.VLANs{First: id, Last: id}))
	}
	if err := errors.Join(err, links.Close()); err != nil {
		n.t.Fatal(err)
	}
}

// TestVLANOnAnExistingBridge: filtering is switched on while nobody can suffer.
func TestVLANOnAnExistingBridge(t *testing.T) {
	n := newVLANs(t)
	_, _ = n.addWith("plain", nil)
	n.config["vlan"] = 5
	if _, err := n.call("ADD", "x", netnstest.New(t), nil); cni.CodeOf(err) != cni.CodeConfig || !strings.Contains(err.Error(), "vlan_filtering") {
		t.Errorf("with a port: %v", err)
	}
	n.del("plain", "")
	n.addWith("y", nil)
}
