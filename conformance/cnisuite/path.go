package cnisuite

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/nodekit-project/nodekit/conformance"
	"github.com/nodekit-project/nodekit/internal/netns"
)

// pathRules are about what happens to packets on their way.
func pathRules() []conformance.Rule[Target] {
	const masquerade = "ipMasq (boolean): If supported by the plugin, sets up an IP masquerade on the host for this network."
	const connects = "\"Interface\" plugins, which create a network interface inside the container and ensure it has connectivity."
	of := func(id, title, section, sentence string, check func(context.Context, *attached) error) conformance.Rule[Target] {
		return checked(rule(id, conformance.Should, title+" (de facto)", section, sentence), overPath(check))
	}
	return []conformance.Rule[Target]{
		of("CNI-DATA-004", "with ipMasq a container's packets to other machines have the host's address", "Plugin configuration objects", masquerade, checkMasquerade),
		of("CNI-DATA-005", "with ipMasq packets between containers of the network keep their address", "Plugin configuration objects", masquerade, checkNotMasqueraded),
		of("CNI-DATA-006", "a packet as large as the interface allows passes between containers", "Section 2, Overview", connects, checkFullSize),
	}
}

// masquerades returns NotApplicable for configurations without ipMasq.
func (l *lab) masquerades() error {
	if !l.target.configures(func(key string, value any) bool { return key == "ipMasq" && value == true }) {
		return conformance.NotApplicable("the configuration has no ipMasq: true")
	}
	return nil
}

func checkMasquerade(ctx context.Context, a *attached) (err error) {
	if err := a.masquerades(); err != nil {
		return err
	}
	if len(a.gateways) == 0 {
		return conformance.NotApplicable("the host has no gateway of the result")
	}
	w, err := a.machine()
	defer func() { err = errors.Join(err, w.close()) }()
	if err != nil {
		return err
	}
	for _, gateway := range a.gateways {
		to, host := net.ParseIP(outsideAddress), net.ParseIP(hostOut)
		if gateway.To4() == nil {
			to, host = net.ParseIP(outsideAddress6), net.ParseIP(hostOut6)
		}
		if err := a.route(to, gateway); err != nil {
			return err
		}
		source, err := a.source(ctx, w.outside, to)
		if err != nil {
			return fmt.Errorf("from the container by the gateway %s to another machine: %w", gateway, err)
		}
		if !source.Equal(host) {
			return fmt.Errorf("another machine saw a packet of the container come from %s instead of the host's %s", source, host)
		}
	}
	return nil
}

// route routes the first container's packets to the address via the gateway, unless a
// route of the plugin's covers the address.
func (a *attached) route(to, gateway net.IP) error {
	return netns.Do(a.containers[0].ns, func() error {
		if _, err := netlink.RouteGet(to); err == nil {
			return nil
		}
		return netlink.RouteAdd(&netlink.Route{Dst: netlink.NewIPNet(to), Gw: gateway})
	})
}

func checkNotMasqueraded(ctx context.Context, a *attached) error {
	if err := a.masquerades(); err != nil {
		return err
	}
	for i, to := range a.addresses[1] {
		source, err := a.source(ctx, a.containers[1].ns, to)
		if err != nil {
			return fmt.Errorf("from the container with %s to the one with %s: %w", a.addresses[0][i], to, err)
		}
		if !source.Equal(a.addresses[0][i]) {
			return fmt.Errorf("the container with %s saw a packet of the one with %s come from %s", to, a.addresses[0][i], source)
		}
	}
	return nil
}

// source makes the first container connect to an address in a namespace, and returns
// the source address seen there.
func (a *attached) source(ctx context.Context, ns string, ip net.IP) (net.IP, error) {
	ctx, cancel := context.WithTimeout(ctx, reachTime)
	defer cancel()
	listener, err := a.listen(ctx, ns, ip)
	if err != nil {
		return nil, err
	}
	defer listener.Close()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, conn.RemoteAddr().(*net.TCPAddr).IP.String())
			conn.Close()
		}
	}()
	var told string
	err = retried(ctx, func() error {
		told, err = a.hear(ctx, listener.Addr().String())
		return err
	})
	return net.ParseIP(told), err
}

// hear returns what the server tells the first container. It does not wait long: the
// kernel drops what is sent in the first moment of an interface, and TCP retries only
// after a second.
func (a *attached) hear(ctx context.Context, address string) (told string, err error) {
	err = netns.Do(a.containers[0].ns, func() error {
		dialer := net.Dialer{Timeout: exchangeTime / 10, FallbackDelay: -1}
		conn, err := dialer.DialContext(ctx, "tcp", address)
		if err != nil {
			return err
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(exchangeTime))
		text, err := io.ReadAll(conn)
		told = string(text)
		return err
	})
	return told, err
}

// retried tries until it succeeds or the context ends: a path may take a moment to
// come up.
func retried(ctx context.Context, try func() error) error {
	for {
		err := try()
		if err == nil || ctx.Err() != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// checkFullSize sends UDP, which no device segments, as some do with TCP. The kernel
// obeys a router that asks for smaller packets.
func checkFullSize(ctx context.Context, a *attached) error {
	mtu := []int{}
	for _, c := range a.containers {
		seen, err := c.look()
		if err != nil {
			return err
		}
		if seen == nil {
			return conformance.NotApplicable("ADD makes no interface %q in the kernel", c.ifName)
		}
		mtu = append(mtu, seen.mtu)
	}
	for i, to := range a.addresses[1] {
		headers := 20 + 8
		if to.To4() == nil {
			headers = 40 + 8
		}
		const most = 65507 // bytes that fit in UDP
		if err := a.reach(ctx, a.containers[0].ns, a.containers[1].ns, to); err != nil {
			return conformance.NotApplicable("packets of no size get from the container with %s to the one with %s: %v", a.addresses[0][i], to, err)
		}
		if err := a.datagram(ctx, to, min(slices.Min(mtu)-headers, most)); err != nil {
			return fmt.Errorf("a packet of %d bytes, the interfaces' MTU, from the container with %s to the one with %s and back: %w",
				slices.Min(mtu), a.addresses[0][i], to, err)
		}
	}
	return nil
}

// datagram sends a packet with the given payload size from the first container to the
// second, and expects it back.
func (a *attached) datagram(ctx context.Context, to net.IP, size int) error {
	ctx, cancel := context.WithTimeout(ctx, exchangeTime)
	defer cancel()
	var server net.PacketConn
	err := netns.Do(a.containers[1].ns, func() (err error) {
		server, err = net.ListenPacket("udp", net.JoinHostPort(to.String(), "0"))
		return err
	})
	if err != nil {
		return err
	}
	defer server.Close()
	go func() {
		buf := make([]byte, size)
		for {
			n, from, err := server.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = server.WriteTo(buf[:n], from)
		}
	}()
	port := strconv.Itoa(server.LocalAddr().(*net.UDPAddr).Port)
	return retried(ctx, func() error { return a.bounce(net.JoinHostPort(to.String(), port), size) })
}

func (a *attached) bounce(address string, size int) error {
	return netns.Do(a.containers[0].ns, func() error {
		conn, err := net.Dial("udp", address)
		if err != nil {
			return err
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(exchangeTime / 10))
		if _, err := conn.Write(make([]byte, size)); err != nil {
			return err
		}
		n, err := conn.Read(make([]byte, size))
		if err == nil && n != size {
			err = fmt.Errorf("%d of %d bytes came back", n, size)
		}
		return err
	})
}
