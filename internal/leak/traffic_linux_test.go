package leak_test

import (
	"net"
	"os/exec"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/leak"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// commands runs each line, which is a command of iproute2.
func commands(t *testing.T, lines string) {
	t.Helper()
	for line := range strings.Lines(lines) {
		words := strings.Fields(line)
		if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", line, err, out)
		}
	}
}

// TestHungOnInterfaces: what is configured on an interface counts, and what the kernel
// does by itself does not, such as the queues of a new interface and what a bridge learns.
func TestHungOnInterfaces(t *testing.T) {
	testenv.Require(t, testenv.Root)
	scope := leak.Scope{Kinds: []leak.Kind{leak.Neighbour, leak.Forwarding, leak.Traffic}}
	inNetNS(t, func() {
		commands(t, "ip link add br0 type bridge")
		// If the kernel has VLANs on bridges, entries would be there for VLAN 1 as well.
		_ = exec.Command("ip", "link", "set", "br0", "type", "bridge", "vlan_default_pvid", "0").Run()
		commands(t, `ip link add a0 type veth peer name b0
			ip link set a0 master br0 up
			ip link set b0 up
			ip link set br0 up
			ip address add 10.9.0.1/24 dev br0
			ip neighbour add 10.9.0.9 lladdr 02:00:00:00:00:09 dev br0 nud stale
			bridge fdb add 02:00:00:00:00:19 dev a0 master dynamic`)
		audit(t, scope, func() func() {
			commands(t, `ip neighbour add 10.9.0.2 lladdr 02:00:00:00:00:02 dev br0
				ip neighbour add proxy 10.9.0.3 dev br0
				bridge fdb add 02:00:00:00:00:12 dev a0 master static
				bridge fdb add 02:00:00:00:00:13 dev br0 self permanent
				tc qdisc add dev a0 root handle 1: htb
				tc class add dev a0 parent 1: classid 1:7 htb rate 1mbit
				tc filter add dev a0 parent 1: protocol all u32 match u32 0 0 classid 1:7
				tc qdisc add dev b0 clsact
				tc filter add dev b0 egress protocol all u32 match u32 0 0`)
			return func() {
				commands(t, `ip neighbour del 10.9.0.2 dev br0
				ip neighbour del proxy 10.9.0.3 dev br0
				bridge fdb del 02:00:00:00:00:12 dev a0 master
				bridge fdb del 02:00:00:00:00:13 dev br0 self
				tc qdisc del dev a0 root
				tc qdisc del dev b0 clsact`)
			}
		}, "neighbour br0 10.9.0.2 lladdr 02:00:00:00:00:02", "neighbour br0 10.9.0.3 proxy",
			"fdb a0 02:00:00:00:00:12", "fdb br0 02:00:00:00:00:13",
			"tc a0 class htb", "tc a0 filter u32", "tc a0 filter u32", "tc a0 filter u32", "tc a0 qdisc htb",
			"tc b0 filter u32", "tc b0 filter u32", "tc b0 filter u32", "tc b0 qdisc clsact")
	})
}

// TestForwardingOfATunnel: the entries of a tunnel say where an address is.
func TestForwardingOfATunnel(t *testing.T) {
	testenv.Require(t, testenv.Root)
	inNetNS(t, func() {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "vx0"
		must(t, netlink.LinkAdd(&netlink.Vxlan{LinkAttrs: attrs, VxlanId: 7, Port: 4789}))
		link, err := netlink.LinkByName("vx0")
		must(t, err)
		entry := &netlink.Neigh{
			LinkIndex: link.Attrs().Index, Family: unix.AF_BRIDGE, Flags: netlink.NTF_SELF, State: netlink.NUD_PERMANENT,
			IP: net.IPv4(192, 0, 2, 1), HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 1},
		}
		audit(t, leak.Scope{Kinds: []leak.Kind{leak.Forwarding}}, func() func() {
			must(t, netlink.NeighAppend(entry))
			return func() { must(t, netlink.NeighDel(entry)) }
		}, "fdb vx0 02:00:00:00:00:01 dst 192.0.2.1")
	})
}
