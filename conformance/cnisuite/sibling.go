package cnisuite

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"slices"

	"github.com/vishvananda/netlink"

	"github.com/nodekit-project/nodekit/conformance"
	"github.com/nodekit-project/nodekit/internal/netns"
)

// joined is a container after its ADD.
func (l *lab) joined(ctx context.Context) (*container, *result, error) {
	c, err := l.newContainer(ctx)
	if err != nil {
		return nil, nil, err
	}
	r, err := l.add(ctx, c)
	return c, r, err
}

// sibling is another attachment of the same container.
func (l *lab) sibling(of *container, ifName string) (*container, error) {
	l.count++
	c := &container{id: of.id, ns: of.ns, nsName: of.nsName, ifName: ifName}
	l.made = append(l.made, c)
	if err := l.ipam.prepare(c, l.version, l.count); err != nil || l.target.Kind != Chained {
		return c, err
	}
	if err := c.veth("suite-"+ifName, net.IPv4(10, 124, 0, 3)); err != nil {
		return nil, err
	}
	prev, err := l.prevResult(c, l.version)
	c.prev = bytes.ReplaceAll(prev, []byte("10.124.0.2/"), []byte("10.124.0.3/"))
	return c, err
}

// veth makes an interface of the container's name that is not the plugin's, with
// its peer in the container too.
func (c *container) veth(peer string, address net.IP) error {
	return netns.Do(c.ns, func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = c.ifName
		pair := &netlink.Veth{LinkAttrs: attrs, PeerName: peer}
		if err := netlink.LinkAdd(pair); err != nil {
			return fmt.Errorf("making an interface in the container: %w", err)
		}
		return netlink.AddrAdd(pair, &netlink.Addr{IPNet: &net.IPNet{IP: address.To4(), Mask: net.CIDRMask(24, 32)}})
	})
}

// attachmentRules are about ADD and DEL in detail.
func attachmentRules() []conformance.Rule[Target] {
	return slices.Concat(addRules(), resultRules(), prevRules(), paramRules(), delegateRules(), delRules(), concurrentRules(), dataRules())
}
