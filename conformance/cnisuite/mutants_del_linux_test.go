package cnisuite_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/conformance/cnisuite"
	"github.com/nodekit-project/nodekit/internal/redump"
)

func delMutants() []attachment {
	return []attachment{
		{"drops-args", "CNI-DELEGATE-001", nil},
		{"drops-env", "CNI-DELEGATE-001", nil},
		{"second-of-path", "CNI-DELEGATE-001", nil},
		{"drops-args", "CNI-DELEGATE-002", nil},
		{"delegates-with-netns", "CNI-DELEGATE-003", nil},
		{"shrugs", "CNI-DELEGATE-004", nil},
		{"asks-first", "CNI-DELEGATE-005", nil},
		{"asks-first", "CNI-DELEGATE-006", nil},
		{"own-words", "CNI-DELEGATE-007", nil},
		{"shrugs", "CNI-DELEGATE-008", nil},
		{"shrugs", "CNI-DELEGATE-009", nil},
		{"gives-up", "CNI-DELEGATE-010", nil},
		{"gives-up", "CNI-DELEGATE-011", nil},
		{"leaves-a-route", "CNI-DEL-005", nil},
		{"takes-interface", "CNI-DEL-005", chained},
		{"keeps-mtu", "CNI-DEL-005", chained},
		{"keeps-mac", "CNI-DEL-005", chained},
		{"keeps-down", "CNI-DEL-005", chained},
		{"keeps-promisc", "CNI-DEL-005", chained},
		{"keeps-allmulticast", "CNI-DEL-005", chained},
		{"keeps-queue", "CNI-DEL-005", chained},
		{"keeps-shaping", "CNI-DEL-005", chained},
		{"keeps-neighbour", "CNI-DEL-005", chained},
		{"keeps-shaping-outside", "CNI-DEL-005", chained},
		{"takes-address", "CNI-DEL-005", chained},
		{"tells-of-DEL", "CNI-DEL-006", nil},
		{"tells-of-CHECK", "CNI-DEL-006", nil},
		{"tells-of-STATUS", "CNI-DEL-006", nil},
		{"tells-of-GC", "CNI-DEL-006", nil},
		{"del-needs-prev", "CNI-DEL-007", nil},
		{"del-needs-interface", "CNI-DEL-008", nil},
		{"del-trusts-interface", "CNI-DEL-017", nil},
		{"del-needs-good-prev", "CNI-DEL-009", nil},
		{"deletes-all", "CNI-DEL-010", nil},
		{"deletes-the-container", "CNI-DEL-011", nil},
		{"deletes-by-name", "CNI-DEL-012", nil},
		{"del-needs-args", "CNI-DEL-013", func(t *cnisuite.Target) { t.RuntimeConfig = `{"mac":"02:00:00:00:bb:01"}` }},
		{"forgets-failures", "CNI-DEL-014", nil},
		{"del-needs-tool", "CNI-DEL-015", nil},
		{"forgets-failures", "CNI-ADD-026", nil},
	}
}

