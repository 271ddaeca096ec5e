package rtnl_test

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/netnstest"
	"github.com/nodekit-project/nodekit/internal/rtnl"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

func TestMain(m *testing.M) { netnstest.Main(m) }

// TestLinks makes a bridge with a port, and looks at what the kernel has then.
func TestLinks(t *testing.T) {
	testenv.Require(t, testenv.Root)
	c, err := rtnl.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	if err := c.Do(rtnl.AddBridge("rt-br", 1400, mac, false)); err != nil {
		t.Fatal(err)
	}
	br, err := c.Link("rt-br")
	if err != nil || br.Kind != "bridge" || br.Up || br.MTU != 1400 || br.MAC.String() != mac.String() {
		t.Fatalf("the bridge: %+v, %v", br, err)
	}
	pair := &rtnl.Pair{Name: "rt-near", Peer: "rt-far", PeerNS: -1, Master: br.Index, MTU: 1300, Alias: "whose", Hairpin: true, Up: true}
	near, err := c.AddPair(pair)
	if err != nil || near.Name != "rt-near" {
		t.Fatalf("the pair: %+v, %v", near, err)
	}
	if _, err := c.AddPair(pair); !errors.Is(err, fault.AlreadyExists) {
		t.Errorf("a second pair of that name: %v", err)
	}
	port, err := c.Link("rt-near")
	if err != nil || !port.Up || port.Alias != "whose" || !port.Hairpin || port.Isolated || port.Master != br.Index || port.MTU != 1300 || port.Kind != "veth" {
		t.Errorf("the port: %+v, %v", port, err)
	}
	for _, name := range []string{"rt-near", "rt-far"} {
		end, err := netlink.LinkByName(name)
		if err != nil || end.Attrs().NumTxQueues != 1 || end.Attrs().NumRxQueues != 1 {
			t.Errorf("the queues of %s: %+v, %v", name, end, err)
		}
	}
	far, err := c.Link("rt-far")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Do(rtnl.Up(far)); err != nil {
		t.Fatal(err)
	}
	// The kernel gives an end its address once it knows that the other one is up too,
	// which it notices by and by; the port has had as long then.
	own, err := c.AllAddresses(far)
	for deadline := time.Now().Add(20 * time.Second); err == nil && len(own) == 0 && time.Now().Before(deadline); own, err = c.AllAddresses(far) {
		time.Sleep(10 * time.Millisecond)
	}
	if err != nil || len(own) != 1 || !own[0].Prefix.Addr().IsLinkLocalUnicast() {
		t.Errorf("the far end's addresses: %v, %v", own, err)
	}
	if own, err := c.AllAddresses(port); err != nil || len(own) > 0 {
		t.Errorf("the port's addresses: %v, %v", own, err)
	}
	small, err := c.AddPair(&rtnl.Pair{Name: "rt-small", Peer: "rt-small2", PeerNS: -1, Master: br.Index, MTU: 1000, Up: true}) // IPv6 needs 1280
	if err != nil {
		t.Fatalf("a pair without IPv6: %v", err)
	}
	if err := c.Do(rtnl.Delete(small)); err != nil {
		t.Error(err)
	}
	if ports, err := c.Ports(br.Index); err != nil || len(ports) != 1 || ports[0].Name != "rt-near" {
		t.Errorf("the ports: %v, %v", ports, err)
	}
	if _, err := c.Links("rt-near", "nowhere0"); !errors.Is(err, fault.NotFound) {
		t.Errorf("a link that is not there: %v", err)
	}
	const group = 1 << 30
	if err := c.Do(rtnl.DisablePort(port, "leaving", group)...); err != nil {
		t.Error(err)
	}
	if port, err = c.Link("rt-near"); err != nil || !port.Disabled || port.Alias != "leaving" || port.Group != group {
		t.Errorf("the disabled port: %+v, %v", port, err)
	}
	if err := c.Do(rtnl.DeleteGroup(group)); err != nil {
		t.Error(err)
	}
	if _, err := c.Link("rt-near"); !errors.Is(err, fault.NotFound) {
		t.Errorf("after its group was removed: %v", err)
	}
	if err := c.Do(rtnl.Delete(br)); err != nil {
		t.Error(err)
	}
	if err := c.Do(rtnl.Delete(br)); !rtnl.IsNotFound(err) {
		t.Errorf("a second removal: %v", err)
	}
}

// TestAddressesAndRoutes gives an interface addresses and routes and reads them.
func TestAddressesAndRoutes(t *testing.T) {
	testenv.Require(t, testenv.Root)
	c, err := rtnl.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	l, err := c.AddPair(&rtnl.Pair{Name: "rt-a", Peer: "rt-b", PeerNS: -1, Up: true})
	if err != nil {
		t.Fatal(err)
	}
	prefixes := []netip.Prefix{netip.MustParsePrefix("192.0.2.7/24"), netip.MustParsePrefix("2001:db8::7/64")}
	for _, p := range prefixes {
		if err := c.Do(rtnl.AddAddress(l, p, false)); err != nil {
			t.Error(err)
		}
	}
	have, err := c.Addresses(l)
	if err != nil || len(have) != 2 || have[0].Prefix != prefixes[0] || have[1].Prefix != prefixes[1] || have[1].Tentative {
		t.Errorf("the addresses: %v, %v", have, err)
	}
	want := rtnl.Route{Dst: netip.MustParsePrefix("198.51.100.0/24"), Gateway: netip.MustParseAddr("192.0.2.1"), Link: l.Index, Table: 77, Priority: 9, MTU: 1234, AdvMSS: 1100}
	if err := c.Do(rtnl.AddRoute(&want)); err != nil {
		t.Fatal(err)
	}
	routes, err := c.Routes(true, 77)
	if err != nil || len(routes) != 1 {
		t.Fatalf("the routes: %v, %v", routes, err)
	}
	got := routes[0]
	if got.Scope = nil; got != want {
		t.Errorf("the route is %+v instead of %+v", got, want)
	}
	if none, err := c.Routes(true, 78); err != nil || len(none) > 0 {
		t.Errorf("a table without routes: %v, %v", none, err)
	}
	if err := c.Do(rtnl.RemoveAddress(l, prefixes[0]), rtnl.Delete(l)); err != nil {
		t.Error(err)
	}
	if _, err := c.LinkTo(netip.MustParseAddr("203.0.113.1")); !errors.Is(err, fault.NotFound) {
		t.Errorf("the way to nowhere: %v", err)
	}
}
