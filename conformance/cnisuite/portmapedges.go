package cnisuite

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/nodekit-project/nodekit/conformance"
	"github.com/nodekit-project/nodekit/internal/netns"
)

// portmapEdgeRules are about port mappings beyond TCP from other machines.
func portmapEdgeRules() []conformance.Rule[Target] {
	of := func(id, title string, check func(context.Context, *wires) error) conformance.Rule[Target] {
		return overWires(rule(id, conformance.Should, title+" (de facto)", "CONVENTIONS.md, Well-known Capabilities", mapping), check)
	}
	return []conformance.Rule[Target]{
		of("CNI-PORTMAP-011", "a mapped port of UDP is reached from another machine and from the host", checkDatagrams),
		of("CNI-PORTMAP-012", "a mapped port is reached at the host's 127.0.0.1", checkLocalhost),
		of("CNI-PORTMAP-013", "a mapping with an address or a port that is none is refused", checkBadMappings),
	}
}

func checkDatagrams(ctx context.Context, w *wires) error {
	c, err := w.container(portMapping{HostPort: mappedPort, ContainerPort: innerPort, Protocol: "udp"})
	if err != nil {
		return err
	}
	if err := w.serveDatagrams(c.ns, c.id, innerPort); err != nil {
		return err
	}
	if _, err := w.l.add(ctx, c); err != nil {
		return err
	}
	for _, from := range []struct{ name, ns string }{{"another machine", w.outside}, {"the host", w.l.host}} {
		word, err := w.askDatagram(from.ns, hostOut, mappedPort)
		if err == nil && word != c.id {
			err = fmt.Errorf("%q answered", word)
		}
		if err != nil {
			return fmt.Errorf("UDP port %d of %s does not lead to %s from %s: %w", mappedPort, hostOut, c.id, from.name, err)
		}
	}
	return nil
}

// checkLocalhost does not apply if the configuration, in the keys of the best-known
// plugin, leaves source addresses alone: a reply to 127.0.0.1 could not be routed.
func checkLocalhost(ctx context.Context, w *wires) error {
	if w.l.target.configures(func(key string, value any) bool { return key == "snat" && value == false }) {
		return conformance.NotApplicable("the configuration says snat: false")
	}
	if err := netns.Do(w.l.host, func() error { return w.address(loName) }); err != nil {
		return err
	}
	c, err := w.up(ctx, web())
	if err != nil {
		return err
	}
	return w.reach(c, "the host", w.l.host, "127.0.0.1", mappedPort)
}

func checkBadMappings(ctx context.Context, w *wires) error {
	for _, bad := range []struct {
		what  string
		spoil func(*portMapping)
	}{
		{`the hostIP "bogus"`, func(m *portMapping) { m.HostIP = "bogus" }},
		{"the hostPort 65536", func(m *portMapping) { m.HostPort = 65536 }},
		{"the containerPort -1", func(m *portMapping) { m.ContainerPort = -1 }},
	} {
		m := web()
		bad.spoil(&m)
		c, err := w.container(m)
		if err != nil {
			return err
		}
		out, err := w.l.call(ctx, "ADD", c, with{what: "ADD with a mapping of " + bad.what})
		if err != nil {
			return err
		}
		if err := out.failed(); err != nil {
			return err
		}
	}
	return nil
}

// serveDatagrams answers every packet to the UDP port in the namespace with a word.
func (w *wires) serveDatagrams(ns, word string, port int) error {
	return netns.Do(ns, func() error {
		s, err := net.ListenPacket("udp4", ":"+strconv.Itoa(port))
		if err != nil {
			return err
		}
		w.servers = append(w.servers, s)
		go func() {
			for {
				_, from, err := s.ReadFrom(make([]byte, 64))
				if err != nil && errors.Is(err, net.ErrClosed) {
					return
				}
				if err == nil {
					_, _ = s.WriteTo([]byte(word), from) // a client that does not receive it asks again
				}
			}
		}()
		return nil
	})
}

// askDatagram sends packets for a while, because the first may get lost, and returns
// the answer.
func (w *wires) askDatagram(ns, host string, port int) (word string, err error) {
	err = netns.Do(ns, func() error {
		conn, err := net.Dial("udp4", net.JoinHostPort(host, strconv.Itoa(port)))
		if err != nil {
			return err
		}
		defer conn.Close()
		buf := make([]byte, 64)
		for deadline := time.Now().Add(2 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			_ = conn.SetDeadline(time.Now().Add(200 * time.Millisecond))
			n := 0
			if _, err = conn.Write([]byte("?")); err == nil {
				n, err = conn.Read(buf)
			}
			if err == nil || time.Now().After(deadline) {
				word = string(buf[:n])
				return err
			}
		}
	})
	return word, err
}
