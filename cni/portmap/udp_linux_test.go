package portmap_test

import (
	"encoding/binary"
	"hash/crc32"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cni/portmap"
	"github.com/nodekit-project/nodekit/internal/netns"
	"github.com/nodekit-project/nodekit/internal/netnstest"
)

// inside runs fn in the namespace, "" for the current one.
func inside(t *testing.T, ns string, fn func() error) {
	t.Helper()
	err := error(nil)
	if ns == "" {
		err = fn()
	} else {
		err = netns.Do(ns, fn)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func listenUDP(t *testing.T, ns, addr string) (c *net.UDPConn) {
	t.Helper()
	inside(t, ns, func() (err error) {
		c, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(addr)))
		return err
	})
	t.Cleanup(func() { c.Close() })
	return c
}

func send(t *testing.T, c *net.UDPConn, to, text string) {
	t.Helper()
	// What nobody listens to is refused at the next call.
	for range 2 {
		if _, err := c.WriteToUDPAddrPort([]byte(text), netip.MustParseAddrPort(to)); err == nil {
			return
		}
	}
	t.Fatalf("sending to %s", to)
}

func receive(t *testing.T, c *net.UDPConn) (text, from string) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	n, addr, err := c.ReadFromUDPAddrPort(b)
	if err != nil {
		t.Fatalf("nothing arrived: %v", err)
	}
	return string(b[:n]), addr.Addr().Unmap().String()
}

func portOf(c *net.UDPConn) int { return c.LocalAddr().(*net.UDPAddr).Port }

// tracked returns the port from which each connection comes that connection tracking has
// of UDP for the destination.
func tracked(t *testing.T, to string) (from []int) {
	t.Helper()
	want := netip.MustParseAddrPort(to)
	list, err := netlink.ConntrackTableList(netlink.ConntrackTable, unix.AF_INET)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range list {
		if f.Forward.Protocol == unix.IPPROTO_UDP && f.Forward.DstPort == want.Port() && f.Forward.DstIP.String() == want.Addr().String() {
			from = append(from, int(f.Forward.SrcPort))
		}
	}
	return from
}

// testUDPClientsFollow: a client that never changes its port reaches whoever has
// the host port now.
func (l *lab) testUDPClientsFollow(t *testing.T) {
	a, b, outside := l.a, l.b, l.outside
	b.hold(t, portmap.Mapping{HostPort: 9999, ContainerPort: 9999}) // from now on connections are tracked
	client, elsewhere := listenUDP(t, outside, "192.0.2.2:5353"), listenUDP(t, outside, "192.0.2.2:5000")
	atA, atB, host := listenUDP(t, a.ns, "0.0.0.0:0"), listenUDP(t, b.ns, "0.0.0.0:0"), listenUDP(t, "", "0.0.0.0:5000")

	say := func(step string, arrives *net.UDPConn) {
		t.Helper()
		send(t, client, "192.0.2.1:5000", step)
		if text, from := receive(t, arrives); text != step || from != "192.0.2.2" {
			t.Errorf("%s: %q from %s", step, text, from)
		}
	}
	send(t, atA, "192.0.2.2:5000", "passing")
	receive(t, elsewhere)

	say("before", host)
	mapping := portmap.Mapping{HostPort: 5000, ContainerPort: portOf(atA), Protocol: "udp"}
	a.add(t, mapping)
	say("a has the port", atA)
	send(t, atA, "192.0.2.2:5000", "passing")
	receive(t, elsewhere)
	if got := tracked(t, "192.0.2.2:5000"); !slices.Contains(got, portOf(atA)) {
		t.Errorf("connections that pass through are forgotten too: %v", got)
	}
	a.del(t, mapping)
	if got := tracked(t, "192.0.2.1:5000"); len(got) != 0 {
		t.Errorf("after DEL connections are tracked to %v", got)
	}
	say("nobody has the port", host)
	b.hold(t, portmap.Mapping{HostPort: 5000, ContainerPort: portOf(atB), Protocol: "udp"})
	say("b has the port", atB)
	if got := tracked(t, "192.0.2.2:5000"); !slices.Contains(got, portOf(atA)) {
		t.Errorf("after DEL connections that pass through are forgotten: %v", got)
	}
	// Without documents DEL knows from the elements what to forget.
	if _, err := b.call("DEL", b.document(map[string]any{"prevResult": nil, "runtimeConfig": nil})); err != nil {
		t.Error(err)
	}
	if got := tracked(t, "192.0.2.1:5000"); len(got) != 0 {
		t.Errorf("after a DEL without documents connections are tracked to %v", got)
	}
}

