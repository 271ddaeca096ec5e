package hostlocal

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/nodekit-project/nodekit/cni"
)

// defaultDataDir is upstream's, so that the plugins can take turns.
const defaultDataDir = "/var/lib/cni/networks"

// config is what the plugin reads of the whole network configuration.
type config struct {
	IPAM ipam `json:"ipam"`
	// Addresses that the caller asks for, in the three ways of the CNI
	// conventions; the first one that is set counts.
	RuntimeConfig struct {
		IPs []string `json:"ips"`
	} `json:"runtimeConfig"`
	Args struct {
		CNI struct {
			IPs []string `json:"ips"`
		} `json:"cni"`
	} `json:"args"`
}

type ipam struct {
	Type string `json:"type"`
	// A single range, as a short form of Ranges.
	rangeConfig
	// Ranges has one list for each address that an attachment gets.
	Ranges  [][]rangeConfig `json:"ranges"`
	Routes  []*types.Route  `json:"routes"`
	DataDir string          `json:"dataDir"`
}

type rangeConfig struct {
	Subnet     string `json:"subnet"`
	RangeStart string `json:"rangeStart"`
	RangeEnd   string `json:"rangeEnd"`
	Gateway    string `json:"gateway"`
}

func (i *ipam) dataDir() string {
	if i.DataDir != "" {
		return i.DataDir
	}
	return defaultDataDir
}

// sets returns the configured ranges, one set for each address.
func (c *config) sets() ([]rangeSet, error) {
	lists := c.IPAM.Ranges
	if c.IPAM.Subnet != "" {
		lists = append([][]rangeConfig{{c.IPAM.rangeConfig}}, lists...)
	}
	if len(lists) == 0 {
		return nil, cni.Errorf(cni.CodeConfig, `ipam has neither "ranges" nor "subnet"`)
	}
	var sets []rangeSet
	var all []addrRange
	for i, list := range lists {
		var set rangeSet
		for _, rc := range list {
			r, err := rc.parse()
			if err != nil {
				return nil, cni.Errorf(cni.CodeConfig, "ipam range %q: %w", rc.Subnet, err)
			}
			for _, other := range all {
				if r.overlaps(other) {
					return nil, cni.Errorf(cni.CodeConfig, "ipam ranges %s and %s overlap", r, other)
				}
			}
			if len(set) > 0 && set[0].subnet.Addr().Is4() != r.subnet.Addr().Is4() {
				return nil, cni.Errorf(cni.CodeConfig, "ipam ranges[%d] mixes IPv4 and IPv6", i)
			}
			set, all = append(set, r), append(all, r)
		}
		if len(set) == 0 {
			return nil, cni.Errorf(cni.CodeConfig, "ipam ranges[%d] is empty", i)
		}
		sets = append(sets, set)
	}
	return sets, nil
}

// requested returns, for each set, the address that the caller asks for or the
// zero one.
func (c *config) requested(sets []rangeSet) ([]netip.Addr, error) {
	ips := c.RuntimeConfig.IPs
	if len(ips) == 0 {
		ips = c.Args.CNI.IPs
	}
	asked := make([]netip.Addr, len(sets))
	for _, text := range ips {
		bare, _, _ := strings.Cut(text, "/")
		a, err := netip.ParseAddr(bare)
		if err != nil {
			return nil, cni.Errorf(cni.CodeConfig, "requested address %q: %w", text, err)
		}
		i := slices.IndexFunc(sets, func(s rangeSet) bool { return s.rangeOf(a.Unmap()) != nil })
		if i < 0 || asked[i].IsValid() {
			return nil, cni.Errorf(cni.CodeConfig, "requested address %q is in no range that is left for it", text)
		}
		asked[i] = a.Unmap()
	}
	return asked, nil
}

func (rc rangeConfig) parse() (addrRange, error) {
	subnet, err := netip.ParsePrefix(rc.Subnet)
	if err != nil {
		return addrRange{}, fmt.Errorf("subnet: %w", err)
	}
	subnet = subnet.Masked()
	if subnet.Addr().BitLen()-subnet.Bits() < 2 {
		return addrRange{}, fmt.Errorf("it is too small to allocate from")
	}
	r := addrRange{subnet: subnet, gateway: subnet.Addr().Next(), first: subnet.Addr().Next(), last: lastOf(subnet)}
	if subnet.Addr().Is4() {
		r.last = r.last.Prev() // the broadcast address
	}
	for _, f := range []struct {
		key, text string
		into      *netip.Addr
	}{{"gateway", rc.Gateway, &r.gateway}, {"rangeStart", rc.RangeStart, &r.first}, {"rangeEnd", rc.RangeEnd, &r.last}} {
		if f.text == "" {
			continue
		}
		a, err := netip.ParseAddr(f.text)
		if err != nil {
			return r, fmt.Errorf("%s: %w", f.key, err)
		}
		if !subnet.Contains(a) {
			return r, fmt.Errorf("%s %s is not in it", f.key, a)
		}
		*f.into = a
	}
	if r.last.Less(r.first) {
		return r, fmt.Errorf("rangeEnd %s comes before rangeStart %s", r.last, r.first)
	}
	return r, nil
}
