package cnisuite

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"

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
	c := &container{number: l.count, id: of.id, ns: of.ns, nsName: of.nsName, ifName: ifName}
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

// ofItsOwn makes an attachment's capability arguments of the sample, so that no two
// attachments ask for the same address or port: only the first gets what cannot be
// shared, and others get other ports of the host.
func ofItsOwn(sample map[string]any, number int) map[string]any {
	out := maps.Clone(sample)
	if number <= 1 {
		return out
	}
	for _, name := range []string{"mac", "ips", "infinibandGUID", "deviceID"} {
		delete(out, name)
	}
	mappings, _ := out["portMappings"].([]any)
	mappings = slices.Clone(mappings)
	for i, mapping := range mappings {
		entry, _ := mapping.(map[string]any)
		port, err := strconv.Atoi(fmt.Sprint(entry["hostPort"]))
		if err != nil {
			continue
		}
		const lowest, span = 1024, 64000
		entry = maps.Clone(entry)
		entry["hostPort"] = lowest + (port+number*len(mappings))%span
		mappings[i] = entry
	}
	if mappings != nil {
		out["portMappings"] = mappings
	}
	return out
}
