package cnisuite_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/vishvananda/netlink"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/conformance"
	"github.com/nodekit-project/nodekit/conformance/cnisuite"
)

// attachment is a mutant of the rules on ADD and DEL.
type attachment struct {
	name, rule string
	declare    func(*cnisuite.Target) // or nil
}

func attachmentMutants() (all []conformance.Mutant[cnisuite.Target]) {
	for _, m := range slices.Concat(addMutants(), delMutants(), leftoverMutants(), concurrentMutants(), pathMutants(), checkMoreMutants()) {
		all = append(all, conformance.Mutant[cnisuite.Target]{
			Name: m.name, Rule: m.rule,
			Target: func(t testing.TB) cnisuite.Target {
				t.(*testing.T).Parallel() // each rule has a lab of its own
				tgt := target(t, m.name)
				if m.declare != nil {
					m.declare(&tgt)
				}
				return tgt
			},
		})
	}
	return all
}

func chained(t *cnisuite.Target) { t.Kind, t.Config = cnisuite.Chained, `{"state":"${DIR}"}` }

func addMutants() []attachment {
	return []attachment{
		{"says-newest", "CNI-ADD-003", nil},
		{"old-without-interfaces", "CNI-ADD-003", nil},
		{"old-without-sandbox", "CNI-ADD-003", nil},
		{"old-without-ips", "CNI-ADD-003", nil},
		{"old-without-prefix", "CNI-ADD-003", nil},
		{"hides-host-end", "CNI-ADD-004", nil},
		{"invents-mtu", "CNI-ADD-005", nil},
		{"invents-interface", "CNI-ADD-005", nil},
		{"tells-no-mtu", "CNI-ADD-006", nil},
		{"another-prefix", "CNI-ADD-007", nil},
		{"adds-an-address", "CNI-ADD-008", nil},
		{"adds-an-address-to-lo", "CNI-ADD-008", nil},
		{"invents-route", "CNI-ADD-009", nil},
		{"hides-route", "CNI-ADD-029", nil},
		{"invents-route-mtu", "CNI-ADD-025", nil},
		{"replaces-interface", "CNI-ADD-010", nil},
		{"gives-back", "CNI-ADD-011", nil},
		{"forgets-prev", "CNI-ADD-012", nil},
		{"forgets-address", "CNI-ADD-012", chained},
		{"forgets-route", "CNI-ADD-012", chained},
		{"forgets-route", "CNI-ADD-013", chained},
		{"counts-from-zero", "CNI-ADD-012", nil},
		{"forgets-gateway", "CNI-ADD-013", chained},
		{"changes-prev", "CNI-ADD-013", chained},
		{"dies-without-prev", "CNI-ADD-014", chained},
		{"ignores-netns", "CNI-ADD-015", nil},
		{"early-link", "CNI-ADD-016", nil},
		{"one-per-container", "CNI-ADD-017", nil},
		{"remembers", "CNI-ADD-018", nil},
		{"remembers", "CNI-ADD-024", nil},
		{"plain", "CNI-ADD-019", func(t *cnisuite.Target) { t.RuntimeConfig = `{"mac":"02:00:00:00:bb:01"}` }},
		{"obeys-env", "CNI-ADD-020", func(t *cnisuite.Target) { t.RuntimeConfig = `{"mac":"02:00:00:00:bb:01"}` }},
		{"ignores-dns", "CNI-ADD-021", nil},
		{"sets-sysctl", "CNI-ADD-022", nil},
	}
}

// altered changes what a plugin without fault has done and says.
func altered(change func(*cni.Request, *cni.Result) error) func(*cni.Plugin) {
	return func(p *cni.Plugin) {
		p.Add = func(ctx context.Context, r *cni.Request) (*cni.Result, error) {
			out, err := add(ctx, r, r.Config.(*config))
			if err != nil {
				return nil, err
			}
			return out, change(r, out)
		}
	}
}

// before does something before the ADD, and instead of it when it fails.
func before(do func(context.Context, *cni.Request) error) func(*cni.Plugin) {
	return func(p *cni.Plugin) {
		p.Add = func(ctx context.Context, r *cni.Request) (*cni.Result, error) {
			if err := do(ctx, r); err != nil {
				return nil, err
			}
			return add(ctx, r, r.Config.(*config))
		}
	}
}

