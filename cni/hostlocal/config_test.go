package hostlocal_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nodekit-project/nodekit/cni"
)

func TestMistakes(t *testing.T) {
	for ipam, says := range map[string]string{
		`{"ranges":[]}`:                                                                          `ipam has neither "ranges" nor "subnet"`,
		`{"ranges":[[]]}`:                                                                        "ipam.ranges[0] is empty",
		`{"ranges":[[{"subnet":"10.0.0.0"}]]}`:                                                   `ipam.ranges[0][0].subnet is "10.0.0.0"`,
		`{"ranges":[[{"subnet":"10.0.0.1/24"}]]}`:                                                "ipam.ranges[0][0].subnet is \"10.0.0.1/24\", which has host bits: the network is 10.0.0.0/24",
		`{"ranges":[[{"subnet":"::ffff:10.0.0.0/120"}]]}`:                                        "ipam.ranges[0][0].subnet",
		`{"ranges":[[{"subnet":"10.0.0.0/24","gateway":"10.1.0.1"}]]}`:                           "ipam.ranges[0][0].gateway is 10.1.0.1",
		`{"ranges":[[{"subnet":"10.0.0.0/24","gateway":"fe80::1"}]]}`:                            "ipam.ranges[0][0].gateway is fe80::1",
		`{"ranges":[[{"subnet":"10.0.0.0/24","rangeStart":"10.0.0.9","rangeEnd":"10.0.0.3"}]]}`:  "ipam.ranges[0][0].rangeEnd is 10.0.0.3, which comes before",
		`{"ranges":[[{"subnet":"10.0.0.0/24","rangeEnd":"10.0.1.3"}]]}`:                          "ipam.ranges[0][0].rangeEnd is 10.0.1.3",
		`{"ranges":[[{"subnet":"fd00::/64","rangeStart":"fd00::2%eth0"}]]}`:                      "ipam.ranges[0][0].rangeStart",
		`{"ranges":[[{"subnet":"10.0.0.0/24"}],[{"subnet":"10.0.0.128/25"}]]}`:                   "ipam.ranges[1][0] is 10.0.0.129-10.0.0.254, which overlaps",
		`{"ranges":[[{"subnet":"10.0.0.0/24"},{"subnet":"10.0.0.0/25"}]]}`:                       "ipam.ranges[0][1] is",
		`{"ranges":[[{"subnet":"10.0.0.0/24"},{"subnet":"fd00::/64"}]]}`:                         "ipam.ranges[0][1] mixes",
		`{"ranges":[[{"subnet":"10.0.0.0/24","rangeStrat":"10.0.0.9"}]]}`:                        "rangeStrat",
		`{"ranges":[[{"subnet":"10.0.0.0/32","gateway":"10.0.0.0"}]]}`:                           "ipam.ranges[0][0] is 10.0.0.0-10.0.0.0, all of which",
		`{"ranges":[[{"subnet":"10.0.0.0/24","rangeStart":"10.0.0.1","rangeEnd":"10.0.0.1"}]]}`:  "ipam.ranges[0][0] is 10.0.0.1-10.0.0.1, all of which",
		`{"ranges":[[{"subnet":"10.0.0.0/24","exclude":["10.0.0.7","x"]}]]}`:                     `ipam.ranges[0][0].exclude[1] is "x"`,
		`{"ranges":[[{"subnet":"10.0.0.0/24","exclude":["10.0.1.7"]}]]}`:                         "ipam.ranges[0][0].exclude[0]",
		`{"ranges":[[{"subnet":"10.0.0.0/24","exclude":["10.0.0.9-10.0.0.7"]}]]}`:                "ipam.ranges[0][0].exclude[0]",
		`{"ranges":[[{"subnet":"10.0.0.0/24"}]],"exclude":["10.0.1.7"]}`:                         `ipam.exclude[0] is "10.0.1.7", which is in no subnet`,
		`{"ranges":[[{"subnet":"10.0.0.0/24"}]],"exclude":["10.0.0.0/16"]}`:                      `ipam.exclude[0] is "10.0.0.0/16", which leaves nothing`,
		`{"rangeStart":"10.0.0.7"}`:                                                              "ipam.subnet is missing",
		`{"subnet":"10.0.0.0/24","dataDir":"here"}`:                                              "ipam.dataDir",
		`{"subnet":"10.0.0.0/24","reuseDelay":"soon"}`:                                           "ipam.reuseDelay",
		`{"subnet":"10.0.0.0/24","reuseDelay":"-1s"}`:                                            "ipam.reuseDelay",
		`{"subnet":"10.0.0.0/24","resolvConf":"/no/such/file"}`:                                  "ipam.resolvConf",
		`{"subnet":"10.0.0.0/24","routes":[{"dst":"0.0.0.0"}]}`:                                  "ipam.routes[0].dst",
		`{"subnet":"10.0.0.0/24","routes":[{"dst":"0.0.0.0/0"},{"dst":"::/0","gw":"10.0.0.1"}]}`: "ipam.routes[1].gw",
		`{"subnet":"10.0.0.0/24","routes":[{"dst":"0.0.0.0/0","mtu":-1}]}`:                       "ipam.routes[0].mtu is -1",
		`{"subnet":"10.0.0.0/24","routes":[{"dst":"0.0.0.0/0","scope":256}]}`:                    "ipam.routes[0].scope is 256",
		`{"subnet":"10.0.0.0/24","routes":[{"dst":"0.0.0.0/0","metric":1}]}`:                     "metric",
		`{"subnet":5}`: "ipam.subnet",
	} {
		p := newPool(t, `[]`)
		p.ipam = map[string]any{"type": "host-local", "dataDir": p.dir}
		if err := json.Unmarshal([]byte(ipam), &p.ipam); err != nil {
			t.Fatal(err)
		}
		for _, command := range []string{"ADD", "CHECK", "STATUS"} {
			_, err := p.call(command, "x")
			if command != "ADD" && strings.Contains(ipam, "resolvConf") {
				continue
			}
			if code := cni.CodeOf(err); code != cni.CodeConfig && code != cni.CodeUnsupportedField || !strings.Contains(err.Error(), says) {
				t.Errorf("%s %s: code %d, %v, want %q", command, ipam, code, err, says)
			}
		}
		if entries, _ := os.ReadDir(p.dir); len(entries) > 0 {
			t.Errorf("%s: made %v", ipam, entries)
		}
	}
}

