package bridge

import (
	"net"
	"slices"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/nft"
)

// The sets of addresses whose packets are masqueraded.
const (
	masq4 = "masquerade4"
	masq6 = "masquerade6"
)

// table describes the bridge's nftables table.
func table(c *Config) *nft.Ruleset {
	rule := func(family byte, set string, multicast net.IPNet) []expr.Any {
		return slices.Concat(
			nft.Protocol(family),
			nft.SourceIn(family, set),
			nft.NotTo(family, multicast.IP, multicast.Mask),
			nft.LeavesBy(c.Bridge, false),
			nft.Masquerade(),
		)
	}
	return &nft.Ruleset{
		Table: c.NFTTable,
		Sets: []nft.Set{
			{Name: masq4, Key: []nftables.SetDatatype{nftables.TypeIPAddr}},
			{Name: masq6, Key: []nftables.SetDatatype{nftables.TypeIP6Addr}},
		},
		Chains: []nft.Chain{{
			Name: "postrouting", Type: nftables.ChainTypeNAT,
			Hook: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
			Rules: [][]expr.Any{
				rule(unix.NFPROTO_IPV4, masq4, net.IPNet{IP: net.IP{224, 0, 0, 0}, Mask: net.CIDRMask(4, 32)}),
				rule(unix.NFPROTO_IPV6, masq6, net.IPNet{IP: append(net.IP{0xff}, make([]byte, 15)...), Mask: net.CIDRMask(8, 128)}),
			},
		}},
	}
}

func masquerade(c *Config, owner string, ips []*types100.IPConfig) error {
	elements := make([]nft.Element, len(ips))
	for i, ip := range ips {
		elements[i] = masqElement(ip.Address.IP, owner)
	}
	return table(c).Add(elements...)
}

func masqElement(ip net.IP, owner string) nft.Element {
	if v4 := ip.To4(); v4 != nil {
		return nft.Element{Set: masq4, Key: v4, Owner: owner}
	}
	return nft.Element{Set: masq6, Key: ip.To16(), Owner: owner}
}

func unmasquerade(c *Config, owner string) error {
	return table(c).Remove(func(o string) bool { return o == owner })
}
