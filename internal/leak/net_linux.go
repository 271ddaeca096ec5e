package leak

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// dumpTries is how often a netlink dump is retried if the kernel reports that a
// change interrupted it.
const dumpTries = 20

// dump calls get until its result is consistent.
func dump[T any](get func() ([]T, error)) (all []T, err error) {
	for range dumpTries {
		all, err = get()
		if !errors.Is(err, netlink.ErrDumpInterrupted) && !errors.Is(err, unix.EINTR) {
			return all, err
		}
	}
	return nil, err
}

func links(scope *Scope) (things, error) {
	all, err := dump(netlink.LinkList)
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
	all, err := dump(netlink.LinkList)
	if err != nil {
		return nil, err
	}
	found := make(things)
	for _, l := range all {
		link := l.Attrs().Name
		if !scope.matches(Address, link) {
			continue
		}
		addrs, err := dump(func() ([]netlink.Addr, error) { return netlink.AddrList(l, netlink.FAMILY_ALL) })
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
