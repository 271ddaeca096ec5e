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

// defaultDataDir is upstream's, so that the plugins can take turns.
const defaultDataDir = "/var/lib/cni/networks"

// defaultReuseDelay is longer than neighbours usually remember who had an
// address.
const defaultReuseDelay = 30 * time.Second

// config is what the plugin reads of the whole network configuration.
type config struct {
	IPAM          ipam `json:"ipam"`
	RuntimeConfig struct {
		// IPRanges are further sets, before those of the configuration.
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
	// Exclude is taken out of all ranges.
	Exclude []string `json:"exclude"`
	// Ranges has one list for each address that an attachment gets.
	Ranges  [][]rangeConfig `json:"ranges"`
	Routes  []routeConfig   `json:"routes"`
	DataDir string          `json:"dataDir"`
	// ResolvConf is a resolv.conf(5), which becomes the result's dns.
	ResolvConf string `json:"resolvConf"`
	// ReuseDelay is how long the search passes over an address that was released,
	// as long as it finds another one.
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

// plan is a configuration that makes sense.
type plan struct {
	sets   []rangeSet
	asked  []netip.Addr // for each set, or not valid
	routes []*types.Route
}

func (i *ipam) dataDir() string {
	if i.DataDir != "" {
		return i.DataDir
	}
	return defaultDataDir
}

// delay is for DEL and GC too, which no mistake may keep from their work.
func (i *ipam) delay() time.Duration {
	if d, err := time.ParseDuration(i.ReuseDelay); err == nil && d >= 0 {
		return d
	}
	return defaultReuseDelay
}

// plan reads the configuration. What is wrong with it is an error of code 7 that
// names the key.
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

// onePerFamily: results before 0.3.0 have one address of each family.
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

// requested returns, for each set, the address that the caller asks for or the
// zero one. Of the three ways to ask, as the CNI conventions have them, the
// first one that is used counts.
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
