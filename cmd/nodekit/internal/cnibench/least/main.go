// Command least is executed like a CNI plugin and creates a veth pair between the
// bridge floor0 and the network namespace CNI_NETNS, with an address and a default
// route. It looks nothing up, allocates no address, records nothing, checks nothing and
// does not read its configuration: its execution takes about the minimum for a bridge
// plugin written in Go on a machine.
package main

import (
	"fmt"
	"io"
	"net/netip"
	"os"

	"github.com/nodekit-project/nodekit/internal/netns"
	"github.com/nodekit-project/nodekit/internal/rtnl"
)

func main() {
	if err := add(os.Getenv("CNI_CONTAINERID"), os.Getenv("CNI_NETNS")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Print(`{"cniVersion":"1.1.0","ips":[{"address":"10.250.0.2/24"}]}`)
}

func add(name, path string) error {
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return err
	}
	host, err := rtnl.Open()
	if err != nil {
		return err
	}
	bridge, err := host.Link("floor0")
	if err != nil {
		return err
	}
	ns, err := netns.Open(path)
	if err != nil {
		return err
	}
	var inside *rtnl.Conn
	err = ns.Do(func() (err error) {
		inside, err = rtnl.Open()
		return err
	})
	if err != nil {
		return err
	}
	near, err := host.AddPair(&rtnl.Pair{Name: name, Peer: "eth0", Master: bridge.Index, PeerNS: ns.FD(), Up: true})
	if err != nil {
		return err
	}
	far := &rtnl.Link{Name: "eth0", Index: near.Peer}
	return inside.Do(
		rtnl.AddAddress(far, netip.MustParsePrefix("10.250.0.2/24"), false), rtnl.Up(far),
		rtnl.AddRoute(&rtnl.Route{Dst: netip.MustParsePrefix("0.0.0.0/0"), Gateway: netip.MustParseAddr("10.250.0.1"), Link: far.Index}),
	)
}
