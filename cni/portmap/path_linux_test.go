package portmap_test

import (
	"net"
	"os"
	"strconv"
	"testing"

	"github.com/nodekit-project/nodekit/cni/portmap"
	"github.com/nodekit-project/nodekit/internal/netnstest"
)

func (l *lab) testPaths(t *testing.T) {
	a, b, outside := l.a, l.b, l.outside
	mapping := portmap.Mapping{HostPort: 8080, ContainerPort: a.port, Protocol: "TCP"}
	a.add(t, mapping)
	if _, err := a.portmap("CHECK", mapping); err != nil {
		t.Error(err)
	}
	type path struct{ name, from, to, seen string }
	try := func(paths ...path) {
		t.Helper()
		for _, c := range paths {
			if seen, err := netnstest.TryDial(c.from, c.to, 8080); err != nil || seen != c.seen {
				t.Errorf("%s: the server saw %q instead of %q (%v)", c.name, seen, c.seen, err)
			}
		}
	}
	try(
		path{"from outside", outside, "192.0.2.1", "192.0.2.2"},
		path{"from outside to the bridge", outside, "10.55.0.1", "192.0.2.2"},
		path{"from the host", "", "192.0.2.1", "192.0.2.1"},
		path{"from the host to localhost", "", "127.0.0.1", "10.55.0.1"},
		path{"IPv6 from outside", outside, "2001:db8::1", "2001:db8::2"},
		path{"IPv6 from the host", "", "2001:db8::1", "2001:db8::1"},
	)
	// Where a bridge's frames are tracked, answers between its ports are, too.
	filtered := func(on string) {
		if _, err := os.Stat("/proc/sys/net/bridge"); err == nil {
			netnstest.Run(t, "", "sysctl", "-qw", "net.bridge.bridge-nf-call-iptables="+on, "net.bridge.bridge-nf-call-ip6tables="+on)
		}
	}
	filtered("0")
	try(
		path{"from itself", a.ns, "192.0.2.1", "10.55.0.1"},
		path{"from a neighbour", b.ns, "192.0.2.1", "10.55.0.1"},
		path{"from a neighbour to the bridge", b.ns, "10.55.0.1", "10.55.0.1"},
		path{"IPv6 from itself", a.ns, "fd55::ff", "fd55::ff"},
		path{"IPv6 from a neighbour", b.ns, "2001:db8::1", "fd55::ff"},
	)
	if _, err := os.Stat("/proc/sys/net/bridge"); err == nil {
		filtered("1")
		try(
			path{"tracked, from itself", a.ns, "192.0.2.1", "10.55.0.1"},
			path{"tracked, from a neighbour", b.ns, "192.0.2.1", b.ip},
			path{"tracked, IPv6 from itself", a.ns, "fd55::ff", "fd55::ff"},
			path{"tracked, IPv6 from a neighbour", b.ns, "2001:db8::1", b.ip6},
		)
	}
	a.del(t, mapping)
	for _, to := range []string{"192.0.2.1", "2001:db8::1"} {
		if _, err := netnstest.TryDial(outside, to, 8080); err == nil {
			t.Errorf("the port of %s is still forwarded", to)
		}
	}
}

