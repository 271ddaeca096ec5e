package cnisuite

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/nodekit-project/nodekit/conformance"
	"github.com/nodekit-project/nodekit/internal/netns"
)

// dataRules are about the purpose of interfaces.
func dataRules() []conformance.Rule[Target] {
	const sentence = "\"Interface\" plugins, which create a network interface inside the container and ensure it has connectivity."
	path := func(id, title string, check func(context.Context, *attached) error) conformance.Rule[Target] {
		return checked(rule(id, conformance.Should, title+" (de facto)", "Section 2, Overview", sentence), overPath(check))
	}
	return []conformance.Rule[Target]{
		path("CNI-DATA-001", "containers of a network reach each other", podToPod),
		path("CNI-DATA-002", "a container reaches its gateway where the host is that", podToGateway),
		path("CNI-DATA-003", "the host reaches a container where it is the container's gateway", hostToPod),
	}
}

// reachTime is how long a path may take to come up: duplicate address detection alone
// takes up to two seconds. exchangeTime bounds one attempt.
const reachTime, exchangeTime = 10 * time.Second, 2 * time.Second

// attached are two containers with addresses.
type attached struct {
	*lab
	containers [2]*container
	addresses  [2][]net.IP // one of each family; both have the same families in the same order
	gateways   []net.IP    // of the first container, if they are the host's
}

// overPath attaches two containers.
func overPath(check func(context.Context, *attached) error) func(context.Context, *lab) error {
	return func(ctx context.Context, l *lab) error {
		if err := l.enters(); err != nil {
			return err
		}
		if l.target.Static {
			return conformance.NotApplicable("two containers may have the same address")
		}
		a := &attached{lab: l}
		for i := range a.containers {
			c, r, err := l.dual(ctx)
			if err != nil {
				return err
			}
			a.containers[i] = c
			a.addresses[i] = r.families(c)
			if i == 0 {
				if a.gateways, err = l.gateways(r); err != nil {
					return err
				}
			}
		}
		if len(a.addresses[0]) == 0 || len(a.addresses[0]) != len(a.addresses[1]) {
			return conformance.NotApplicable("the result has no addresses of the container")
		}
		return check(ctx, a)
	}
}

// dual attaches a container with addresses of both families, if the suite assigns
// them and the plugin accepts them.
func (l *lab) dual(ctx context.Context) (*container, *result, error) {
	c, err := l.newContainer()
	if err != nil {
		return nil, nil, err
	}
	if l.target.delegates() && l.speaks("1.0.0") {
		both := fmt.Sprintf(`{"cniVersion":%q,"ips":[{"address":"10.123.100.%d/16","gateway":"10.123.0.1"},{"address":"fd00:123::%d/64","gateway":"fd00:123::1"}]}`,
			l.version, l.count+1, l.count+1)
		if err := l.ipam.result(c, both); err != nil {
			return nil, nil, err
		}
		out, err := l.call(ctx, "ADD", c, with{})
		if err != nil {
			return nil, nil, err
		}
		var r result
		if out.ok(&r) == nil {
			c.result = out.stdout
			return c, &r, nil
		}
		if err := errors.Join(l.del(ctx, c, "DEL"), l.ipam.prepare(c, l.version, l.count)); err != nil {
			return nil, nil, err
		}
	}
	r, err := l.add(ctx, c)
	return c, r, err
}

// families returns the first address of each family on the container's interface.
func (r *result) families(c *container) (found []net.IP) {
	var four, six net.IP
	for _, told := range r.IPs {
		if told.Interface != nil && *told.Interface != r.inside(c.ifName, c.ns) {
			continue
		}
		ip, _, err := net.ParseCIDR(told.Address)
		switch {
		case err != nil:
		case ip.To4() != nil && four == nil:
			four = ip
		case ip.To4() == nil && six == nil:
			six = ip
		}
	}
	for _, ip := range []net.IP{four, six} {
		if ip != nil {
			found = append(found, ip)
		}
	}
	return found
}

