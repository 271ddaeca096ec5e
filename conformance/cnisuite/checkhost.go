package cnisuite

import (
	"net"

	"github.com/vishvananda/netlink"

	"github.com/nodekit-project/nodekit/conformance"
	"github.com/nodekit-project/nodekit/internal/netns"
	"github.com/nodekit-project/nodekit/internal/nft"
)

// checkHostRules break less than checkFaultRules do: most of what ADD created still
// exists.
func checkHostRules() []conformance.Rule[Target] {
	return []conformance.Rule[Target]{
		checked(rule("CNI-CHECK-020", conformance.Should, "CHECK finds that nothing leads to firewall rules any more", "CHECK", untracked),
			noticed("the ways to the firewall rules gone", breakWay)),
		checked(rule("CNI-CHECK-021", conformance.Advisory, "CHECK finds the host's end of the container's interface down", "CHECK",
			"The plugin should return an error if it is aware of a condition where the container is generally unreachable."), noticed("the host's end down", breakHostEnd)),
	}
}

// breakWay removes what leads to the rules, like another program that flushes the
// chains that both share.
func breakWay(l *lab, _ *attachment) error {
	rules := 0
	err := netns.Do(l.host, func() (err error) {
		rules, err = nft.CutOff()
		return err
	})
	if err == nil && rules == 0 {
		return conformance.NotApplicable("ADD leaves no rules in base chains of nftables on the host")
	}
	return err
}

// breakHostEnd sets down every veth interface that ADD created on the host.
func breakHostEnd(l *lab, a *attachment) error {
	if err := l.own(a); err != nil {
		return err
	}
	links, err := l.hostLinks(a)
	if err != nil {
		return err
	}
	found := false
	err = netns.Do(l.host, func() error {
		for _, link := range links {
			if link.Type() != "veth" || link.Attrs().Flags&net.FlagUp == 0 {
				continue
			}
			found = true
			if err := netlink.LinkSetDown(link); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil && !found {
		return conformance.NotApplicable("ADD makes no veth interface on the host that is up")
	}
	return err
}
