package cni_test

import (
	"context"
	"net"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/internal/netnstest"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

func TestConfigure(t *testing.T) {
	testenv.Require(t, testenv.Root)
	ns := netnstest.New(t)
	scope := 253
	p := cni.New("p", cni.Handlers[struct{}]{Add: func(_ context.Context, r *cni.Request, _ *struct{}) (*cni.Result, error) {
		pair := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: r.IfName, PeerNamespace: netlink.NsFd(r.NetNSFD())}
		pair.Name = r.HostName("conf", r.Network)
		if err := netlink.LinkAdd(pair); err != nil {
			return nil, err
		}
		r.Undo("pair", func(context.Context) error { return netlink.LinkDel(pair) })
		_, four, _ := net.ParseCIDR("10.7.0.0/16")
		_, six, _ := net.ParseCIDR("fd07::/64")
		four.IP, six.IP = net.IPv4(10, 7, 0, 2), net.ParseIP("fd07::2")
		_, everywhere, _ := net.ParseCIDR("0.0.0.0/0")
		_, near, _ := net.ParseCIDR("10.8.0.0/16")
		result := &cni.Result{
			Interfaces: []*types100.Interface{{Name: pair.Name}},
			IPs:        []*types100.IPConfig{{Address: *four, Gateway: net.IPv4(10, 7, 0, 1)}, {Address: *six}},
			Routes:     []*types.Route{{Dst: *everywhere, MTU: 1300, Priority: 7}, {Dst: *near, Scope: &scope}},
		}
		return result, r.Configure(result)
	}})
	e := env("ADD")
	e["CNI_NETNS"] = ns
	out, err := cni.Invoke(t.Context(), p, e, []byte(`{"cniVersion":"1.1.0","name":"n"}`))
	if err != nil {
		t.Fatal(err)
	}
	result, err := cni.DecodeResult(out, "")
	if err != nil || len(result.Interfaces) != 2 || result.Interfaces[1].Name != "eth0" || result.Interfaces[1].Sandbox != ns ||
		result.Interfaces[0].Mac == "" || result.Interfaces[1].Mac == "" || result.Interfaces[1].Mtu != 1500 || *result.IPs[0].Interface != 1 {
		t.Errorf("result %s, %v", out, err)
	}
	for command, wants := range map[string][]string{
		"-o addr show eth0": {"10.7.0.2/16", "fd07::2/64"},
		"-4 route":          {"default via 10.7.0.1 dev eth0", "metric 7", "mtu 1300", "10.8.0.0/16 dev eth0"},
		"-o link show eth0": {"UP", result.Interfaces[1].Mac},
	} {
		got := netnstest.Run(t, ns, append([]string{"ip"}, strings.Fields(command)...)...)
		for _, want := range wants {
			if !strings.Contains(got, want) {
				t.Errorf("ip %s: no %q in\n%s", command, want, got)
			}
		}
	}
}
