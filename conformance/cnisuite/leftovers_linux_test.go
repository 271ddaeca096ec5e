package cnisuite_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"net"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cni"
)

func leftoverMutants() []attachment {
	return []attachment{
		{"leaves-a-neighbour", "CNI-DEL-003", nil},
		{"leaves-a-proxy", "CNI-DEL-003", nil},
		{"leaves-a-bridge-entry", "CNI-DEL-003", nil},
		{"leaves-a-class", "CNI-DEL-003", nil},
		{"leaves-a-filter", "CNI-DEL-003", nil},
		{"flushes-all-rules", "CNI-DEL-003", nil},
	}
}

// leavers share a bridge between attachments and leave something of each there, or remove
// what is not theirs.
func leavers() map[string]func(*cni.Plugin) {
	leaving := func(leave func(bridge netlink.Link, mac net.HardwareAddr) error) func(*cni.Plugin) {
		return altered(func(r *cni.Request, _ *cni.Result) error {
			attrs := netlink.NewLinkAttrs()
			attrs.Name = "shared0"
			_ = netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}) // it exists after the first
			bridge, err := netlink.LinkByName(attrs.Name)
			if err != nil {
				return err
			}
			sum := sha256.Sum256([]byte(r.Attachment.String()))
			return errors.Join(netlink.LinkSetUp(bridge), leave(bridge, append(net.HardwareAddr{2}, sum[:5]...)))
		})
	}
	return map[string]func(*cni.Plugin){
		"leaves-a-neighbour": leaving(func(bridge netlink.Link, mac net.HardwareAddr) error {
			return netlink.NeighSet(&netlink.Neigh{
				LinkIndex: bridge.Attrs().Index, State: netlink.NUD_PERMANENT, IP: net.IPv4(10, 123, mac[1], mac[2]), HardwareAddr: mac,
			})
		}),
		"leaves-a-proxy": leaving(func(bridge netlink.Link, mac net.HardwareAddr) error {
			return netlink.NeighSet(&netlink.Neigh{
				LinkIndex: bridge.Attrs().Index, Flags: netlink.NTF_PROXY, IP: net.IPv4(10, 123, mac[1], mac[2]),
			})
		}),
		"leaves-a-bridge-entry": leaving(func(bridge netlink.Link, mac net.HardwareAddr) error {
			return netlink.NeighSet(&netlink.Neigh{
				LinkIndex: bridge.Attrs().Index, Family: unix.AF_BRIDGE, Flags: netlink.NTF_SELF, State: netlink.NUD_PERMANENT, HardwareAddr: mac,
			})
		}),
		"leaves-a-class": leaving(func(bridge netlink.Link, mac net.HardwareAddr) error {
			root := netlink.QdiscAttrs{LinkIndex: bridge.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT}
			_ = netlink.QdiscAdd(netlink.NewHtb(root)) // it exists after the first
			class := netlink.ClassAttrs{LinkIndex: bridge.Attrs().Index, Parent: root.Handle, Handle: netlink.MakeHandle(1, uint16(mac[1])<<8+uint16(mac[2])+1)}
			return netlink.ClassAdd(netlink.NewHtbClass(class, netlink.HtbClassAttrs{Rate: 1 << 20, Buffer: 32 << 10, Cbuffer: 32 << 10}))
		}),
		"leaves-a-filter": leaving(func(bridge netlink.Link, mac net.HardwareAddr) error {
			ingress := netlink.QdiscAttrs{LinkIndex: bridge.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}
			_ = netlink.QdiscAdd(&netlink.Clsact{QdiscAttrs: ingress}) // it exists after the first
			return netlink.FilterAdd(&netlink.U32{FilterAttrs: netlink.FilterAttrs{
				LinkIndex: bridge.Attrs().Index, Parent: netlink.HANDLE_MIN_INGRESS, Protocol: unix.ETH_P_ALL, Priority: uint16(mac[1])<<8 + uint16(mac[2]) + 1,
			}})
		}),
		"flushes-all-rules": func(p *cni.Plugin) {
			p.Del = func(ctx context.Context, r *cni.Request) error {
				conn, err := nftables.New()
				if err != nil {
					return err
				}
				conn.FlushRuleset()
				return errors.Join(conn.Flush(), del(ctx, r, r.Config.(*config)))
			}
		},
	}
}