// testPassingThrough: a packet that passes through this host on its way to some
// other machine is never caught, whatever its port (GHSA-jv3w-x3r3-g6rm).
func (l *lab) testPassingThrough(t *testing.T) {
	a, b, outside := l.a, l.b, l.outside
	elsewhere := netnstest.Listen(t, outside)
	// The mapping leads to a server that does not tell whom it saw.
	answer(t, b.ns, ":7070")
	b.hold(t,
		portmap.Mapping{HostPort: elsewhere, ContainerPort: 7070},
		portmap.Mapping{HostPort: a.port, ContainerPort: 7070},
	)
	for _, c := range []struct {
		name, from, to string
		port           int
		seen           string
	}{
		{"from a container", a.ns, "192.0.2.2", elsewhere, a.ip},
		{"from a container over IPv6", a.ns, "2001:db8::2", elsewhere, a.ip6},
		{"to a container", outside, a.ip, a.port, "192.0.2.2"},
		{"to a container over IPv6", outside, a.ip6, a.port, "2001:db8::2"},
		{"from the host", "", "192.0.2.2", elsewhere, "192.0.2.1"},
		{"to the very container", outside, b.ip, b.port, "192.0.2.2"},
	} {
		if seen, err := netnstest.TryDial(c.from, c.to, c.port); err != nil || seen != c.seen {
			t.Errorf("%s: the server saw %q instead of %q (%v)", c.name, seen, c.seen, err)
		}
	}
	if seen, err := netnstest.TryDial(outside, "192.0.2.1", elsewhere); err != nil || seen != "local" {
		t.Errorf("the mapping itself: %q (%v)", seen, err)
	}
	// A DNAT of somebody else to the same container is none of ours either.
	netnstest.Run(t, "", "nft", "add", "table", "ip", "other")
	t.Cleanup(func() { netnstest.Run(t, "", "nft", "delete", "table", "ip", "other") })
	netnstest.Run(t, "", "nft", "add chain ip other pre { type nat hook prerouting priority -110; }")
	netnstest.Run(t, "", "nft", "add", "rule", "ip", "other", "pre", "ip", "daddr", "198.51.100.1", "tcp", "dport", "7777", "dnat", "to", b.ip+":"+strconv.Itoa(b.port))
	if seen, err := netnstest.TryDial(outside, "198.51.100.1", 7777); err != nil || seen != "192.0.2.2" {
		t.Errorf("somebody else's DNAT: the server saw %q (%v)", seen, err)
	}
}

func (l *lab) testHostIP(t *testing.T) {
	a, b, outside := l.a, l.b, l.outside
	a.hold(t,
		portmap.Mapping{HostPort: 8081, ContainerPort: a.port, HostIP: "192.0.2.1"},
		portmap.Mapping{HostPort: 8082, ContainerPort: a.port, HostIP: "0.0.0.0"},
		portmap.Mapping{HostPort: 8083, ContainerPort: a.port, HostIP: "::"},
		portmap.Mapping{HostPort: 8084, ContainerPort: a.port, HostIP: "127.0.0.1"},
		portmap.Mapping{HostPort: 8085, ContainerPort: a.port, HostIP: "2001:db8::1"},
	)
	b.hold(t, portmap.Mapping{HostPort: 8081, ContainerPort: b.port, HostIP: "10.55.0.1"})
	for _, c := range []struct {
		from, to string
		port     int
		seen     string // empty: it is not forwarded
	}{
		{outside, "192.0.2.1", 8081, "192.0.2.2"},
		{a.ns, "192.0.2.1", 8081, "10.55.0.1"},
		{"", "127.0.0.1", 8081, ""},
		{outside, "192.0.2.1", 8082, "192.0.2.2"},
		{outside, "2001:db8::1", 8082, ""},
		{outside, "192.0.2.1", 8083, ""},
		{outside, "2001:db8::1", 8083, "2001:db8::2"},
		{"", "127.0.0.1", 8084, "10.55.0.1"},
		{outside, "192.0.2.1", 8084, ""},
		{outside, "2001:db8::1", 8085, "2001:db8::2"},
		{outside, "fd55::ff", 8085, ""},
	} {
		seen, err := netnstest.TryDial(c.from, c.to, c.port)
		if seen != c.seen || (err == nil) != (c.seen != "") {
			t.Errorf("%s port %d: the server saw %q instead of %q (%v)", c.to, c.port, seen, c.seen, err)
		}
	}
	// Each of two containers has the port of one address.
	if seen, err := netnstest.TryDial(b.ns, "10.55.0.1", 8081); err != nil || seen != "10.55.0.1" {
		t.Errorf("b to itself: the server saw %q (%v)", seen, err)
	}
}

// answer serves TCP in the namespace until the test ends, with a word that is no
// address of a client.
func answer(t *testing.T, ns, addr string) {
	t.Helper()
	var l net.Listener
	inside(t, ns, func() (err error) {
		l, err = net.Listen("tcp", addr)
		return err
	})
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("local"))
			c.Close()
		}
	}()
}