// detachers have a fault in what they undo.
func detachers() map[string]func(*cni.Plugin) {
	deleting := func(do func(*cni.Request) error) func(*cni.Plugin) {
		return func(p *cni.Plugin) {
			p.Del = func(ctx context.Context, r *cni.Request) error {
				if err := do(r); err != nil {
					return err
				}
				return del(ctx, r, r.Config.(*config))
			}
		}
	}
	return map[string]func(*cni.Plugin){
		"leaves-a-route": altered(func(r *cni.Request, _ *cni.Result) error {
			return r.InNetNS(func() error {
				return netlink.RouteAdd(&netlink.Route{Dst: network("192.0.2.0/24"), Type: unix.RTN_UNREACHABLE})
			})
		}),
		"del-needs-interface": deleting(func(r *cni.Request) error {
			return inside(r, func(netlink.Link) error { return nil })
		}),
		"del-trusts-interface": func(p *cni.Plugin) {
			p.Add = func(ctx context.Context, r *cni.Request) (*cni.Result, error) {
				return noted(ctx, r, r.Config.(*config))
			}
			p.Del = func(ctx context.Context, r *cni.Request) error {
				if inside(r, func(netlink.Link) error { return nil }) != nil {
					return nil // all has gone with the interface, or so it thinks
				}
				return errors.Join(del(ctx, r, r.Config.(*config)), os.RemoveAll(note(r)))
			}
		},
		"deletes-all": deleting(func(*cni.Request) error {
			links, err := redump.List(netlink.LinkList)
			for _, l := range links {
				if strings.HasPrefix(l.Attrs().Name, "good") {
					err = errors.Join(err, netlink.LinkDel(l))
				}
			}
			return err
		}),
		"deletes-the-container": deleting(func(r *cni.Request) error {
			return remove(hostEnd(&cni.Request{Attachment: cni.Attachment{ContainerID: r.ContainerID, IfName: "eth0"}}))
		}),
		"deletes-by-name": deleting(func(r *cni.Request) error {
			return inside(r, netlink.LinkDel)
		}),
		"del-needs-tool": deleting(func(*cni.Request) error {
			_, err := exec.LookPath("sh")
			return err
		}),
	}
}

// adjusters are chained plugins whose DEL does not undo what ADD did, or undoes
// what somebody else did.
func adjusters() map[string]func(*cni.Plugin) {
	doing := func(add, del func(netlink.Link) error) func(*cni.Plugin) {
		return func(p *cni.Plugin) {
			p.Adjusts, p.Check = true, nil
			p.Add = func(_ context.Context, r *cni.Request) (*cni.Result, error) { return r.PrevResult, inside(r, add) }
			p.Del = func(_ context.Context, r *cni.Request) error {
				_ = inside(r, del) // it may be gone
				return nil
			}
		}
	}
	nothing := func(netlink.Link) error { return nil }
	return map[string]func(*cni.Plugin){
		"takes-interface": doing(nothing, netlink.LinkDel),
		"takes-address": doing(nothing, func(l netlink.Link) error {
			addrs, err := netlink.AddrList(l, netlink.FAMILY_V4)
			if err != nil {
				return err
			}
			return netlink.AddrDel(l, &addrs[0])
		}),
		"keeps-mtu": doing(func(l netlink.Link) error { return netlink.LinkSetMTU(l, 1280) }, nothing),
		"keeps-mac": doing(func(l netlink.Link) error {
			return netlink.LinkSetHardwareAddr(l, net.HardwareAddr{2, 0, 0, 0, 0, 1})
		}, nothing),
		"keeps-down":         doing(netlink.LinkSetDown, nothing),
		"keeps-promisc":      doing(netlink.SetPromiscOn, nothing),
		"keeps-allmulticast": doing(netlink.LinkSetAllmulticastOn, nothing),
		"keeps-queue":        doing(func(l netlink.Link) error { return netlink.LinkSetTxQLen(l, 77) }, nothing),
		"keeps-shaping":      doing(shape, nothing),
		"keeps-neighbour": doing(func(l netlink.Link) error {
			return netlink.NeighSet(&netlink.Neigh{
				LinkIndex: l.Attrs().Index, State: netlink.NUD_PERMANENT, IP: net.IPv4(10, 124, 0, 77), HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 1},
			})
		}, nothing),
		"keeps-shaping-outside": func(p *cni.Plugin) {
			p.Adjusts, p.Check = true, nil
			p.Add = func(_ context.Context, r *cni.Request) (*cni.Result, error) {
				end, err := otherEnd(r)
				if err != nil {
					return nil, err
				}
				return r.PrevResult, shape(end)
			}
			p.Del = func(context.Context, *cni.Request) error { return nil }
		},
	}
}

