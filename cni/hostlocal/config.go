package hostlocal

import (
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/nodekit-project/nodekit/cni"
)

// defaultDataDir is that of the upstream plugin, so that either can replace the
// other.
const defaultDataDir = "/var/lib/cni/networks"

// defaultReuseDelay is longer than neighbours usually cache the link-layer address of
// an IP address.
const defaultReuseDelay = 30 * time.Second

// config is the part of the whole network configuration that the plugin reads.
type config struct {
	IPAM          ipam `json:"ipam"`
	RuntimeConfig struct {
		// IPRanges are further sets; they come before those of the configuration.
		IPRanges [][]rangeConfig `json:"ipRanges"`
		IPs      []string        `json:"ips"`
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
	Subnet     string `json:"subnet"`
	RangeStart string `json:"rangeStart"`
	RangeEnd   string `json:"rangeEnd"`
	Gateway    string `json:"gateway"`
	// Exclude is excluded from all ranges.
	Exclude []string `json:"exclude"`
	// Ranges has one list for each address that an attachment gets.
	Ranges  [][]rangeConfig `json:"ranges"`
	Routes  []routeConfig   `json:"routes"`
	DataDir string          `json:"dataDir"`
	// ResolvConf is the path of a resolv.conf(5) that becomes the result's dns.
	ResolvConf string `json:"resolvConf"`
	// ReuseDelay is how long a released address is not assigned again while another
	// one is free.
	ReuseDelay string `json:"reuseDelay"`
}

type rangeConfig struct {
	Subnet     string   `json:"subnet"`
	RangeStart string   `json:"rangeStart"`
	RangeEnd   string   `json:"rangeEnd"`
	Gateway    string   `json:"gateway"`
	Exclude    []string `json:"exclude"` // addresses, "first-last" and subnets
}

// routeConfig is a route with every attribute of CNI 1.1.0.
type routeConfig struct {
	Dst      string `json:"dst"`
	GW       string `json:"gw"`
	MTU      int    `json:"mtu"`
	AdvMSS   int    `json:"advmss"`
	Priority int    `json:"priority"`
	Table    *int   `json:"table"`
	Scope    *int   `json:"scope"`
}

// plan is a valid configuration.
type plan struct {
	sets   []rangeSet
	asked  []netip.Addr // one for each set; the zero Addr if none was requested
	routes []*types.Route
}

func (i *ipam) dataDir() string {
	if i.DataDir != "" {
		return i.DataDir
	}
	return defaultDataDir
}

// delay never fails: DEL and GC use it too, and no mistake may stop them.
func (i *ipam) delay() time.Duration {
	if d, err := time.ParseDuration(i.ReuseDelay); err == nil && d >= 0 {
		return d
	}
	return defaultReuseDelay
}

// plan parses the configuration. A mistake is an error of code 7 that names the key.
func (c *config) plan(r *cni.Request) (p plan, err error) {
	if c.IPAM.DataDir != "" && !filepath.IsAbs(c.IPAM.DataDir) {
		return p, cni.Errorf(cni.CodeConfig, "ipam.dataDir is %q, which is no absolute path", c.IPAM.DataDir)
	}
	if d, err := time.ParseDuration(c.IPAM.ReuseDelay); c.IPAM.ReuseDelay != "" && (err != nil || d < 0) {
		return p, cni.Errorf(cni.CodeConfig, "ipam.reuseDelay is %q, which is no duration such as \"30s\"", c.IPAM.ReuseDelay)
	}
	if p.sets, err = c.sets(); err != nil {
		return p, err
	}
	if err := onePerFamily(p.sets, r.Version); err != nil {
		return p, err
	}
	if p.routes, err = c.IPAM.routes(r.Version); err != nil {
		return p, err
	}
	p.asked, err = c.requested(p.sets, r.Args)
	return p, err
}

// onePerFamily: results before 0.3.0 have one address per family.
func onePerFamily(sets []rangeSet, version string) error {
	count := map[bool]int{}
	for _, set := range sets {
		count[set[0].first.Is4()]++
	}
	if !cni.AtLeast(version, "0.3.0") && max(count[true], count[false]) > 1 {
		return cni.Errorf(cni.CodeConfig, "ipam.ranges has several sets of one family, which cniVersion %s has no place for", version)
	}
	return nil
}

// requested returns for each set the requested address or the zero Addr. The CNI
// conventions define three ways to request one; the first that is used applies.
func (c *config) requested(sets []rangeSet, args map[string]string) ([]netip.Addr, error) {
	key, ips := "runtimeConfig.ips", c.RuntimeConfig.IPs
	if len(ips) == 0 {
		key, ips = "args.cni.ips", c.Args.CNI.IPs
	}
	if len(ips) == 0 && args["IP"] != "" {
		key, ips = "CNI_ARGS IP", strings.Split(args["IP"], ",")
	}
	asked := make([]netip.Addr, len(sets))
	for _, text := range ips {
		bare, _, _ := strings.Cut(strings.TrimSpace(text), "/")
		a, err := parseAddr(bare)
		if err != nil {
			return nil, cni.Errorf(cni.CodeConfig, "%s has %q: %w", key, text, err)
		}
		i := slices.IndexFunc(sets, func(s rangeSet) bool { return s.rangeOf(a) != nil })
		if i < 0 || asked[i].IsValid() && asked[i] != a {
			return nil, cni.Errorf(cni.CodeConfig, "%s has %q, which is in no range that is left for it", key, text)
		}
		if u, ok := sets[i].rangeOf(a).usable(a); !ok || u != a {
			return nil, cni.Errorf(cni.CodeConfig, "%s has %q, which is excluded or belongs to the subnet itself", key, text)
		}
		asked[i] = a
	}
	return asked, nil
}
