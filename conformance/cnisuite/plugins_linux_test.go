package cnisuite_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/conformance/cnisuite"
	"github.com/nodekit-project/nodekit/internal/redump"
)

// The plugins of these tests are this binary under other names.
const prefix = "test-plugin-"

func TestMain(m *testing.M) {
	name, isPlugin := strings.CutPrefix(filepath.Base(os.Args[0]), prefix)
	if !isPlugin {
		os.Exit(m.Run())
	}
	for _, table := range []map[string]func() int{rawPlugins(), exchanges(), rawAttachers(), rawDetachers(), collectors(), pools(), bootedPools(), mappers(), moreMappers(), paths(), loopbacks(), harmful(), daemons(), hostiles()} {
		if plugin := table[name]; plugin != nil {
			os.Exit(plugin())
		}
	}
	p := good()
	for _, table := range []map[string]func(*cni.Plugin){observers(), changes(), attachers(), detachers(), leavers(), adjusters(), hasty(), survivors()} {
		if change := table[name]; change != nil {
			change(p)
		}
	}
	cni.Main(p)
}

// target returns a plugin of these tests under its name.
func target(t testing.TB, name string) cnisuite.Target {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), prefix+name)
	if err := os.Symlink(self, link); err != nil {
		t.Fatal(err)
	}
	return cnisuite.Target{Binary: link, Config: `{"ipam":{"type":"suite-ipam"},"state":"${DIR}"}`}
}

type config struct {
	IPAM  cni.IPAM `json:"ipam"`
	State string   `json:"state"`
}

// good is a plugin without fault: a veth pair whose host's end has a name that
// follows from the attachment.
func good() *cni.Plugin {
	return cni.New("good", cni.Handlers[config]{Add: add, Del: del, Check: check("")})
}

func hostEnd(r *cni.Request) string {
	sum := sha256.Sum256([]byte(r.Attachment.String()))
	return fmt.Sprintf("good%x", sum[:4])
}

func add(ctx context.Context, r *cni.Request, c *config) (*cni.Result, error) {
	if err := r.InNetNS(func() error {
		if _, err := netlink.LinkByName(r.IfName); err == nil {
			return cni.Errorf(cni.CodeExists, "%q exists", r.IfName)
		}
		return nil
	}); err != nil {
		return nil, err
	}
	result := &cni.Result{}
	if c.IPAM.Type != "" {
		var err error
		if result, err = r.Delegate(c.IPAM.Type).Add(ctx); err != nil {
			return nil, err
		}
	}
	ns, err := os.Open(r.NetNS)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = hostEnd(r)
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: r.IfName, PeerNamespace: netlink.NsFd(int(ns.Fd()))}); err != nil {
		return nil, err
	}
	r.Undo("veth pair", func(context.Context) error { return remove(attrs.Name) })
	host, err := netlink.LinkByName(attrs.Name)
	if err != nil {
		return nil, err
	}
	err = r.InNetNS(func() error {
		l, err := netlink.LinkByName(r.IfName)
		if err != nil {
			return err
		}
		result.Interfaces = []*types100.Interface{
			{Name: r.IfName, Sandbox: r.NetNS, Mac: l.Attrs().HardwareAddr.String(), Mtu: l.Attrs().MTU},
			{Name: attrs.Name, Mac: host.Attrs().HardwareAddr.String(), Mtu: host.Attrs().MTU},
		}
		for _, ip := range result.IPs {
			ip.Interface = types100.Int(0)
			if err := netlink.AddrAdd(l, &netlink.Addr{IPNet: &ip.Address}); err != nil {
				return err
			}
		}
		if err := netlink.LinkSetUp(l); err != nil {
			return err
		}
		for _, route := range result.Routes {
			if err := addRoute(l, route); err != nil {
				return err
			}
		}
		return nil
	})
	return cni.Merge(r.PrevResult, result), err
}

func addRoute(l netlink.Link, told *types.Route) error {
	route := netlink.Route{LinkIndex: l.Attrs().Index, Dst: &told.Dst, Gw: told.GW, MTU: told.MTU, AdvMSS: told.AdvMSS, Priority: told.Priority}
	if told.Table != nil {
		route.Table = *told.Table
	}
	if told.Scope != nil {
		route.Scope = netlink.Scope(*told.Scope)
	}
	return netlink.RouteAdd(&route)
}