// shape limits what an interface sends.
func shape(l netlink.Link) error {
	attrs := netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT}
	return netlink.QdiscReplace(&netlink.Tbf{QdiscAttrs: attrs, Rate: 125000, Limit: 32000, Buffer: 32000})
}

// rawDetachers answer by themselves what the SDK would answer for them.
func rawDetachers() map[string]func() int {
	nothingWithout := func(key string) func() int {
		return raw(func(x *exchange) (string, int) {
			if x.command() == "DEL" && x.config()[key] == nil {
				return "", 0
			}
			return x.good()
		})
	}
	telling := func(command string) func() int {
		return raw(func(x *exchange) (string, int) {
			out, rc := x.good()
			if x.command() == command && rc == 0 {
				out = `{"cniVersion":"1.1.0"}`
			}
			return out, rc
		})
	}
	return map[string]func() int{
		"drops-args": raw(func(x *exchange) (string, int) {
			x.set("args", nil)
			return x.good()
		}),
		"drops-env": raw(func(x *exchange) (string, int) {
			delete(x.env, "CNI_ARGS")
			return x.good()
		}),
		"second-of-path": raw(func(x *exchange) (string, int) {
			path := strings.Split(x.env["CNI_PATH"], ":")
			slices.Reverse(path)
			x.env["CNI_PATH"] = strings.Join(path, ":")
			return x.good()
		}),
		"delegates-with-netns": raw(func(x *exchange) (string, int) {
			if x.command() == "DEL" && x.env["CNI_NETNS"] == "" {
				x.set("ipam", map[string]any{})
			}
			return x.good()
		}),
		"shrugs": raw(func(x *exchange) (string, int) {
			out, rc := x.good()
			if rc != 0 {
				out = `{"cniVersion":"1.1.0"}`
			}
			return out, 0
		}),
		"asks-first": raw(func(x *exchange) (string, int) {
			if err := x.ask(); err != nil {
				return refuse(111, "the delegate failed")
			}
			return x.good()
		}),
		"own-words": raw(func(x *exchange) (string, int) {
			out, rc := x.good()
			if rc != 0 {
				return refuse(100, "something went wrong")
			}
			return out, rc
		}),
		"gives-up": raw(func(x *exchange) (string, int) {
			failed := x.state(x.env["CNI_CONTAINERID"])
			if x.command() != "DEL" {
				return x.good()
			}
			if err := x.ask(); err != nil {
				_ = os.WriteFile(failed, nil, 0o600)
				return refuse(111, "the delegate failed")
			}
			if os.Remove(failed) == nil {
				return "", 0 // it thinks that all has been done
			}
			return x.good()
		}),
		"tells-of-DEL":    telling("DEL"),
		"tells-of-CHECK":  telling("CHECK"),
		"tells-of-STATUS": telling("STATUS"),
		"tells-of-GC":     telling("GC"),
		"del-demands-netns": raw(func(x *exchange) (string, int) {
			if _, err := os.Stat(x.env["CNI_NETNS"]); err != nil && x.command() == "DEL" {
				return refuse(4, "CNI_NETNS is not there")
			}
			return x.good()
		}),
		"del-needs-prev": nothingWithout("prevResult"),
		"del-needs-args": nothingWithout("runtimeConfig"),
		"del-needs-good-prev": raw(func(x *exchange) (string, int) {
			prev, ok := x.config()["prevResult"].(map[string]any)
			if x.command() == "DEL" && (!ok || prev["interfaces"] == nil) {
				return refuse(6, "prevResult has no interfaces")
			}
			return x.good()
		}),
		"forgets-failures": raw(func(x *exchange) (string, int) {
			if x.command() != "ADD" {
				return x.good()
			}
			attrs := netlink.NewLinkAttrs()
			attrs.Name = fmt.Sprintf("step%.4x", sha256.Sum256([]byte(x.env["CNI_CONTAINERID"])))
			_ = netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs})
			out, rc := x.good()
			if rc == 0 {
				_ = remove(attrs.Name)
			}
			return out, rc
		}),
	}
}