// attachers have a fault in what they do for an attachment.
func attachers() map[string]func(*cni.Plugin) {
	return map[string]func(*cni.Plugin){
		"hides-host-end": altered(func(_ *cni.Request, out *cni.Result) error {
			out.Interfaces = out.Interfaces[:1]
			return nil
		}),
		"invents-mtu": altered(func(_ *cni.Request, out *cni.Result) error {
			out.Interfaces[1].Mtu = 9000
			return nil
		}),
		"invents-interface": altered(func(_ *cni.Request, out *cni.Result) error {
			out.Interfaces = append(out.Interfaces, &cni.Interface{Name: "nowhere"})
			return nil
		}),
		"tells-no-mtu": altered(func(_ *cni.Request, out *cni.Result) error {
			out.Interfaces[0].Mtu = 0
			return nil
		}),
		"another-prefix": altered(func(_ *cni.Request, out *cni.Result) error {
			out.IPs[0].Address.Mask = net.CIDRMask(24, 32)
			return nil
		}),
		"adds-an-address": altered(func(r *cni.Request, _ *cni.Result) error {
			return inside(r, func(l netlink.Link) error {
				return netlink.AddrAdd(l, &netlink.Addr{IPNet: network("192.0.2.1/32")})
			})
		}),
		"adds-an-address-to-lo": altered(func(r *cni.Request, _ *cni.Result) error {
			return r.InNetNS(func() error {
				lo, err := netlink.LinkByName("lo")
				if err != nil {
					return err
				}
				return netlink.AddrAdd(lo, &netlink.Addr{IPNet: network("192.0.2.1/32")})
			})
		}),
		"hides-route": altered(func(_ *cni.Request, out *cni.Result) error {
			out.Routes = nil
			return nil
		}),
		"invents-route": altered(func(_ *cni.Request, out *cni.Result) error {
			out.Routes = append(out.Routes, &types.Route{Dst: *network("198.51.100.0/24")})
			return nil
		}),
		"invents-route-mtu": altered(func(_ *cni.Request, out *cni.Result) error {
			for _, route := range out.Routes {
				route.MTU = 1234
			}
			return nil
		}),
		"gives-back": func(p *cni.Plugin) {
			p.Adjusts = true // or the SDK refuses
			p.Add = func(ctx context.Context, r *cni.Request) (*cni.Result, error) {
				out, err := add(ctx, r, r.Config.(*config))
				if err == nil {
					return out, nil
				}
				return nil, errors.Join(err, r.Delegate("suite-ipam").Del(ctx))
			}
		},
		"forgets-prev": func(p *cni.Plugin) {
			p.Add = func(ctx context.Context, r *cni.Request) (*cni.Result, error) {
				r.PrevResult = nil
				return add(ctx, r, r.Config.(*config))
			}
		},
		"forgets-address": func(p *cni.Plugin) {
			p.Add = func(_ context.Context, r *cni.Request) (*cni.Result, error) {
				r.PrevResult.IPs = nil
				return r.PrevResult, nil
			}
		},
		"forgets-route": func(p *cni.Plugin) {
			p.Add = func(_ context.Context, r *cni.Request) (*cni.Result, error) {
				r.PrevResult.Routes = nil
				return r.PrevResult, nil
			}
		},
		"forgets-gateway": func(p *cni.Plugin) {
			p.Add = func(_ context.Context, r *cni.Request) (*cni.Result, error) {
				r.PrevResult.IPs[0].Gateway = nil
				return r.PrevResult, nil
			}
		},
		"counts-from-zero": altered(func(_ *cni.Request, out *cni.Result) error {
			slices.Reverse(out.Interfaces) // and the indices stay
			return nil
		}),
		"changes-prev": func(p *cni.Plugin) {
			p.Add = func(_ context.Context, r *cni.Request) (*cni.Result, error) {
				r.PrevResult.DNS.Domain = "elsewhere.example"
				return r.PrevResult, nil
			}
		},
		"one-per-container": func(p *cni.Plugin) {
			before(func(_ context.Context, r *cni.Request) error { return exclusive(note(r)) })(p)
			p.Del = func(ctx context.Context, r *cni.Request) error {
				return errors.Join(del(ctx, r, r.Config.(*config)), os.RemoveAll(note(r)))
			}
		},
		"remembers": before(func(_ context.Context, r *cni.Request) error { return exclusive(note(r)) }),
		"obeys-env": altered(func(r *cni.Request, _ *cni.Result) error {
			return inside(r, func(l netlink.Link) error {
				mac, err := net.ParseMAC(r.Args["MAC"])
				if err != nil {
					return err
				}
				return netlink.LinkSetHardwareAddr(l, mac)
			})
		}),
		"ignores-dns": func(p *cni.Plugin) {
			p.NewConfig = func() any { return new(withDNS) }
			p.Add = func(ctx context.Context, r *cni.Request) (*cni.Result, error) {
				return add(ctx, r, &r.Config.(*withDNS).config)
			}
			p.Del = func(ctx context.Context, r *cni.Request) error { return del(ctx, r, nil) }
		},
		"sets-sysctl": before(func(context.Context, *cni.Request) error {
			return os.WriteFile("/proc/sys/net/ipv4/ip_default_ttl", []byte("77"), 0)
		}),
	}
}