func (l *lab) testLoopbackIsShared(t *testing.T) {
	a := l.a
	answer(t, "", "127.0.0.53:8080")
	answer(t, "", "[::1]:8080")
	answer(t, "", "127.0.0.1:8081")
	a.hold(t, portmap.Mapping{HostPort: 8080, ContainerPort: a.port})
	for to, want := range map[string]string{"127.0.0.1": "10.55.0.1", "127.0.0.53": "local", "::1": "local"} {
		if seen, err := netnstest.TryDial("", to, 8080); err != nil || seen != want {
			t.Errorf("%s: %q instead of %q (%v)", to, seen, want, err)
		}
	}
	b := l.b
	b.set(t, "snat", false)
	b.hold(t, portmap.Mapping{HostPort: 8081, ContainerPort: b.port})
	if seen, err := netnstest.TryDial("", "127.0.0.1", 8081); err != nil || seen != "local" {
		t.Errorf("without snat: %q (%v)", seen, err)
	}
	if seen, err := netnstest.TryDial("", "10.55.0.1", 8081); err != nil || seen != "10.55.0.1" {
		t.Errorf("without snat, to the host's address: %q (%v)", seen, err)
	}
}

// TestLoopbackIsGuarded: what is opened for 127.0.0.1 must not let containers
// reach servers that the host keeps to itself (CVE-2020-8558).
func TestLoopbackIsGuarded(t *testing.T) {
	newBridge(t)
	a, b := newPod(t, "a", 2), newPod(t, "b", 3)
	mapping := portmap.Mapping{HostPort: 8080, ContainerPort: a.port}
	a.add(t, mapping)
	// b sends packets for 127.0.0.1 to its gateway.
	netnstest.Run(t, b.ns, "ip", "addr", "flush", "dev", "lo")
	netnstest.Run(t, b.ns, "sysctl", "-qw", "net.ipv4.conf.eth0.route_localnet=1")
	netnstest.Run(t, b.ns, "ip", "route", "add", "127.0.0.1/32", "via", "10.55.0.1", "src", b.ip)
	host, container := listenUDP(t, "", "0.0.0.0:7000"), listenUDP(t, b.ns, "0.0.0.0:0")
	attack := func() (first string) {
		send(t, container, "127.0.0.1:7000", "attack")
		send(t, container, "10.55.0.1:7000", "fair")
		first, _ = receive(t, host)
		return first
	}
	if attack() != "fair" {
		t.Error("a container reached the host's 127.0.0.1")
	}
	netnstest.Run(t, "", "nft", "flush", "chain", "inet", testTable, "guard")
	if attack() != "attack" {
		t.Error("the attack does not even work without the guard")
	}
	_, err := a.portmap("CHECK", mapping)
	wantCode(t, "CHECK without the guard", err, 103, `"guard"`)
	// Nobody opens an interface without the guard.
	netnstest.Run(t, "", "sysctl", "-qw", "net.ipv4.conf.pm0.route_localnet=0")
	b.add(t, portmap.Mapping{HostPort: 8081, ContainerPort: b.port})
	if _, err := a.portmap("CHECK", mapping); err != nil {
		t.Errorf("after another ADD: %v", err)
	}
}

func (l *lab) testMasqAll(t *testing.T) {
	a, outside := l.a, l.outside
	a.set(t, "masqAll", true)
	a.set(t, "markMasqBit", 13)
	a.hold(t, portmap.Mapping{HostPort: 8080, ContainerPort: a.port})
	for to, want := range map[string]string{"192.0.2.1": "10.55.0.1", "2001:db8::1": "fd55::ff"} {
		if seen, err := netnstest.TryDial(outside, to, 8080); err != nil || seen != want {
			t.Errorf("the server saw %q instead of %q (%v)", seen, want, err)
		}
	}
	if seen, err := netnstest.TryDial(outside, a.ip, a.port); err != nil || seen != "192.0.2.2" {
		t.Errorf("a connection that is not forwarded: the server saw %q (%v)", seen, err)
	}
}
