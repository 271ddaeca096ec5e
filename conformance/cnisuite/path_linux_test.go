package cnisuite_test

import (
	"context"
	"os/exec"
	"testing"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/cni/bridge"
	"github.com/nodekit-project/nodekit/conformance/cnisuite"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// masquerading declares a bridge with the suite's addresses.
func masquerading(tgt *cnisuite.Target) {
	tgt.Config = `{"bridge":"path0","isDefaultGateway":true,"ipMasq":true,"ipam":{"type":"suite-ipam"}}`
}

// pathMutants are plugins whose packets go astray.
func pathMutants() []attachment {
	return []attachment{
		{"masq-nothing", "CNI-DATA-004", masquerading},
		{"masq-all", "CNI-DATA-005", masquerading},
		{"narrow", "CNI-DATA-006", nil},
	}
}

// bridged is the plugin for bridges with something done before its call, or after
// one that succeeded.
func bridged(before, after func(x *exchange) error) func() int {
	return raw(func(x *exchange) (string, int) {
		if err := before(x); err != nil {
			return refuse(100, err.Error())
		}
		out, err := cni.Invoke(context.Background(), bridge.Plugin(), x.env, x.stdin)
		if err != nil {
			return string(out), 1
		}
		if err := after(x); err != nil {
			return refuse(100, err.Error())
		}
		return string(out), 0
	})
}

func paths() map[string]func() int {
	nothing := func(*exchange) error { return nil }
	return map[string]func() int{
		"masq-nothing": bridged(func(x *exchange) error { x.set("ipMasq", false); return nil }, nothing),
		"masq-all":     bridged(nothing, routeAll("masquerade")),
		"routes-all":   bridged(nothing, routeAll("accept")),
	}
}

// routeAll has the host between the containers, as a router does that knows no
// links they share, and does something there with what they send each other.
func routeAll(verdict string) func(*exchange) error {
	return func(x *exchange) error {
		if x.command() != "ADD" {
			return nil
		}
		const inside = "ip route replace 10.123.0.1 dev eth0 && ip route replace 10.123.0.0/16 via 10.123.0.1 dev eth0 onlink"
		if err := exec.Command("nsenter", "--net="+x.env["CNI_NETNS"], "sh", "-c", inside).Run(); err != nil {
			return err
		}
		return exec.Command("nft", `add table ip astray; add chain ip astray post { type nat hook postrouting priority 50; };
			add rule ip astray post ip saddr 10.123.0.0/16 ip daddr 10.123.0.0/16 `+verdict).Run()
	}
}

// narrow connects containers by ports that take only smaller packets than the
// containers' interfaces send.
func narrow(ctx context.Context, r *cni.Request) (*cni.Result, error) {
	out, err := add(ctx, r, r.Config.(*config))
	if err != nil {
		return nil, err
	}
	port := hostEnd(r)
	script := "ip link add narrow0 type bridge; ip link set narrow0 up && ip link set " + port + " master narrow0 mtu 1000 up"
	return out, exec.Command("sh", "-c", script).Run()
}

// TestPathLegal has a plugin whose containers reach each other by the host.
func TestPathLegal(t *testing.T) {
	testenv.Require(t, testenv.Root, testenv.NFT)
	tgt := target(t, "routes-all")
	masquerading(&tgt)
	legal(t, "CNI-DATA-", tgt)
}
