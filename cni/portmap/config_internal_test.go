package portmap

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"

	"github.com/nodekit-project/nodekit/cni"
)

func prev(addrs ...string) *cni.Result {
	r := &cni.Result{Interfaces: []*cni.Interface{{Name: "br"}, {Name: "eth0", Sandbox: "/ns"}, {Name: "eth1", Sandbox: "/ns"}}}
	one := 1
	for _, a := range addrs {
		ip, n, _ := net.ParseCIDR(a)
		n.IP = ip
		r.IPs = append(r.IPs, &types100.IPConfig{Address: *n, Interface: &one})
	}
	return r
}

// String is what tests compare.
func (f forward) String() string {
	host := ""
	if f.host.IsValid() {
		host = strings.TrimSuffix(netip.AddrPortFrom(f.host, 0).String(), ":0")
	}
	return fmt.Sprintf("%d %s:%d -> %s", f.protocol, host, f.from, netip.AddrPortFrom(f.container, f.to))
}

func read(t *testing.T, doc string) (c Config) {
	t.Helper()
	if err := json.Unmarshal([]byte(doc), &c); err != nil {
		t.Fatal(err)
	}
	return c
}

// TestDialects has what configurations for upstream's plugin say.
func TestDialects(t *testing.T) {
	for doc, refused := range map[string]string{
		`{}`:                                     "",
		`{"snat":true}`:                          "",
		`{"snat":false}`:                         "",
		`{"snat":true,"masqAll":true}`:           "",
		`{"snat":false,"masqAll":true}`:          "masqAll",
		`{"backend":"nftables"}`:                 "",
		`{"backend":"iptables","markMasqBit":5}`: "",
		`{"backend":"ipvs"}`:                     "backend",
		`{"markMasqBit":32}`:                     "markMasqBit",
		`{"markMasqBit":-1}`:                     "markMasqBit",
		`{"markMasqBit":null,"conditionsV4":[],"conditionsV6":null}`:  "",
		`{"externalSetMarkChain":"KUBE-MARK-MASQ"}`:                   "externalSetMarkChain",
		`{"conditionsV4":["!","-d","192.0.2.0/24"]}`:                  "conditionsV4",
		`{"backend":"nftables","conditionsV6":["ip6","daddr","::1"]}`: "conditionsV6",
	} {
		c := read(t, doc)
		err := c.complete()
		if refused == "" && err != nil {
			t.Errorf("%s: %v", doc, err)
		}
		if refused != "" && (cni.CodeOf(err) != cni.CodeConfig || !strings.Contains(err.Error(), refused)) {
			t.Errorf("%s: %v", doc, err)
		}
	}
}