// check finds everything but what it is told to overlook.
func check(blind string) func(context.Context, *cni.Request, *config) error {
	return func(_ context.Context, r *cni.Request, _ *config) error {
		return r.InNetNS(func() error {
			l, err := netlink.LinkByName(r.IfName)
			if err != nil {
				return unless(blind == "link", "interface %q is missing", r.IfName)
			}
			for i, iface := range r.PrevResult.Interfaces {
				if iface.Name != r.IfName || iface.Sandbox != r.NetNS {
					continue
				}
				if iface.Mac != "" && iface.Mac != l.Attrs().HardwareAddr.String() && blind != "mac" {
					return cni.Errorf(cni.CodeNotAsExpected, "%q has another hardware address", r.IfName)
				}
				if err := checkAddresses(r, l, i); err != nil && blind != "address" {
					return err
				}
			}
			if l.Attrs().Flags&net.FlagUp == 0 {
				return unless(blind == "up", "%q is down", r.IfName)
			}
			if blind == "route" || blind == "address" { // the route goes with the address
				return nil
			}
			return checkRoutes(r, l)
		})
	}
}

func unless(blind bool, format string, args ...any) error {
	if blind {
		return nil
	}
	return cni.Errorf(cni.CodeNotAsExpected, format, args...)
}

func checkAddresses(r *cni.Request, l netlink.Link, index int) error {
	have, err := netlink.AddrList(l, netlink.FAMILY_ALL)
	if err != nil {
		return err
	}
	for _, ip := range r.PrevResult.IPs {
		if ip.Interface == nil || *ip.Interface != index {
			continue
		}
		if !slices.ContainsFunc(have, func(a netlink.Addr) bool { return a.IPNet.String() == ip.Address.String() }) {
			return cni.Errorf(cni.CodeNotAsExpected, "address %s is missing", &ip.Address)
		}
	}
	return nil
}

func checkRoutes(r *cni.Request, l netlink.Link) error {
	have, err := netlink.RouteList(l, netlink.FAMILY_ALL)
	if err != nil {
		return err
	}
	for _, route := range r.PrevResult.Routes {
		if !slices.ContainsFunc(have, func(h netlink.Route) bool { return h.Dst != nil && h.Dst.String() == route.Dst.String() }) {
			return cni.Errorf(cni.CodeNotAsExpected, "the route to %s is missing", &route.Dst)
		}
	}
	return nil
}

func del(_ context.Context, r *cni.Request, _ *config) error {
	return remove(hostEnd(r))
}

// note is a file that some of the plugins keep for each container.
func note(r *cni.Request) string { return filepath.Join(r.Config.(*config).State, r.ContainerID) }

func noted(ctx context.Context, r *cni.Request, c *config) (*cni.Result, error) {
	if err := os.WriteFile(note(r), nil, 0o600); err != nil {
		return nil, err
	}
	return add(ctx, r, c)
}

// renumber gives the interface another address and another domain than the plugin
// before, and says so.
func renumber(_ context.Context, r *cni.Request) (*cni.Result, error) {
	r.PrevResult.IPs[0].Address.IP = net.ParseIP(strings.Replace(r.PrevResult.IPs[0].Address.IP.String(), "10.124", "10.125", 1))
	r.PrevResult.DNS = types.DNS{Domain: "elsewhere.example"}
	return r.PrevResult, readdress(r, "10.124", "10.125")
}

// readdress moves the interface's addresses from one network to another.
func readdress(r *cni.Request, from, to string) error {
	return inside(r, func(l netlink.Link) error {
		addrs, err := netlink.AddrList(l, netlink.FAMILY_V4)
		for i := range addrs {
			old := addrs[i].IPNet.String()
			if strings.HasPrefix(old, from) {
				other := network(strings.Replace(old, from, to, 1))
				err = errors.Join(err, netlink.AddrDel(l, &addrs[i]), netlink.AddrAdd(l, &netlink.Addr{IPNet: other}))
			}
		}
		return err
	})
}

// elsewhere lists an interface of the container's that is none of the kernel's.
func elsewhere(socket, pci string) func(context.Context, *cni.Request) (*cni.Result, error) {
	return func(_ context.Context, r *cni.Request) (*cni.Result, error) {
		return &cni.Result{Interfaces: []*cni.Interface{
			{Name: r.IfName, Sandbox: r.NetNS, Mac: "02:00:00:00:cc:01", SocketPath: socket, PciID: pci},
		}}, nil
	}
}

// spanningTree connects containers by a bridge that lets nothing through for the
// first seconds of a port.
func spanningTree(ctx context.Context, r *cni.Request) (*cni.Result, error) {
	out, err := add(ctx, r, r.Config.(*config))
	if err != nil {
		return nil, err
	}
	port := hostEnd(r)
	script := "ip link add stp0 type bridge stp_state 1 forward_delay 200; ip link set stp0 up && ip link set " + port + " master stp0 up"
	return out, exec.Command("sh", "-c", script).Run()
}