// TestRanges takes addresses of a configuration until there are no more.
func TestRanges(t *testing.T) {
	for ipam, want := range map[string]string{
		`{"subnet":"10.0.0.0/29"}`:                                                         "2 3 4 5 6 via 10.0.0.1",
		`{"subnet":"10.0.0.0/29","gateway":"10.0.0.4"}`:                                    "1 2 3 5 6 via 10.0.0.4",
		`{"subnet":"10.0.0.0/29","gateway":"169.254.1.1"}`:                                 "1 2 3 4 5 6 via 169.254.1.1",
		`{"subnet":"10.0.0.0/29","rangeStart":"10.0.0.0","rangeEnd":"10.0.0.7"}`:           "2 3 4 5 6 via 10.0.0.1",
		`{"subnet":"10.0.0.0/29","rangeStart":"10.0.0.5"}`:                                 "5 6 via 10.0.0.1",
		`{"subnet":"10.0.0.0/29","rangeEnd":"10.0.0.2"}`:                                   "2 via 10.0.0.1",
		`{"subnet":"10.0.0.0/29","exclude":["10.0.0.3", "10.0.0.4-10.0.0.5"]}`:             "2 6 via 10.0.0.1",
		`{"ranges":[[{"subnet":"10.0.0.0/28","exclude":["10.0.0.0/29","10.0.0.12/30"]}]]}`: "8 9 10 11 via 10.0.0.1",
		// Two addresses or one: a point-to-point link or a host route.
		`{"subnet":"10.0.0.0/31"}`:                                 "0 1 via <nil>",
		`{"subnet":"10.0.0.0/31","gateway":"10.0.0.0"}`:            "1 via 10.0.0.0",
		`{"subnet":"10.0.0.5/32"}`:                                 "5 via <nil>",
		`{"subnet":"10.0.0.5/32","gateway":"10.9.9.9"}`:            "5 via 10.9.9.9",
		`{"subnet":"fd00::/127"}`:                                  "fd00:: fd00::1 via <nil>",
		`{"subnet":"fd00::7/128","gateway":"fe80::1"}`:             "fd00::7 via fe80::1",
		`{"subnet":"fd00::/126"}`:                                  "fd00::2 fd00::3 via fd00::1",
		`{"subnet":"255.255.255.248/29"}`:                          "250 251 252 253 254 via 255.255.255.249",
		`{"subnet":"ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffc/126"}`: "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff via ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffd",
	} {
		p := newPool(t, `[]`)
		delete(p.ipam, "ranges")
		if err := json.Unmarshal([]byte(ipam), &p.ipam); err != nil {
			t.Fatal(err)
		}
		var got []string
		via := ""
		for i := range 20 {
			answer := p.add(fmt.Sprint("c", i))
			if answer == "code 101" {
				break
			}
			addr, gateway, _ := strings.Cut(answer, " ")
			addr, _, _ = strings.Cut(addr, "/")
			got, via = append(got, addr[strings.LastIndexByte(addr, '.')+1:]), gateway
		}
		if got := strings.Join(got, " ") + " " + via; got != want {
			t.Errorf("%s: %s, want %s", ipam, got, want)
		}
	}
}