type withDNS struct {
	config
	DNS types.DNS `json:"dns"`
}

// inside does something with the container's interface.
func inside(r *cni.Request, do func(netlink.Link) error) error {
	return r.InNetNS(func() error {
		l, err := netlink.LinkByName(r.IfName)
		if err != nil {
			return err
		}
		return do(l)
	})
}

// exclusive makes a file that must not be there.
func exclusive(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

func network(cidr string) *net.IPNet {
	ip, n, err := net.ParseCIDR(cidr)
	if err != nil {
		panic(err)
	}
	n.IP = ip
	return n
}

// rawAttachers answer by themselves what the SDK would answer for them.
func rawAttachers() map[string]func() int {
	return map[string]func() int{
		"says-newest": raw(func(x *exchange) (string, int) {
			out, rc := x.good()
			if x.command() == "ADD" {
				out = regexp.MustCompile(`("cniVersion": *)"[^"]*"`).ReplaceAllString(out, `$1"1.1.0"`)
			}
			return out, rc
		}),
		"old-without-interfaces": inOldResults(func(r map[string]any) { delete(r, "interfaces") }),
		"old-without-sandbox": inOldResults(func(r map[string]any) {
			nics, _ := r["interfaces"].([]any)
			for _, nic := range nics {
				delete(nic.(map[string]any), "sandbox")
			}
		}),
		"old-without-ips": inOldResults(func(r map[string]any) { delete(r, "ips"); delete(r, "ip4") }),
		"old-without-prefix": inOldResults(func(r map[string]any) {
			if ip4, old := r["ip4"].(map[string]any); old {
				ip4["ip"], _, _ = strings.Cut(ip4["ip"].(string), "/")
			}
		}),
		"dies-without-prev": raw(func(x *exchange) (string, int) {
			if x.command() == "ADD" && x.config()["prevResult"] == nil {
				return "", 2
			}
			return x.good()
		}),
		"ignores-netns": raw(func(x *exchange) (string, int) {
			if _, err := os.Stat(x.env["CNI_NETNS"]); err != nil {
				return `{"cniVersion":"1.1.0"}`, 0
			}
			return x.good()
		}),
		"early-link": raw(func(x *exchange) (string, int) {
			attrs := netlink.NewLinkAttrs()
			attrs.Name = fmt.Sprintf("early%.4x", sha256.Sum256([]byte(x.env["CNI_CONTAINERID"])))
			switch x.command() {
			case "ADD":
				_ = netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs})
			case "DEL":
				_ = remove(attrs.Name)
			}
			return x.good()
		}),
	}
}

// inOldResults is the good plugin with a change in results of versions before 1.1.0.
func inOldResults(change func(map[string]any)) func() int {
	return raw(func(x *exchange) (string, int) {
		out, rc := x.good()
		var r map[string]any
		if x.command() != "ADD" || x.config()["cniVersion"] == cni.Newest || json.Unmarshal([]byte(out), &r) != nil {
			return out, rc
		}
		change(r)
		changed, _ := json.Marshal(r)
		return string(changed), rc
	})
}