// gateways returns the result's gateways that are addresses of the host.
func (l *lab) gateways(r *result) (found []net.IP, err error) {
	err = netns.Do(l.host, func() error {
		all, err := net.InterfaceAddrs()
		for _, told := range r.IPs {
			gateway := net.ParseIP(told.Gateway)
			for _, have := range all {
				if ip, _, err := net.ParseCIDR(have.String()); err == nil && gateway != nil && ip.Equal(gateway) {
					found = append(found, gateway)
				}
			}
		}
		return err
	})
	return found, err
}

func podToPod(ctx context.Context, a *attached) error {
	for i, to := range a.addresses[1] {
		if err := a.reach(ctx, a.containers[0].ns, a.containers[1].ns, to); err != nil {
			return fmt.Errorf("from the container with %s to the one with %s: %w", a.addresses[0][i], to, err)
		}
	}
	return nil
}

func podToGateway(ctx context.Context, a *attached) error {
	if len(a.gateways) == 0 {
		return conformance.NotApplicable("the host has no gateway of the result")
	}
	for _, gateway := range a.gateways {
		if err := a.reach(ctx, a.containers[0].ns, a.host, gateway); err != nil {
			return fmt.Errorf("from the container to its gateway %s: %w", gateway, err)
		}
	}
	return nil
}

func hostToPod(ctx context.Context, a *attached) error {
	if len(a.gateways) == 0 {
		return conformance.NotApplicable("the host has no gateway of the result")
	}
	for _, to := range a.addresses[0] {
		via := func(gateway net.IP) bool { return (gateway.To4() == nil) == (to.To4() == nil) }
		if !slices.ContainsFunc(a.gateways, via) {
			continue
		}
		if err := a.reach(ctx, a.host, a.containers[0].ns, to); err != nil {
			return fmt.Errorf("from the host to the container's %s: %w", to, err)
		}
	}
	return nil
}

// reach opens a TCP connection from one namespace to an address in another, and sends
// a few packets' worth of bytes in both directions.
func (a *attached) reach(ctx context.Context, from, to string, ip net.IP) error {
	ctx, cancel := context.WithTimeout(ctx, reachTime)
	defer cancel()
	listener, err := a.listen(ctx, to, ip)
	if err != nil {
		return err
	}
	defer listener.Close()
	go echo(listener)
	port := strconv.Itoa(listener.Addr().(*net.TCPAddr).Port)
	return retried(ctx, func() error { return exchange(ctx, from, net.JoinHostPort(ip.String(), port)) })
}

// listen waits until the address is no longer tentative (IPv6).
func (a *attached) listen(ctx context.Context, ns string, ip net.IP) (listener net.Listener, err error) {
	for {
		err = netns.Do(ns, func() error {
			var config net.ListenConfig
			listener, err = config.Listen(ctx, "tcp", net.JoinHostPort(ip.String(), "0"))
			return err
		})
		if err == nil || !errors.Is(err, syscall.EADDRNOTAVAIL) {
			return listener, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// echo serves one connection after the other until the listener is closed.
func echo(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		_ = conn.SetDeadline(time.Now().Add(exchangeTime))
		buf := make([]byte, len(payload()))
		if n, err := io.ReadFull(conn, buf); err == nil {
			_, _ = conn.Write(buf[:n])
		}
		conn.Close()
	}
}

func payload() string { return strings.Repeat("the suite's bytes ", 1000) }

// exchange sends the payload and expects it back.
func exchange(ctx context.Context, from, address string) error {
	var conn net.Conn
	if err := netns.Do(from, func() (err error) {
		dialer := net.Dialer{Timeout: exchangeTime / 2, FallbackDelay: -1}
		conn, err = dialer.DialContext(ctx, "tcp", address)
		return err
	}); err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(exchangeTime))
	if _, err := conn.Write([]byte(payload())); err != nil {
		return err
	}
	buf := make([]byte, len(payload()))
	if n, err := io.ReadFull(conn, buf); err != nil {
		return fmt.Errorf("after %d of %d bytes: %w", n, len(buf), err)
	}
	if string(buf) != payload() {
		return errors.New("other bytes came back")
	}
	return nil
}