// testSCTP sends the first packet of an association, for which no kernel support
// is needed at either end.
func (l *lab) testSCTP(t *testing.T) {
	a, outside := l.a, l.outside
	a.hold(t, portmap.Mapping{HostPort: 3868, ContainerPort: 3869, Protocol: "SCTP"})
	var server net.PacketConn
	inside(t, a.ns, func() (err error) {
		server, err = net.ListenPacket("ip4:132", "0.0.0.0")
		return err
	})
	defer server.Close()
	inside(t, outside, func() error {
		c, err := net.Dial("ip4:132", "192.0.2.1")
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Write(initChunk(40000, 3868))
		return err
	})
	if err := server.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	n, from, err := server.ReadFrom(b)
	if err != nil {
		t.Fatalf("no SCTP packet arrived in the container: %v", err)
	}
	if from.String() != "192.0.2.2" || n < 4 || binary.BigEndian.Uint16(b[2:]) != 3869 {
		t.Errorf("a packet from %s: %x", from, b[:n])
	}
}

// initChunk returns an SCTP packet with an INIT chunk (RFC 9260, section 3.3.2).
func initChunk(from, to uint16) []byte {
	p := binary.BigEndian.AppendUint16(nil, from)
	p = binary.BigEndian.AppendUint16(p, to)
	p = append(p, 0, 0, 0, 0, 0, 0, 0, 0) // verification tag, checksum
	p = append(p, 1, 0, 0, 20)            // INIT of 20 bytes
	p = append(p, 0, 0, 0, 1, 0, 1, 0, 0) // tag, window
	p = append(p, 0, 1, 0, 1, 0, 0, 0, 1) // streams, sequence number
	sum := crc32.Checksum(p, crc32.MakeTable(crc32.Castagnoli))
	binary.LittleEndian.PutUint32(p[8:], sum)
	return p
}

// testManyPorts forwards more ports than one rule of iptables's multiport, one
// message and one transaction hold.
func (l *lab) testManyPorts(t *testing.T) {
	a, b, outside := l.a, l.b, l.outside
	for _, count := range []int{16, 1200} {
		var mappings []portmap.Mapping
		for i := range count {
			mappings = append(mappings, portmap.Mapping{HostPort: 10000 + i, ContainerPort: a.port})
		}
		a.add(t, mappings...)
		if _, err := a.portmap("CHECK", mappings...); err != nil {
			t.Errorf("CHECK of %d ports: %v", count, err)
		}
		for _, port := range []int{10000, 10000 + count - 1} {
			if seen, err := netnstest.TryDial(outside, "192.0.2.1", port); err != nil || seen != "192.0.2.2" {
				t.Errorf("port %d: %q, %v", port, seen, err)
			}
		}
		// The last one is taken: nothing of the others may stay.
		clash := append([]portmap.Mapping{}, mappings...)
		for i := range clash[1:] {
			clash[i].HostPort += 20000
		}
		before := rules(t)
		_, err := b.portmap("ADD", clash...)
		wantCode(t, "a conflict of the last port", err, 102, "/tcp", "pm/a/eth0")
		if after := rules(t); after != before {
			t.Error("the ADD that was refused left something behind")
		}
		a.del(t, mappings...)
	}
	if left := elements(t); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}
