package cni_test

import (
	"context"
	"strings"
	"testing"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/internal/netnstest"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// TestVerify takes away, one by one, what a result says of an interface.
func TestVerify(t *testing.T) {
	testenv.Require(t, testenv.Root)
	const (
		nic    = `"name":"eth0","sandbox":"/any","mac":"02:00:00:00:00:0A"`
		ips    = `{"address":"10.7.0.2/16","interface":1},{"address":"fd07::2/64"},{"address":"10.9.0.9/32","interface":0}`
		routes = `{"dst":"0.0.0.0/0","gw":"10.7.0.1"},{"dst":"10.8.0.0/16"},{"dst":"fd08::/64","gw":"fd07::1"}`
		table  = `{"dst":"10.11.0.0/16","gw":"10.7.0.1","table":77}`
		others = `{"name":"eth0","mac":"02:00:00:00:00:0b"},`
	)
	whole := `{"cniVersion":"1.1.0","interfaces":[` + others + `{` + nic + `}],"ips":[` + ips + `],"routes":[` + routes + `,` + table + `]}`
	for name, c := range map[string]struct {
		change string // of the namespace
		result string // in place of the whole one
		code   uint
		says   []string
	}{
		"nothing is missing":      {},
		"more than the result":    {change: "ip address add 10.10.0.1/24 dev eth0; ip route add 10.12.0.0/16 via 10.7.0.1"},
		"no interface":            {change: "ip link delete eth0", code: cni.CodeNotAsExpected, says: []string{`interface "eth0" is missing`}},
		"down":                    {change: "ip link set eth0 down", code: cni.CodeNotAsExpected, says: []string{`"eth0" in the container is down`, "0.0.0.0/0 by 10.7.0.1"}},
		"another address":         {change: "ip link set eth0 address 02:00:00:00:00:0c", code: cni.CodeNotAsExpected, says: []string{"02:00:00:00:00:0c instead of 02:00:00:00:00:0A"}},
		"an address less":         {change: "ip address delete fd07::2/64 dev eth0", code: cni.CodeNotAsExpected, says: []string{"lacks the address fd07::2/64"}},
		"another prefix":          {change: "ip address delete 10.7.0.2/16 dev eth0; ip address add 10.7.0.2/24 dev eth0", code: cni.CodeNotAsExpected, says: []string{"lacks the address 10.7.0.2/16"}},
		"a route less":            {change: "ip route delete 10.8.0.0/16", code: cni.CodeNotAsExpected, says: []string{"lacks the route to 10.8.0.0/16"}},
		"a route of a table less": {change: "ip route flush table 77", code: cni.CodeNotAsExpected, says: []string{"10.11.0.0/16 by 10.7.0.1"}},
		"another gateway":         {change: "ip route replace default via 10.7.0.3", code: cni.CodeNotAsExpected, says: []string{"lacks the route to 0.0.0.0/0 by 10.7.0.1"}},
		"two faults": {
			change: "ip address delete fd07::2/64 dev eth0; ip route delete 10.8.0.0/16", code: cni.CodeNotAsExpected,
			says: []string{"fd07::2/64", "10.8.0.0/16"},
		},
		"a result of nothing":     {result: `{"cniVersion":"1.1.0"}`, code: cni.CodeConfig, says: []string{`no interface "eth0" in a sandbox`}},
		"a result of the host's":  {result: `{"cniVersion":"1.1.0","interfaces":[{"name":"eth0"}]}`, code: cni.CodeConfig, says: []string{"in a sandbox"}},
		"an address with hyphens": {result: `{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","sandbox":"/any","mac":"02-00-00-00-00-0A"}]}`},
		"a MAC that is none":      {result: `{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","sandbox":"/any","mac":"02"}]}`, code: cni.CodeNotAsExpected, says: []string{"instead of 02"}},
		"a greater MTU":           {change: "ip link set eth0 mtu 1500", result: `{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","sandbox":"/any","mtu":1400}]}`, code: cni.CodeNotAsExpected, says: []string{"has the MTU 1500 instead of 1400"}},
		"an MTU tuned down":       {change: "ip link set eth0 mtu 1300", result: `{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","sandbox":"/any","mtu":1400}]}`},
		"a result of little":      {result: `{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","sandbox":"/any"}]}`},
		"an address that is none": {result: `{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","sandbox":"/any"}],"ips":[{"address":"10.7.0.2/16"},{"address":"10.7.0.4/16"}]}`, code: cni.CodeNotAsExpected, says: []string{"10.7.0.4/16"}},
	} {
		t.Run(name, func(t *testing.T) {
			ns := netnstest.New(t)
			netnstest.Run(t, ns, "sh", "-ec", `ip link add eth0 address 02:00:00:00:00:0a type veth peer name far
				ip link set far up; ip link set eth0 up; ip address add 10.7.0.2/16 dev eth0; ip address add fd07::2/64 dev eth0 nodad
				ip route add default via 10.7.0.1; ip route add 10.8.0.0/16 dev eth0; ip route add fd08::/64 via fd07::1
				ip route add 10.11.0.0/16 via 10.7.0.1 table 77; `+c.change)
			prev := c.result
			if prev == "" {
				prev = whole
			}
			err := verify(t, ns, prev)
			if err == nil && c.code == 0 {
				return
			}
			if cni.CodeOf(err) != c.code {
				t.Fatalf("%v, want code %d", err, c.code)
			}
			for _, says := range c.says {
				if !strings.Contains(err.Error(), says) {
					t.Errorf("%v: no %q in it", err, says)
				}
			}
		})
	}
}

// verify is the CHECK of a plugin that leaves all to Verify.
func verify(t *testing.T, ns, prev string) error {
	t.Helper()
	p := cni.New("p", cni.Handlers[struct{}]{Check: func(_ context.Context, r *cni.Request, _ *struct{}) error {
		return r.Verify(r.PrevResult)
	}})
	e := env(cni.CmdCheck)
	e["CNI_NETNS"] = ns
	_, err := cni.Invoke(t.Context(), p, e, []byte(request(`,"prevResult":`+prev)))
	return err
}
