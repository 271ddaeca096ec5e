package portmap

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/nft"
	"github.com/nodekit-project/nodekit/internal/rtnl"
	"github.com/nodekit-project/nodekit/internal/sysctl"
)

// interfaceTo returns the host's interface towards a container's address, or "" if
// there is no route, and therefore nothing to forward.
func interfaceTo(c *rtnl.Conn, container netip.Addr) (string, error) {
	link, err := c.LinkTo(container)
	switch {
	case errors.Is(err, fault.NotFound):
		return "", nil
	case err != nil:
		return "", err
	case link.Loopback:
		return "", nil
	}
	return link.Name, nil
}

func localnetOf(name string) string { return "net/ipv4/conf/" + name + "/route_localnet" }

// openLocalnet lets the interface carry the host's loopback addresses. The table
// already guards the interface: its rules were verified just before.
func openLocalnet(name string) error {
	if err := sysctl.Ensure(localnetOf(name), "1"); err != nil {
		return fmt.Errorf("forwarding 127.0.0.1: %w", err)
	}
	return nil
}

// closeLocalnet undoes openLocalnet for an element of the set localnet.
func closeLocalnet(e nft.Element) error {
	err := sysctl.Ensure(localnetOf(ifaceOf(e)), "0")
	if errors.Is(err, os.ErrNotExist) { // the interface is gone
		return nil
	}
	return err
}

// ifaceOf returns the (input) interface of an element of localnet or back.
func ifaceOf(e nft.Element) string {
	name, _, _ := strings.Cut(string(e.Key), "\x00")
	return name
}

// isGone reports whether there is no interface of that name any more.
func isGone(name string) bool {
	_, err := os.Stat("/proc/sys/net/ipv4/conf/" + name)
	return errors.Is(err, os.ErrNotExist)
}

func expectSysctl(name, value string) error {
	now, err := sysctl.Read(name)
	if err == nil && now != value {
		err = fmt.Errorf("sysctl %s is %s instead of %s", name, now, value)
	}
	return err
}
