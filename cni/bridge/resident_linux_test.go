package bridge_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/cni/bridge"
	"github.com/nodekit-project/nodekit/internal/netns"
	"github.com/nodekit-project/nodekit/internal/netnstest"
)

// newResident returns a network whose plugin stays, and what ends that.
func newResident(t *testing.T, changes map[string]any) (n *network, stop func()) {
	n = newNetwork(t, changes)
	plugin, end := bridge.Resident()
	n.plugins["bridge"] = plugin
	return n, func() {
		t.Helper()
		if err := end(); err != nil {
			t.Error(err)
		}
	}
}

// TestPendingRemoval holds what the package's comment says of the time between a
// DEL and the kernel's removal.
func TestPendingRemoval(t *testing.T) {
	n, stop := newResident(t, map[string]any{"macspoofchk": true})
	a, b, c := netnstest.New(t), netnstest.New(t), netnstest.New(t)
	raw, ra := n.add("a", a)
	n.add("b", b)
	n.add("c", c)
	sa, sb, sc := newStation(t, a), newStation(t, b), newStation(t, c)
	n.del("a", a)
	// The interface may be gone by now, and the kernel enables a port whose carrier
	// comes anew.
	_, _ = unix.Write(sa.fd, sa.frame(sa.link.MAC, 0, "from the dead"))
	netnstest.Run(t, a, "sh", "-c", "ip link set eth0 down; ip link set eth0 up || true")
	_, _ = unix.Write(sa.fd, sa.frame(sa.link.MAC, 0, "from the undead"))
	sc.send(sc.link.MAC, 0, "from c")
	if text, _ := sb.receive(); text != "from c" {
		t.Errorf("b hears %q", text)
	}
	if n.taken[2] != (cni.Attachment{}) {
		t.Error("the address is not free")
	}
	if _, err := n.call("CHECK", "a", a, map[string]any{"prevResult": raw}); err == nil {
		t.Error("CHECK of what is being removed finds nothing wrong")
	}
	if err := n.repair("a", a, raw); err == nil {
		t.Error("Repair of what is being removed finds nothing wrong")
	}
	n.del("a", a)
	_, again := n.add("a", a)
	if again.IPs[0].Address.String() != ra.IPs[0].Address.String() {
		t.Errorf("the address %s was not free", &ra.IPs[0].Address)
	}
	if seen := netnstest.Dial(t, b, again.IPs[0].Address.IP.String(), netnstest.Listen(t, a)); seen == "" {
		t.Error("b does not reach a, which was added again")
	}
	for id, ns := range map[string]string{"a": a, "b": b, "c": ""} {
		n.del(id, ns)
	}
	stop()
	if rest := n.rest(); rest != "0 ports, 0 elements, 0 addresses" {
		t.Error(rest)
	}
}

// TestAnotherProcessFinishesRemovals: a process that was killed after a DEL
// leaves pairs, which everybody else removes.
func TestAnotherProcessFinishesRemovals(t *testing.T) {
	for name, finish := range map[string]func(n *network, ns string) error{
		"ADD": func(n *network, ns string) error {
			n.add("a", ns)
			n.del("a", ns)
			return nil
		},
		"DEL": func(n *network, ns string) error { n.del("a", ns); return nil },
		"GC": func(n *network, _ string) error {
			_, err := n.call("GC", "", "", map[string]any{"cni.dev/valid-attachments": []cni.Attachment{{ContainerID: "a", IfName: "eth0"}}})
			return err
		},
		"namespace": func(_ *network, ns string) error { return netns.Remove(ns) },
	} {
		t.Run(name, func(t *testing.T) {
			n := newNetwork(t, nil)
			ns := netnstest.New(t)
			_, result := n.add("a", ns)
			host := result.Interfaces[1].Name
			n.release(func(cni.Attachment) bool { return true })
			netnstest.Run(t, "", "nft", "flush", "ruleset")
			netnstest.Run(t, "", "ip", "link", "set", host, "alias", fmt.Sprintf("nodekit-leaving:net%d/a/eth0", n.id))
			if err := finish(n, ns); err != nil {
				t.Error(err)
			}
			for range 100 { // a namespace goes in its own time
				if links := netnstest.Run(t, "", "ip", "-br", "link"); !strings.Contains(links, host) {
					return
				}
				time.Sleep(20 * time.Millisecond)
			}
			t.Errorf("%s is still there", host)
		})
	}
}

// TestLeavesWhatIsNotItsOwn: an interface that has an attachment's name and
// another's alias is not touched, and CHECK says so before.
func TestLeavesWhatIsNotItsOwn(t *testing.T) {
	n := newNetwork(t, nil)
	ns := netnstest.New(t)
	raw, result := n.add("a", ns)
	host := result.Interfaces[1].Name
	netnstest.Run(t, "", "ip", "link", "set", host, "alias", "somebody else's")
	if _, err := n.call("CHECK", "a", ns, map[string]any{"prevResult": raw}); cni.CodeOf(err) != cni.CodeNotAsExpected || !strings.Contains(err.Error(), `has the alias "somebody else's"`) {
		t.Error(err)
	}
	n.del("a", ns)
	if links := netnstest.Run(t, "", "ip", "-br", "link"); !strings.Contains(links, host) {
		t.Error("it is gone")
	}
	if _, err := n.call("GC", "", "", map[string]any{"cni.dev/valid-attachments": []cni.Attachment{}}); err != nil {
		t.Error(err)
	}
	if links := netnstest.Run(t, "", "ip", "-br", "link"); !strings.Contains(links, host) {
		t.Error("it is gone after GC")
	}
	netnstest.Run(t, "", "ip", "link", "set", host, "alias", "")
	n.del("a", ns)
	if rest := n.rest(); rest != "0 ports, 0 elements, 0 addresses" {
		t.Error(rest)
	}
}

// TestManyStay: many containers at once, twice, by a process that stays.
func TestManyStay(t *testing.T) {
	n, stop := newResident(t, nil)
	const many = 40
	spaces := make([]string, many)
	for i := range spaces {
		spaces[i] = netnstest.New(t)
	}
	for range 2 {
		for _, command := range []string{"ADD", "DEL"} {
			var wg sync.WaitGroup
			for i, ns := range spaces {
				wg.Go(func() {
					if out, err := n.call(command, fmt.Sprintf("c%d", i), ns, nil); err != nil {
						t.Errorf("%s: %v: %s", command, err, out)
					}
				})
			}
			wg.Wait()
			if command == "ADD" {
				if rest := n.rest(); rest != fmt.Sprintf("%d ports, %d elements, %d addresses", many, many, many) {
					t.Error(rest)
				}
			}
		}
	}
	stop()
	if rest := n.rest(); rest != "0 ports, 0 elements, 0 addresses" {
		t.Error(rest)
	}
}