func remove(name string) error {
	l, err := netlink.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := netlink.LinkDel(l); !errors.Is(err, unix.ENODEV) { // gone with its namespace meanwhile
		return err
	}
	return nil
}

// changes are faults, and oddities that are legal, by the plugin's name.
func changes() map[string]func(*cni.Plugin) {
	return map[string]func(*cni.Plugin){
		"forgets-sandbox": func(p *cni.Plugin) {
			p.Add = func(ctx context.Context, r *cni.Request) (*cni.Result, error) {
				out, err := add(ctx, r, r.Config.(*config))
				if err == nil {
					out.Interfaces[0].Sandbox = ""
				}
				return out, err
			}
		},
		"replaces-interface": func(p *cni.Plugin) {
			p.Adjusts = true // or the SDK refuses
			p.Add = func(ctx context.Context, r *cni.Request) (*cni.Result, error) {
				if err := r.InNetNS(func() error { return remove(r.IfName) }); err != nil {
					return nil, err
				}
				return add(ctx, r, r.Config.(*config))
			}
		},
		"del-needs-link": func(p *cni.Plugin) {
			p.Del = func(ctx context.Context, r *cni.Request) error {
				if _, err := netlink.LinkByName(hostEnd(r)); err != nil {
					return err
				}
				return del(ctx, r, r.Config.(*config))
			}
		},
		"del-needs-netns": func(p *cni.Plugin) {
			p.Add = func(ctx context.Context, r *cni.Request) (*cni.Result, error) {
				c := r.Config.(*config)
				return noted(ctx, r, c)
			}
			p.Del = func(ctx context.Context, r *cni.Request) error {
				if _, err := os.Stat(r.NetNS); err != nil {
					return nil // there is nothing left, or so it thinks
				}
				return errors.Join(del(ctx, r, r.Config.(*config)), os.RemoveAll(note(r)))
			}
		},
		"del-demands-CNI_NETNS": func(p *cni.Plugin) { // and leaves something where that is of no use
			p.Add = func(ctx context.Context, r *cni.Request) (*cni.Result, error) {
				return noted(ctx, r, r.Config.(*config))
			}
			p.Del = func(ctx context.Context, r *cni.Request) error {
				if r.NetNS == "" {
					return errors.New("CNI_NETNS is not given")
				}
				if _, err := os.Stat(r.NetNS); err != nil {
					return nil
				}
				return errors.Join(del(ctx, r, r.Config.(*config)), os.RemoveAll(note(r)))
			}
		},
		"leaves-a-file": func(p *cni.Plugin) {
			p.Add = func(ctx context.Context, r *cni.Request) (*cni.Result, error) {
				return noted(ctx, r, r.Config.(*config))
			}
		},
		"notes-too-late": func(p *cni.Plugin) {
			p.Add = func(ctx context.Context, r *cni.Request) (*cni.Result, error) {
				out, err := add(ctx, r, r.Config.(*config))
				time.Sleep(200 * time.Millisecond) // most of the ADD, so that most kills hit it
				return out, errors.Join(err, os.WriteFile(note(r), nil, 0o600))
			}
			p.Del = func(ctx context.Context, r *cni.Request) error {
				if _, err := os.Stat(note(r)); err != nil {
					return nil
				}
				return errors.Join(del(ctx, r, r.Config.(*config)), os.Remove(note(r)))
			}
		},
		// Odd but legal.
		"talks": func(p *cni.Plugin) {
			p.Add = func(ctx context.Context, r *cni.Request) (*cni.Result, error) {
				fmt.Fprintln(os.Stderr, "a line for the log, { and no JSON")
				out, err := add(ctx, r, r.Config.(*config))
				if err == nil && len(out.IPs) > 0 { // an interface and an address on the host
					out.Interfaces = append(out.Interfaces, &types100.Interface{Name: hostEnd(r)})
					out.IPs = append(out.IPs, out.IPs[0].Copy())
					out.IPs[1].Interface = nil
				}
				return out, err
			}
		},
		"renumbers": func(p *cni.Plugin) {
			p.Adjusts, p.Check = true, nil
			p.Add = renumber
			p.Del = func(_ context.Context, r *cni.Request) error { return readdress(r, "10.125", "10.124") }
		},
		"labels-the-host-end":   labels,
		"userspace":             func(p *cni.Plugin) { p.Add, p.Check = elsewhere("/run/suite/vhost.sock", ""), nil },
		"passthrough":           func(p *cni.Plugin) { p.Add, p.Check = elsewhere("", "0000:3b:00.1"), nil },
		"spanning-tree":         func(p *cni.Plugin) { p.Add = spanningTree },
		"narrow":                func(p *cni.Plugin) { p.Add = narrow },
		"blind-to-the-host-end": altered(hostEndUp),
		"passes-on":             func(p *cni.Plugin) { p.Add, p.Del, p.Check = nil, nil, nil },
	}
}

