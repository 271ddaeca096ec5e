package bridge_test

import (
	"testing"

	"github.com/nodekit-project/nodekit/internal/netnstest"
)

// TestPortIsolation: isolated containers hear the others, and not each other.
func TestPortIsolation(t *testing.T) {
	n := newNetwork(t, map[string]any{"portIsolation": true})
	a, b, open := netnstest.New(t), netnstest.New(t), netnstest.New(t)
	_, ra := n.add("a", a)
	n.add("b", b)
	n.config["portIsolation"] = false
	n.add("open", open)
	sa, sb, so := newStation(t, a), newStation(t, b), newStation(t, open)
	sa.send(sa.link.MAC, 0, "from a")
	if text, _ := so.receive(); text != "from a" { // then b had the chance to hear it
		t.Errorf("the open port hears %q", text)
	}
	so.send(so.link.MAC, 0, "from the open one")
	for name, s := range map[string]*station{"a": sa, "b": sb} {
		if text, _ := s.receive(); text != "from the open one" {
			t.Errorf("%s hears %q", name, text)
		}
	}
	gateway := ra.IPs[0].Gateway.String()
	if seen := netnstest.Dial(t, a, gateway, netnstest.Listen(t, "")); seen != ra.IPs[0].Address.IP.String() {
		t.Errorf("the host saw %s", seen)
	}
	for id, ns := range map[string]string{"a": a, "b": b, "open": open} {
		n.del(id, ns)
	}
}

// TestSpoofedFramesAreDropped: of a watched container only frames with its own
// address pass, and what it does to its interface does not help it.
func TestSpoofedFramesAreDropped(t *testing.T) {
	n := newNetwork(t, map[string]any{"macspoofchk": true})
	a, b := netnstest.New(t), netnstest.New(t)
	raw, ra := n.add("a", a)
	n.add("b", b)
	sa, sb := newStation(t, a), newStation(t, b)
	sa.send([]byte{2, 0, 0, 0, 0, 0x99}, 0, "forged")
	sa.send(sa.link.MAC, 0, "honest")
	if text, _ := sb.receive(); text != "honest" {
		t.Errorf("b hears %q", text)
	}
	if seen := netnstest.Dial(t, b, ra.IPs[0].Address.IP.String(), netnstest.Listen(t, a)); seen == "" {
		t.Error("b does not reach a")
	}
	if _, err := n.call("CHECK", "a", a, map[string]any{"prevResult": raw}); err != nil {
		t.Error(err)
	}
	n.del("a", a)
	n.del("b", b)
	table := "cni-" + n.config["bridge"].(string)
	if left := netnstest.Run(t, "", "sh", "-c", "nft list table bridge "+table+" | grep -v 'comment \"nodekit ' | grep -c comment || true"); left != "0\n" {
		t.Errorf("%s elements are left of the spoof check", left)
	}
}

// TestHairpin: a frame comes back by the port that it came from.
func TestHairpin(t *testing.T) {
	n := newNetwork(t, map[string]any{"hairpinMode": true})
	a, b := netnstest.New(t), netnstest.New(t)
	n.add("a", a)
	n.config["hairpinMode"] = false
	n.add("b", b)
	sa, sb := newStation(t, a), newStation(t, b)
	sa.send(sa.link.MAC, 0, "from a")
	if text, _ := sa.receive(); text != "from a" {
		t.Errorf("a hears %q of itself", text)
	}
	if text, _ := sb.receive(); text != "from a" {
		t.Errorf("b hears %q", text)
	}
	sb.send(sb.link.MAC, 0, "from b")
	if text, _ := sa.receive(); text != "from b" {
		t.Errorf("a hears %q", text)
	}
	sa.send(sa.link.MAC, 0, "again") // b's own frame would be before it
	if text, _ := sb.receive(); text != "again" {
		t.Errorf("b hears %q", text)
	}
	n.del("a", a)
	n.del("b", b)
}

// TestDualStackMasquerade: the outside sees the host's address in both families,
// and not where packets stay on the bridge.
func TestDualStackMasquerade(t *testing.T) {
	n := newNetwork(t, nil)
	n.config["ipam"].(map[string]any)["six"] = true
	a, outside := netnstest.New(t), netnstest.New(t)
	n.add("a", a)
	defer n.del("a", a)
	netnstest.Link(t, outside, "up1", "192.0.2.1/24", "192.0.2.2/24")
	netnstest.Run(t, "", "ip", "addr", "add", "2001:db8::1/64", "dev", "up1", "nodad")
	netnstest.Run(t, outside, "ip", "addr", "add", "2001:db8::2/64", "dev", "eth0", "nodad")
	port := netnstest.Listen(t, outside)
	for to, want := range map[string]string{"192.0.2.2": "192.0.2.1", "2001:db8::2": "2001:db8::1"} {
		if seen := netnstest.Dial(t, a, to, port); seen != want {
			t.Errorf("outside saw %s instead of the host's %s", seen, want)
		}
	}
}

// TestAddressWithANewOwner: who talked to the last owner of an address reaches
// the next one, whose interface has another MAC address, at once.
func TestAddressWithANewOwner(t *testing.T) {
	n := newNetwork(t, nil)
	n.config["ipam"].(map[string]any)["six"] = true
	for _, id := range []string{"first", "second"} {
		ns := netnstest.New(t)
		_, r := n.add(id, ns)
		port := netnstest.Listen(t, ns)
		for _, ip := range r.IPs {
			if seen := netnstest.Dial(t, "", ip.Address.IP.String(), port); seen == "" {
				t.Errorf("the host does not reach the %s owner's %s", id, ip.Address.IP)
			}
		}
		n.del(id, ns)
	}
}
