package cnibench

import (
	"context"
	"errors"
	"net"
	"path/filepath"

	"github.com/vishvananda/netlink"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/internal/bench"
	"github.com/nodekit-project/nodekit/internal/netns"
)

// floors measures what no plugin can be faster than.
func (l *lab) floors(ctx context.Context) (err error) {
	version := map[string]string{"CNI_COMMAND": "VERSION"}
	sides := []bench.Side{
		execution("exec /bin/true", "/bin/true", nil),
		execution("exec nodekit's bridge, VERSION", filepath.Join(home, "bin", "bridge"), version),
	}
	sides = append(sides, execution("exec the shim, the daemon answers VERSION", filepath.Join(home, "shims", "bridge"), version))
	if l.Upstream != "" {
		sides = append(sides,
			execution("exec upstream's bridge, VERSION", filepath.Join(l.Upstream, "bridge"), version),
			execution("exec a Go program that does nothing", filepath.Join(l.Upstream, "nothing"), nil))
	}
	w, err := newWires()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	sides = append(sides, bench.Side{Name: "veth, bridge port, address and route, in process", Run: func(context.Context) (bench.Sample, error) { return l.wire(w) }})
	return l.measure(ctx, "what the machine asks for at least", l.Rounds, sides)
}

func execution(name, file string, env map[string]string) bench.Side {
	stdin := []byte(`{"cniVersion":"1.1.0"}`)
	return bench.Side{Name: name, Run: func(ctx context.Context) (bench.Sample, error) {
		return bench.Timed(func() error {
			_, err := cni.Exec(ctx, file, env, stdin, nil)
			return err
		})
	}}
}

// wires is a bridge for the floor of a plugin's work in the kernel.
type wires struct {
	host   *netlink.Handle
	bridge netlink.Link
}

func newWires() (*wires, error) {
	host, err := netlink.NewHandle()
	if err != nil {
		return nil, err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr = "floor0", net.HardwareAddr{2, 0, 0, 0, 0, 1}
	br := &netlink.Bridge{LinkAttrs: attrs}
	return &wires{host: host, bridge: br}, errors.Join(host.LinkAdd(br), host.LinkSetUp(br))
}

func (w *wires) close() error {
	defer w.host.Close()
	return w.host.LinkDel(w.bridge)
}

// wire does by hand what ADD of bridge comes to, and undoes it.
func (l *lab) wire(w *wires) (s bench.Sample, err error) {
	p, err := l.newPod()
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, netns.Remove(p.ns)) }()
	s, err = bench.Timed(func() error { return w.add(p) })
	if err != nil {
		return s, err
	}
	del, err := bench.Timed(func() error { return w.del(p) })
	s.Steps = []bench.Step{{Name: "deletion of the veth", Took: del.Total}}
	return s, err
}

// add makes the Pod's pair, its address and its route, with nothing looked up.
func (w *wires) add(p *pod) error {
	ns, err := netns.Open(p.ns)
	if err != nil {
		return err
	}
	defer ns.Close()
	var inside *netlink.Handle
	err = ns.Do(func() (err error) {
		inside, err = netlink.NewHandle()
		return err
	})
	if err != nil {
		return err
	}
	defer inside.Close()
	pair := w.pair(p)
	pair.PeerName, pair.PeerNamespace = "eth0", netlink.NsFd(ns.FD())
	return errors.Join(w.host.LinkAdd(pair), equip(inside))
}

func (w *wires) del(p *pod) error { return w.host.LinkDel(w.pair(p)) }

func (w *wires) pair(p *pod) *netlink.Veth {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MasterIndex, attrs.Flags = p.id, w.bridge.Attrs().Index, net.FlagUp
	return &netlink.Veth{LinkAttrs: attrs}
}

func equip(inside *netlink.Handle) error {
	eth0, err := inside.LinkByName("eth0")
	if err != nil {
		return err
	}
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(10, 250, 0, 2).To4(), Mask: net.CIDRMask(24, 32)}}
	return errors.Join(
		inside.AddrAdd(eth0, addr), inside.LinkSetUp(eth0),
		inside.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index, Gw: net.IPv4(10, 250, 0, 1).To4()}),
	)
}