// ask executes the delegate by hand, and loses what it says.
func (x *exchange) ask() error {
	dir, _, _ := strings.Cut(x.env["CNI_PATH"], ":")
	cmd := exec.Command(filepath.Join(dir, "suite-ipam"))
	cmd.Stdin = bytes.NewReader(x.stdin)
	return cmd.Run()
}

func concurrentMutants() []attachment {
	return []attachment{
		{"one-at-a-time", "CNI-ADD-028", nil},
		{"counts-badly", "CNI-ADD-027", func(t *cnisuite.Target) { t.Config = `{"state":"${DIR}"}` }},
		{"one-address", "CNI-ADD-027", func(t *cnisuite.Target) { t.Config = `{"state":"${DIR}"}` }},
		{"one-mac", "CNI-ADD-027", nil},
		{"del-once", "CNI-DEL-016", nil},
		{"plain", "CNI-DATA-001", nil}, // nothing connects its pairs
		{"lonely-gateway", "CNI-DATA-002", nil},
		{"lonely-gateway", "CNI-DATA-003", nil},
	}
}

// hasty do not expect others beside them.
func hasty() map[string]func(*cni.Plugin) {
	locked := func(r *cni.Request) (unlock func() error, err error) {
		path := filepath.Join(r.Config.(*config).State, "lock")
		err = exclusive(path)
		time.Sleep(20 * time.Millisecond)
		return func() error { return os.Remove(path) }, err
	}
	return map[string]func(*cni.Plugin){
		"one-at-a-time": func(p *cni.Plugin) {
			p.Add = func(ctx context.Context, r *cni.Request) (*cni.Result, error) {
				unlock, err := locked(r)
				if err != nil {
					return nil, err
				}
				defer func() { _ = unlock() }()
				return add(ctx, r, r.Config.(*config))
			}
		},
		"counts-badly": altered(func(r *cni.Request, out *cni.Result) error {
			path := filepath.Join(r.Config.(*config).State, "count")
			text, _ := os.ReadFile(path) // none at first
			count, _ := strconv.Atoi(string(text))
			time.Sleep(20 * time.Millisecond)
			address := network(fmt.Sprintf("10.123.9.%d/16", count+1))
			out.IPs = []*types100.IPConfig{{Interface: types100.Int(0), Address: *address}}
			return os.WriteFile(path, []byte(strconv.Itoa(count+1)), 0o600)
		}),
		"one-address": altered(func(_ *cni.Request, out *cni.Result) error {
			out.IPs = []*types100.IPConfig{{Address: *network("10.123.9.1/16")}} // it does not say where
			return nil
		}),
		"one-mac": altered(func(r *cni.Request, out *cni.Result) error {
			attrs := netlink.NewLinkAttrs()
			attrs.Name = "mac0"
			bridge := &netlink.Bridge{LinkAttrs: attrs}
			_ = netlink.LinkAdd(bridge) // it exists after the first
			port, err := netlink.LinkByName(hostEnd(r))
			if err != nil {
				return err
			}
			out.Interfaces[0].Mac = "02:00:00:00:00:01"
			return errors.Join(netlink.LinkSetMaster(port, bridge), inside(r, func(l netlink.Link) error {
				return netlink.LinkSetHardwareAddr(l, net.HardwareAddr{2, 0, 0, 0, 0, 1})
			}))
		}),
		"lonely-gateway": altered(func(*cni.Request, *cni.Result) error {
			lo, err := netlink.LinkByName("lo")
			if err != nil {
				return err
			}
			return netlink.AddrReplace(lo, &netlink.Addr{IPNet: network("10.123.0.1/32")})
		}),
		"del-once": func(p *cni.Plugin) {
			p.Del = func(ctx context.Context, r *cni.Request) error {
				unlock, err := locked(r)
				if err != nil {
					return err
				}
				return errors.Join(del(ctx, r, r.Config.(*config)), unlock())
			}
		},
	}
}