func TestRequested(t *testing.T) {
	p := newPool(t, `[[{"subnet":"10.0.0.0/24","exclude":["10.0.0.99"]}]]`)
	for _, c := range []struct{ id, ip, want string }{
		{"a", "10.0.0.77", "10.0.0.77/24 via 10.0.0.1"},
		{"a", "10.0.0.77", "10.0.0.77/24 via 10.0.0.1"},
		{"b", "10.0.0.77/24", "code 101"},
		{"b", "10.0.1.1", "code 7"},
		{"b", "10.0.0.1", "code 7"},
		{"b", "10.0.0.99", "code 7"},
		{"b", "10.0.0.255", "code 7"},
		{"b", "::ffff:10.0.0.78", "10.0.0.78/24 via 10.0.0.1"},
		{"a", "10.0.0.79", "code 102"},
		{"c", "nonsense", "code 7"},
	} {
		p.more["runtimeConfig"] = map[string]any{"ips": []string{c.ip}}
		if got := p.add(c.id); got != c.want {
			t.Errorf("%s asking for %s got %s, want %s", c.id, c.ip, got, c.want)
		}
	}
}

// TestPrecedence asks in all three ways at once, and then in one less each time.
func TestPrecedence(t *testing.T) {
	p := newPool(t, `[[{"subnet":"10.0.0.0/24"}],[{"subnet":"fd00::/64"}]]`)
	p.more["runtimeConfig"] = map[string]any{"ips": []string{"fd00::33", "10.0.0.33/24"}, "unknown": 1}
	p.more["args"] = map[string]any{"cni": map[string]any{"ips": []string{"10.0.0.44"}, "other": true}}
	p.args = "IgnoreUnknown=1;IP=10.0.0.55,fd00::55"
	if got := p.add("a"); got != "10.0.0.33/24 via 10.0.0.1, fd00::33/64 via fd00::1" {
		t.Error(got)
	}
	delete(p.more, "runtimeConfig")
	if got := p.add("b"); got != "10.0.0.44/24 via 10.0.0.1, fd00::34/64 via fd00::1" {
		t.Error(got)
	}
	delete(p.more, "args")
	if got := p.add("c"); got != "10.0.0.55/24 via 10.0.0.1, fd00::55/64 via fd00::1" {
		t.Error(got)
	}
}

