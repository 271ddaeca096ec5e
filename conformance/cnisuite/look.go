package cnisuite

import (
	"context"
	"net"
	"syscall"

	"github.com/vishvananda/netlink"

	"github.com/nodekit-project/nodekit/internal/netns"
	"github.com/nodekit-project/nodekit/internal/redump"
)

// sighting is the first attachment of a network, as its ADD describes it and as the
// kernel had it right after that.
type sighting struct {
	*container
	result *result
	// nics are the existing interfaces, by the sandbox that a result would name and
	// by interface name. They do not include sandboxes that the suite does not know.
	nics map[string]map[string]*nic
	// another has the names, other than CNI_NETNS, that the result uses for the
	// container's namespace.
	another map[string]bool
}

// sighted returns a sighting for rules that only look.
func (l *lab) sighted(ctx context.Context) (*sighting, error) {
	return found(ctx, l, "an attachment that stands", attachAndLook)
}

func attachAndLook(ctx context.Context, l *lab) (*sighting, error) {
	c, r, err := l.joined(ctx)
	if err != nil {
		return nil, err
	}
	a := &sighting{container: c, result: r, nics: map[string]map[string]*nic{}, another: map[string]bool{}}
	for _, sandbox := range []string{"", c.ns} {
		if a.nics[sandbox], err = nicsIn(l.place(sandbox)); err != nil {
			return nil, err
		}
	}
	for _, i := range r.Interfaces {
		if i.Sandbox == "" || i.Sandbox == c.ns {
			continue
		}
		name, err := nameOf(i.Sandbox)
		a.another[i.Sandbox] = err == nil && name == c.nsName
	}
	return a, nil
}

// nicsIn returns the interfaces of a namespace by name.
func nicsIn(ns string) (map[string]*nic, error) {
	all := map[string]*nic{}
	err := netns.Do(ns, func() error {
		links, err := redump.List(netlink.LinkList)
		if err != nil {
			return err
		}
		for _, link := range links {
			if all[link.Attrs().Name], err = nicOf(link); err != nil {
				return err
			}
		}
		return nil
	})
	return all, err
}

// nicOf describes an interface of the calling thread's namespace.
func nicOf(link netlink.Link) (*nic, error) {
	addrs, err := redump.List(func() ([]netlink.Addr, error) { return netlink.AddrList(link, syscall.AF_UNSPEC) })
	if err != nil {
		return nil, err
	}
	attrs := link.Attrs()
	n := &nic{mac: attrs.HardwareAddr.String(), mtu: attrs.MTU, up: attrs.Flags&net.FlagUp != 0, addresses: map[string]bool{}}
	for _, a := range addrs {
		n.addresses[a.IPNet.String()] = true
		if a.Flags&permanent != 0 && !a.IP.IsLinkLocalUnicast() {
			n.lasting = append(n.lasting, a.IPNet.String())
		}
	}
	return n, nil
}