// labels makes a chained plugin that works at the host's end of the interface's pair, as
// those do that shape traffic: the pair reaches there, and prevResult has both ends.
func labels(p *cni.Plugin) {
	p.Adjusts = true
	p.Add = func(_ context.Context, r *cni.Request) (*cni.Result, error) {
		end, err := otherEnd(r)
		if err != nil {
			return nil, err
		}
		return nil, netlink.LinkSetAlias(end, r.Attachment.String())
	}
	p.Check = func(_ context.Context, r *cni.Request) error {
		end, err := otherEnd(r)
		if err == nil && end.Attrs().Alias != r.Attachment.String() {
			err = cni.Errorf(cni.CodeNotAsExpected, "%q has the label %q", end.Attrs().Name, end.Attrs().Alias)
		}
		return err
	}
	p.Del = func(_ context.Context, r *cni.Request) error {
		all, err := redump.List(netlink.LinkList)
		for _, link := range all {
			if link.Attrs().Alias != r.Attachment.String() {
				continue
			}
			if gone := netlink.LinkSetAlias(link, ""); !errors.Is(gone, unix.ENODEV) { // with its namespace, meanwhile
				err = errors.Join(err, gone)
			}
		}
		return err
	}
}

func otherEnd(r *cni.Request) (end netlink.Link, err error) {
	if r.PrevResult == nil {
		return nil, cni.Errorf(cni.CodeConfig, "prevResult is missing")
	}
	index := 0
	err = r.InNetNS(func() error {
		link, err := netlink.LinkByName(r.IfName)
		if err == nil {
			index = link.Attrs().ParentIndex
		}
		return err
	})
	if err == nil {
		end, err = netlink.LinkByIndex(index)
	}
	if err != nil {
		return nil, cni.Errorf(cni.CodeNotAsExpected, "the pair of %q: %w", r.IfName, err)
	}
	listed := func(nic *cni.Interface) bool { return nic.Sandbox == "" && nic.Name == end.Attrs().Name }
	if nics := r.PrevResult.Interfaces; len(nics) > 0 && !slices.ContainsFunc(nics, listed) { // before 0.3.0 there are none
		return nil, cni.Errorf(cni.CodeConfig, "prevResult does not list %q", end.Attrs().Name)
	}
	return end, nil
}

// rawPlugins answer by themselves what the SDK would answer for them.
func rawPlugins() map[string]func() int {
	answer := func(text string) int { fmt.Print(text); return 1 }
	return map[string]func() int{
		"version-of-its-own": func() int {
			fmt.Print(`{"cniVersion":"1.1.0","supportedVersions":["1.0.0","1.1.0"]}`)
			return 0
		},
		"code-999":   func() int { return answer(`{"cniVersion":"1.1.0","code":999,"msg":"something is missing"}`) },
		"no-version": func() int { return answer(`{"code":4,"msg":"CNI_CONTAINERID is missing"}`) },
		"two-documents": func() int {
			return answer(`{"cniVersion":"1.1.0"}{"code":4,"msg":"no CNI_COMMAND CNI_CONTAINERID CNI_NETNS CNI_IFNAME"}`)
		},
		"any-version":     anyVersion,
		"exits-with-17":   func() int { return 17 * exact() },
		"dies-on-version": func() int { panic("an author's mistake") },
	}
}

// anyVersion takes every version for the newest.
func anyVersion() int {
	var config map[string]any
	in, _ := io.ReadAll(os.Stdin)
	if err := json.Unmarshal(in, &config); err != nil {
		return 1
	}
	config["cniVersion"] = cni.Newest
	in, _ = json.Marshal(config)
	return invoke(in)
}

// exact is the good plugin with another exit status.
func exact() int {
	in, _ := io.ReadAll(os.Stdin)
	return invoke(in)
}

func invoke(stdin []byte) int {
	env := map[string]string{}
	for _, kv := range os.Environ() {
		key, value, _ := strings.Cut(kv, "=")
		env[key] = value
	}
	out, err := cni.Invoke(context.Background(), good(), env, stdin)
	os.Stdout.Write(out)
	if err != nil {
		return 1
	}
	return 0
}