func TestMappingMistakes(t *testing.T) {
	both := prev("10.0.0.2/24", "fd00::2/64")
	v4 := prev("10.0.0.2/24")
	odd := prev("10.0.0.2/24")
	*odd.IPs[0].Interface = 9
	elsewhere := prev("10.0.0.2/24")
	*elsewhere.IPs[0].Interface = 2
	for _, c := range []struct {
		prev     *cni.Result
		mappings string
		want     string // "" for none; a part of the error
	}{
		{both, `{"hostPort":0}`, ""},
		{both, `{"hostPort":80,"containerPort":80},{"hostPort":80,"containerPort":80,"protocol":"udp"}`, ""},
		{both, `{"hostPort":99999,"containerPort":80}`, "portMappings[0].hostPort: 99999"},
		{both, `{"hostPort":-1,"containerPort":80}`, "portMappings[0].hostPort: -1"},
		{both, `{"hostPort":80}`, "portMappings[0].containerPort: 0"},
		{both, `{"hostPort":80,"containerPort":80,"protocol":"dccp"}`, `portMappings[0].protocol: "dccp"`},
		{both, `{"hostPort":80,"containerPort":80,"hostIP":"bogus"}`, `portMappings[0].hostIP: "bogus"`},
		{both, `{"hostPort":80,"containerPort":80,"hostIP":"fe80::1%eth0"}`, "portMappings[0].hostIP"},
		{both, `{"hostPort":80,"containerPort":80,"hostIP":"224.0.0.1"}`, "portMappings[0].hostIP"},
		{both, `{"hostPort":80,"containerPort":80,"hostIP":"::1"}`, "portMappings[0].hostIP"},
		{both, `{"hostPort":80,"containerPort":80},{"hostPort":80,"containerPort":81}`, "portMappings[1].hostPort: 80 is taken by runtimeConfig.portMappings[0]"},
		{both, `{"hostPort":80,"containerPort":80,"hostIP":"192.0.2.1"},{"hostPort":80,"containerPort":80}`, "portMappings[1].hostPort"},
		{both, `{"hostPort":80,"containerPort":80,"hostIP":"192.0.2.1"},{"hostPort":80,"containerPort":80,"hostIP":"::"}`, ""},
		{v4, `{"hostPort":80,"containerPort":80,"hostIP":"fd00::1"}`, "portMappings[0]: the container has no address"},
		{v4, `{"hostPort":80,"containerPort":80,"hostIP":"::"}`, "portMappings[0]: the container has no address"},
		{&cni.Result{}, `{"hostPort":80,"containerPort":80}`, "portMappings[0]: the container has no address"},
		{elsewhere, `{"hostPort":80,"containerPort":80}`, "portMappings[0]: the container has no address"},
		{odd, `{"hostPort":80,"containerPort":80}`, "prevResult.ips[0].interface"},
	} {
		cfg := read(t, `{"runtimeConfig":{"portMappings":[`+c.mappings+`]}}`)
		if err := cfg.complete(); err != nil {
			t.Fatal(err)
		}
		_, err := cfg.forwards(c.prev, "eth0")
		if c.want == "" && err != nil {
			t.Errorf("%s: %v", c.mappings, err)
		}
		if c.want != "" && (cni.CodeOf(err) != cni.CodeConfig || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v", c.mappings, err)
		}
	}
	quiet := read(t, `{"snat":false,"runtimeConfig":{"portMappings":[{"hostPort":80,"containerPort":80,"hostIP":"127.0.0.1"}]}}`)
	if err := quiet.complete(); err != nil {
		t.Fatal(err)
	}
	if _, err := quiet.forwards(v4, "eth0"); cni.CodeOf(err) != cni.CodeConfig {
		t.Errorf("127.0.0.1 without snat: %v", err)
	}
}

func TestForwards(t *testing.T) {
	c := read(t, `{"runtimeConfig":{"portMappings":[{"hostPort":80,"containerPort":8080},
		{"hostPort":81,"containerPort":81,"protocol":"UDP","hostIP":"0.0.0.0"},{"hostPort":82,"containerPort":82,"hostIP":"2001:db8::1","protocol":"sctp"}]}}`)
	if err := c.complete(); err != nil {
		t.Fatal(err)
	}
	forwards, err := c.forwards(prev("10.0.0.2/24", "fd00::2/64", "10.0.0.3/24"), "eth0")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range forwards {
		got = append(got, f.String())
	}
	want := []string{"6 :80 -> 10.0.0.2:8080", "6 :80 -> [fd00::2]:8080", "17 0.0.0.0:81 -> 10.0.0.2:81", "132 [2001:db8::1]:82 -> [fd00::2]:82"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func FuzzPortMappings(f *testing.F) {
	f.Add([]byte(`[{"hostPort":80,"containerPort":80,"protocol":"tcp","hostIP":"192.0.2.1"}]`), true)
	f.Add([]byte(`[{"hostPort":80,"containerPort":80},{"hostPort":80,"containerPort":80,"hostIP":"::"}]`), false)
	f.Add([]byte(`[{"hostPort":1e3,"containerPort":-1,"protocol":"SCTP","hostIP":"127.0.0.1"}]`), true)
	f.Fuzz(func(t *testing.T, mappings []byte, snat bool) {
		c := Config{SNAT: &snat}
		if err := json.Unmarshal(mappings, &c.RuntimeConfig.PortMappings); err != nil {
			return
		}
		if err := c.complete(); err != nil {
			t.Fatal(err)
		}
		forwards, err := c.forwards(prev("10.0.0.2/24", "fd00::2/64"), "eth0")
		if err != nil {
			if cni.CodeOf(err) != cni.CodeConfig {
				t.Errorf("code %d: %v", cni.CodeOf(err), err)
			}
			return
		}
		taken := map[string]bool{}
		for _, fw := range forwards {
			if fw.from == 0 || fw.to == 0 || fw.host.IsValid() && fw.host.Is4() != fw.container.Is4() {
				t.Errorf("%s", fw)
			}
			from, _, _ := strings.Cut(fw.String(), " -> ")
			if from += map[bool]string{true: " 4", false: " 6"}[fw.container.Is4()]; taken[from] {
				t.Errorf("%s is forwarded twice", from)
			}
			taken[from] = true
		}
	})
}