func TestRuntimeRanges(t *testing.T) {
	p := newPool(t, `[[{"subnet":"10.0.0.0/24"}]]`)
	p.more["runtimeConfig"] = map[string]any{"ipRanges": json.RawMessage(`[[{"subnet":"10.2.0.0/24","rangeStart":"10.2.0.7"}],[{"subnet":"fd02::/64"}]]`)}
	if got := p.add("a"); got != "10.2.0.7/24 via 10.2.0.1, fd02::2/64 via fd02::1, 10.0.0.2/24 via 10.0.0.1" {
		t.Error(got)
	}
	p.more["runtimeConfig"] = map[string]any{"ipRanges": json.RawMessage(`[[{"subnet":"10.0.0.0/16"}]]`)}
	if _, err := p.call("ADD", "b"); cni.CodeOf(err) != cni.CodeConfig || !strings.Contains(err.Error(), "ipam.ranges[0][0]") {
		t.Errorf("overlapping ranges: %v", err)
	}
}

// TestOldVersions: what a result of the version has no place for is refused.
func TestOldVersions(t *testing.T) {
	p := newPool(t, `[[{"subnet":"10.0.0.0/24"}],[{"subnet":"fd00::/64"}]]`)
	for _, c := range []struct{ version, routes, ranges, want string }{
		{"0.2.0", `[{"dst":"0.0.0.0/0","gw":"10.0.0.1"}]`, `[[{"subnet":"10.0.0.0/24"}],[{"subnet":"fd00::/64"}]]`, ""},
		{"0.2.0", `[{"dst":"0.0.0.0/0"},{"dst":"10.9.0.0/16","table":7}]`, `[[{"subnet":"10.0.0.0/24"}]]`, "ipam.routes[1] has more than dst and gw"},
		{"0.2.0", `[]`, `[[{"subnet":"10.0.0.0/24"}],[{"subnet":"10.1.0.0/24"}]]`, "several sets of one family"},
		{"0.3.0", `[{"dst":"0.0.0.0/0","mtu":1300}]`, `[[{"subnet":"10.0.0.0/24"}],[{"subnet":"10.1.0.0/24"}]]`, ""},
	} {
		p.more["cniVersion"], p.ipam["routes"], p.ipam["ranges"] = c.version, json.RawMessage(c.routes), json.RawMessage(c.ranges)
		_, err := p.call("ADD", "a")
		switch {
		case err == nil && c.want == "":
		case cni.CodeOf(err) != cni.CodeConfig || c.want == "" || !strings.Contains(err.Error(), c.want):
			t.Errorf("%s, %s, %s: %v, want %q", c.version, c.routes, c.ranges, err, c.want)
		}
		p.del("a")
	}
}

func TestRoutesAndDNS(t *testing.T) {
	p := newPool(t, `[[{"subnet":"10.0.0.0/24"}]]`)
	file := filepath.Join(t.TempDir(), "resolv.conf")
	text := "# comment\nnameserver 10.0.0.53 # near\n nameserver fd00::53\nsearch a.example b.example\nnameserver\ndomain example\noptions ndots:2\noptions edns0 trust-ad\n; end\nsortlist 10.0.0.0\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	p.ipam["resolvConf"] = file
	p.ipam["routes"] = json.RawMessage(`[{"dst":"0.0.0.0/0"},{"dst":"10.7.0.0/16","gw":"10.0.0.9","mtu":1400,"advmss":1360,"priority":7,"table":0,"scope":253}]`)
	out, err := p.call("ADD", "a")
	if err != nil {
		t.Fatal(err)
	}
	want := `{"cniVersion":"1.1.0","dns":{"domain":"example","nameservers":["10.0.0.53","fd00::53"],"options":["ndots:2","edns0","trust-ad"],"search":["a.example","b.example"]},` +
		`"ips":[{"address":"10.0.0.2/24","gateway":"10.0.0.1"}],"routes":[{"dst":"0.0.0.0/0"},{"advmss":1360,"dst":"10.7.0.0/16","gw":"10.0.0.9","mtu":1400,"priority":7,"scope":253,"table":0}]}`
	var document any
	if err := json.Unmarshal(out, &document); err != nil {
		t.Fatal(err)
	}
	sorted, err := json.Marshal(document)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(sorted)); diff != "" {
		t.Error(diff)
	}
}
