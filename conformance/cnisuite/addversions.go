package cnisuite

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"strings"

	"github.com/nodekit-project/nodekit/cni"
)

// checkResultVersions compares every version's result with that version, and with
// what the newest one reports about a similar attachment.
func checkResultVersions(ctx context.Context, l *lab) error {
	lives, err := found(ctx, l, "a life in each version", liveInEachVersion)
	if err != nil {
		return err
	}
	var newest *versionResult
	for _, f := range lives {
		lists := cni.AtLeast(f.version, "0.3.0")
		if f.add.rc != 0 && !lists {
			continue // those results are addresses, and there may be none
		}
		r, err := f.shaped()
		if err != nil {
			return err
		}
		newest = cmp.Or(newest, r)
		if lists || l.target.Kind != Chained { // before 0.3.0 there was nothing to pass on
			if err := r.tellsLessThan(newest); err != nil {
				return err
			}
		}
		if err := f.del.ok(nil); err != nil {
			return err
		}
	}
	return nil
}

// versionResult is a result in the shape of any version.
type versionResult struct {
	of         versionLife
	CNIVersion string  `json:"cniVersion"`
	IP4        *oldIP  `json:"ip4"`
	IP6        *oldIP  `json:"ip6"`
	Interfaces []iface `json:"interfaces"`
	IPs        []struct {
		Version string `json:"version"`
		Address string `json:"address"`
	} `json:"ips"`
	Routes []routeEntry `json:"routes"`
}

// oldIP is the address of one family before 0.3.0.
type oldIP struct {
	IP string `json:"ip"`
}

// lists reports whether results of the version have lists of interfaces and
// addresses.
func (r *versionResult) lists() bool { return cni.AtLeast(r.of.version, "0.3.0") }

// shaped checks that the result has what its version has, and nothing that only
// others have.
func (f versionLife) shaped() (*versionResult, error) {
	r := versionResult{of: f}
	if err := f.add.ok(&r); err != nil {
		return nil, err
	}
	if r.CNIVersion != f.version {
		return nil, fmt.Errorf("the result of an ADD of cniVersion %q has cniVersion %q", f.version, r.CNIVersion)
	}
	rich, old := len(r.IPs) > 0, r.IP4 != nil || r.IP6 != nil
	if !r.lists() && rich && !old {
		return nil, fmt.Errorf("results of %s have ip4 and ip6 where this one has ips: %s", f.version, f.add.stdout)
	}
	if r.lists() && old && !rich {
		return nil, fmt.Errorf("results of %s have ips where this one has ip4 or ip6: %s", f.version, f.add.stdout)
	}
	for name, ip := range map[string]*oldIP{"ip4": r.IP4, "ip6": r.IP6} {
		if r.lists() || ip == nil {
			continue
		}
		if _, _, err := net.ParseCIDR(ip.IP); err != nil {
			return nil, fmt.Errorf("in results of %s the ip of %s is an address in CIDR notation, and this one has %q: %s", f.version, name, ip.IP, f.add.stdout)
		}
	}
	for _, ip := range r.IPs {
		if family := familyOf(ip.Address); r.lists() && !cni.AtLeast(f.version, "1.0.0") && ip.Version != family {
			return nil, fmt.Errorf("in results of %s each of ips has a version, %q for %s: %s", f.version, family, ip.Address, f.add.stdout)
		}
	}
	return &r, nil
}

func familyOf(address string) string {
	if strings.Contains(address, ":") {
		return "6"
	}
	return "4"
}

// families returns the families of the result's addresses.
func (r *versionResult) families() map[string]bool {
	all := map[string]bool{"4": r.IP4 != nil, "6": r.IP6 != nil}
	if !r.lists() {
		return all
	}
	all = map[string]bool{}
	for _, ip := range r.IPs {
		all[familyOf(ip.Address)] = true
	}
	return all
}

// names reports whether the result lists the container's interface, with its sandbox.
func (r *versionResult) names() bool {
	return (&result{Interfaces: r.Interfaces}).inside(r.of.ifName, r.of.ns) >= 0
}

// tellsLessThan reports what the newest version's result has and this one lacks,
// although results of its version have it too.
func (r *versionResult) tellsLessThan(newest *versionResult) error {
	lacks := func(what string) error {
		return fmt.Errorf("the result of an ADD of cniVersion %s has no %s, which that of %s has: %s, and of %s: %s",
			r.of.version, what, newest.of.version, r.of.add.stdout, newest.of.version, newest.of.add.stdout)
	}
	for family, has := range newest.families() {
		if has && !r.families()[family] {
			if r.lists() {
				return lacks("address of IPv" + family + " in ips")
			}
			return lacks("ip" + family)
		}
	}
	if !r.lists() {
		return nil
	}
	if newest.names() && !r.names() {
		return lacks(fmt.Sprintf("interface %q with the sandbox %q", r.of.ifName, r.of.ns))
	}
	if len(newest.Routes) > 0 && len(r.Routes) == 0 {
		return lacks("routes")
	}
	return nil
}
