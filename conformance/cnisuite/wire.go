package cnisuite

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/nodekit-project/nodekit/internal/netns"
)

// wires is a network for rules that send packets: a bridge for containers on the
// host, and another machine.
type wires struct {
	l       *lab
	outside string // the other machine's namespace
	v6      bool
	servers []io.Closer
}

// The addresses of a lab's network. The host has .1 on both sides.
const (
	bridgeName, hostOut         = "suite-pm0", "10.126.0.1"
	hostIn, outsideAddress      = "10.124.0.1", "10.126.0.2"
	hostOut6, outsideAddress6   = "fd12:6::1", "fd12:6::2"
	hostIn6, containerAddresses = "fd12:4::1", "fd12:4::1:"
)

// wire builds the network. Close ends its servers; the rest goes with the namespaces.
func (l *lab) wire() (*wires, error) {
	w, err := l.machine()
	if err != nil {
		return w, err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = bridgeName
	return w, netns.Do(l.host, func() error {
		return errors.Join(w.forward(), w.impatient(), netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}), w.address(bridgeName, hostIn+"/24", hostIn6+"/64"))
	})
}

// machine builds the part without the bridge: another machine, which has the host as
// its router.
func (l *lab) machine() (*wires, error) {
	w := &wires{l: l, outside: filepath.Join(l.dir, "outside")}
	_, err := os.Stat("/proc/sys/net/ipv6")
	w.v6 = err == nil
	if err := netns.Create(w.outside); err != nil {
		return w, err
	}
	return w, errors.Join(w.plug("suite-out0", w.outside, "eth0"),
		netns.Do(l.host, func() error { return w.address("suite-out0", hostOut+"/24", hostOut6+"/64") }),
		netns.Do(w.outside, func() error { return w.connect("eth0", outsideAddress+"/24", hostOut, outsideAddress6+"/64", hostOut6) }))
}

func (w *wires) close() error {
	var errs []error
	for _, s := range w.servers {
		errs = append(errs, s.Close())
	}
	return errors.Join(append(errs, netns.Remove(w.outside))...)
}

// forward enables forwarding in the calling thread's namespace, as plugins that
// create a bridge do.
func (w *wires) forward() error {
	errs := []error{os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644)}
	if w.v6 {
		errs = append(errs, os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("1"), 0o644))
	}
	return errors.Join(errs...)
}

// impatient disables duplicate address detection, so that IPv6 addresses are usable
// at once.
func (w *wires) impatient() error {
	if !w.v6 {
		return nil
	}
	var errs []error
	for _, of := range []string{"all", "default"} {
		errs = append(errs, os.WriteFile("/proc/sys/net/ipv6/conf/"+of+"/accept_dad", []byte("0"), 0o644))
	}
	return errors.Join(errs...)
}

// plug connects the host with a namespace.
func (w *wires) plug(name, ns, far string) error {
	if err := netns.Do(ns, w.impatient); err != nil {
		return err
	}
	return w.l.pair(name, ns, far)
}

// address brings an interface of the calling thread's namespace up and adds the
// addresses.
func (w *wires) address(name string, addresses ...string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	errs := []error{netlink.LinkSetUp(l)}
	for _, text := range addresses {
		a, err := netlink.ParseAddr(text)
		if err != nil {
			return err
		}
		if a.IP.To4() == nil {
			if !w.v6 {
				continue
			}
			a.Flags = 0x02 // IFA_F_NODAD
		}
		errs = append(errs, netlink.AddrAdd(l, a))
	}
	return errors.Join(errs...)
}

func (w *wires) connect(name, address, gateway, address6, gateway6 string) error {
	if err := w.address(name, address, address6); err != nil {
		return err
	}
	err := netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP(gateway)})
	if w.v6 {
		err = errors.Join(err, netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP(gateway6)}))
	}
	return err
}

// container creates a container that is connected to the bridge, with the mappings.
func (w *wires) container(mappings ...portMapping) (*container, error) {
	c, err := w.l.newContainerOf(w.l.version)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(c.change(netlink.LinkDel), w.plug(c.hostEnd, c.ns, c.ifName)); err != nil {
		return nil, err
	}
	err = netns.Do(w.l.host, func() error {
		link, err := netlink.LinkByName(c.hostEnd)
		bridge, bridgeErr := netlink.LinkByName(bridgeName)
		if err := errors.Join(err, bridgeErr); err != nil {
			return err
		}
		return errors.Join(netlink.LinkSetMaster(link, bridge), netlink.LinkSetHairpin(link, true), netlink.LinkSetUp(link))
	})
	six := containerAddresses + strconv.Itoa(c.number)
	err = errors.Join(err, netns.Do(c.ns, func() error { return w.connect(c.ifName, c.address().String(), hostIn, six+"/64", hostIn6) }))
	if err != nil {
		return nil, err
	}
	if c.prev, err = w.l.prevResult(c, w.l.version); err != nil {
		return nil, err
	}
	if w.v6 {
		more := fmt.Sprintf(`,{"address":"%s/64","interface":0}]}`, six)
		c.prev = json.RawMessage(strings.TrimSuffix(string(c.prev), "]}") + more)
	}
	return c, w.mapped(c, mappings)
}

// mapped replaces the sample's mappings.
func (w *wires) mapped(c *container, mappings []portMapping) error {
	config, err := w.l.target.config(w.l.state())
	if err != nil {
		return err
	}
	args, _ := config["runtimeConfig"].(map[string]any)
	args["portMappings"] = mappings
	c.keys = map[string]any{"runtimeConfig": args}
	return nil
}

// serve answers every connection to the port in the namespace with a word.
func (w *wires) serve(ns, word string, port int) error {
	return netns.Do(ns, func() error {
		s, err := net.Listen("tcp", ":"+strconv.Itoa(port))
		if err != nil {
			return err
		}
		w.servers = append(w.servers, s)
		go func() {
			for {
				conn, err := s.Accept()
				if err != nil {
					return
				}
				_, _ = conn.Write([]byte(word)) // a client that went away gets no answer
				conn.Close()
			}
		}()
		return nil
	})
}

// ask connects and returns the server's word.
func (w *wires) ask(ns, host string, port int) (word string, err error) {
	err = netns.Do(ns, func() error {
		conn, err := net.DialTimeout("tcp", net.JoinHostPort(host, strconv.Itoa(port)), 2*time.Second)
		if err != nil {
			return err
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(2 * time.Second))
		text, err := io.ReadAll(conn)
		word = string(text)
		return err
	})
	return word, err
}
