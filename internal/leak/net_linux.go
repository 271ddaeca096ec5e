package leak

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/redump"
)

func links(scope *Scope) (things, error) {
	all, err := redump.List(netlink.LinkList)
	if err != nil {
		return nil, err
	}
	found := make(things)
	for _, l := range all {
		if name := l.Attrs().Name; scope.matches(Link, name) {
			found.add(name, fmt.Sprintf("%s (%s)", name, l.Type()))
		}
	}
	return found, nil
}

func addresses(scope *Scope) (things, error) {
	all, err := redump.List(netlink.LinkList)
	if err != nil {
		return nil, err
	}
	found := make(things)
	for _, l := range all {
		link := l.Attrs().Name
		if !scope.matches(Address, link) {
			continue
		}
		addrs, err := redump.List(func() ([]netlink.Addr, error) { return netlink.AddrList(l, netlink.FAMILY_ALL) })
		if errors.Is(err, unix.ENODEV) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("of %q: %w", link, err)
		}
		for _, a := range addrs {
			name := fmt.Sprintf("%s %s", link, a.IPNet)
			found.add(name, name)
		}
	}
	return found, nil
}
