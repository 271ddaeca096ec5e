package bridge_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/cni/bridge"
	"github.com/nodekit-project/nodekit/internal/netns"
	"github.com/nodekit-project/nodekit/internal/netnstest"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

func TestMain(m *testing.M) { netnstest.Main(m) }

// network is a configuration under test, with a bridge and addresses of its own.
type network struct {
	t       testing.TB
	config  map[string]any
	plugins cni.Set
	id      int

	mu    sync.Mutex
	taken map[int]cni.Attachment // by the last byte of the address
}

// ipamConfig says what the IPAM plugin of these tests gives.
type ipamConfig struct {
	IPAM struct {
		Type   string         `json:"type"`
		Six    bool           `json:"six"`
		Most   int            `json:"most"`
		Routes []*types.Route `json:"routes"`
		Fail   bool           `json:"fail"`
		// IPs are given instead of one of the network's own.
		IPs []*types100.IPConfig `json:"ips"`
	} `json:"ipam"`
}

// ipam is an IPAM plugin that keeps its addresses in memory.
func (n *network) ipam() *cni.Plugin {
	p := cni.New("test-ipam", cni.Handlers[ipamConfig]{
		Add: n.allocate,
		Del: func(_ context.Context, r *cni.Request, _ *ipamConfig) error {
			n.release(func(a cni.Attachment) bool { return a == r.Attachment })
			return nil
		},
		GC: func(_ context.Context, r *cni.Request, _ *ipamConfig) error {
			n.release(func(a cni.Attachment) bool { return !slices.Contains(r.Valid, a) })
			return nil
		},
		Check: func(_ context.Context, r *cni.Request, _ *ipamConfig) error {
			n.mu.Lock()
			defer n.mu.Unlock()
			for _, a := range n.taken {
				if a == r.Attachment {
					return nil
				}
			}
			return errors.New("no address is reserved")
		},
		Status: func(_ context.Context, _ *cni.Request, c *ipamConfig) error {
			n.mu.Lock()
			defer n.mu.Unlock()
			if c.IPAM.Most > 0 && len(n.taken) >= c.IPAM.Most {
				return cni.Errorf(cni.CodeUnavailable, "exhausted")
			}
			return nil
		},
	})
	p.IPAM = true
	return p
}

// octet is the third one of the network's IPv4 addresses.
func (n *network) octet() byte { return byte(n.id) }

func (n *network) allocate(_ context.Context, r *cni.Request, c *ipamConfig) (*cni.Result, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	last := 2
	for n.taken[last] != (cni.Attachment{}) {
		last++
	}
	n.taken[last] = r.Attachment
	if c.IPAM.Fail { // after the act, as a plugin may
		return nil, errors.New("no address for you")
	}
	out := &cni.Result{Routes: c.IPAM.Routes}
	if out.IPs = c.IPAM.IPs; out.IPs != nil {
		return out, nil
	}
	out.IPs = []*types100.IPConfig{{
		Address: net.IPNet{IP: net.IPv4(10, 77, n.octet(), byte(last)).To4(), Mask: net.CIDRMask(24, 32)},
		Gateway: net.IPv4(10, 77, n.octet(), 1).To4(),
	}}
	if c.IPAM.Six {
		ip, subnet, err := net.ParseCIDR(fmt.Sprintf("fd77:%d::%x/64", n.id, last))
		if err != nil {
			return nil, err
		}
		out.IPs = append(out.IPs, &types100.IPConfig{Address: net.IPNet{IP: ip, Mask: subnet.Mask}})
	}
	return out, nil
}

func (n *network) release(matches func(cni.Attachment) bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	maps.DeleteFunc(n.taken, func(_ int, a cni.Attachment) bool { return matches(a) })
}

var count struct {
	sync.Mutex
	n int
}

func newNetwork(t testing.TB, changes map[string]any) *network {
	testenv.Require(t, testenv.Root)
	count.Lock()
	count.n++
	id := count.n
	count.Unlock()
	n := &network{t: t, id: id, taken: map[int]cni.Attachment{}}
	n.plugins = cni.Set{"bridge": bridge.Plugin(), "test-ipam": n.ipam()}
	n.config = map[string]any{
		"cniVersion": "1.1.0", "name": fmt.Sprintf("net%d", id), "type": "bridge",
		"bridge": fmt.Sprintf("br%d", id), "isDefaultGateway": true, "ipMasq": true,
		"ipam": map[string]any{"type": "test-ipam"},
	}
	maps.Copy(n.config, changes)
	t.Cleanup(func() {
		if err := bridge.Teardown(context.Background(), bridge.Config{Bridge: n.config["bridge"].(string)}); err != nil {
			t.Error(err)
		}
	})
	return n
}

func (n *network) call(command, id, ns string, extra map[string]any) ([]byte, error) {
	config := maps.Clone(n.config)
	maps.Copy(config, extra)
	stdin, err := json.Marshal(config)
	if err != nil {
		n.t.Fatal(err)
	}
	return n.plugins.Invoke(context.Background(), "bridge", map[string]string{
		"CNI_COMMAND": command, "CNI_CONTAINERID": id, "CNI_IFNAME": "eth0", "CNI_NETNS": ns,
	}, stdin)
}

// repair calls Repair with CHECK's documents.
func (n *network) repair(id, ns string, raw json.RawMessage) error {
	config := maps.Clone(n.config)
	config["prevResult"] = raw
	stdin, err := json.Marshal(config)
	if err != nil {
		n.t.Fatal(err)
	}
	return n.plugins.Repair(context.Background(), "bridge", map[string]string{
		"CNI_CONTAINERID": id, "CNI_IFNAME": "eth0", "CNI_NETNS": ns,
	}, stdin)
}

func (n *network) add(id, ns string) (raw json.RawMessage, result *cni.Result) {
	n.t.Helper()
	raw, err := n.call("ADD", id, ns, nil)
	if err != nil {
		n.t.Fatal(err)
	}
	result, err = cni.DecodeResult(raw, "")
	if err != nil {
		n.t.Fatal(err)
	}
	return raw, result
}

func (n *network) del(id, ns string) {
	n.t.Helper()
	out, err := n.call("DEL", id, ns, nil)
	if err != nil || len(out) > 0 {
		n.t.Fatalf("DEL: %v, stdout %q", err, out)
	}
}

// rest returns what is in the host namespace and with IPAM besides the bridge.
func (n *network) rest() string {
	br := n.config["bridge"].(string) // which may not be there
	links := strings.Count(netnstest.Run(n.t, "", "sh", "-c", "ip -o link show master "+br+" 2>/dev/null || true"), "\n")
	rules := netnstest.Run(n.t, "", "sh", "-c", "nft list table inet cni-"+br+" 2>/dev/null || true")
	indexed := strings.Count(rules, " . 0x")                                                          // every address has an element and an entry in the index
	elements := strings.Count(rules, "comment") - strings.Count(rules, `comment "nodekit `) - indexed // rules have one too
	if indexed != elements {
		n.t.Errorf("%d elements, and %d entries in the index", elements, indexed)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return fmt.Sprintf("%d ports, %d elements, %d addresses", links, elements, len(n.taken))
}

func TestDataPath(t *testing.T) {
	n := newNetwork(t, nil)
	a, b, outside := netnstest.New(t), netnstest.New(t), netnstest.New(t)
	_, ra := n.add("a", a)
	_, rb := n.add("b", b)
	ipA, ipB := ra.IPs[0].Address.IP.String(), rb.IPs[0].Address.IP.String()

	if seen := netnstest.Dial(t, a, ipB, netnstest.Listen(t, b)); seen != ipA {
		t.Errorf("b saw %s instead of a's %s", seen, ipA)
	}
	gateway := ra.IPs[0].Gateway.String()
	if seen := netnstest.Dial(t, a, gateway, netnstest.Listen(t, "")); seen != ipA {
		t.Errorf("the host saw %s instead of a's %s", seen, ipA)
	}
	netnstest.Link(t, outside, "up0", "192.0.2.1/24", "192.0.2.2/24")
	if seen := netnstest.Dial(t, a, "192.0.2.2", netnstest.Listen(t, outside)); seen != "192.0.2.1" {
		t.Errorf("outside saw %s instead of the host's 192.0.2.1", seen)
	}
	n.del("a", a)
	n.del("b", b)
	if rest := n.rest(); rest != "0 ports, 0 elements, 0 addresses" {
		t.Error(rest)
	}
}

func TestDelFromAnyState(t *testing.T) {
	n := newNetwork(t, nil)
	const clean = "0 ports, 0 elements, 0 addresses"
	prepare := map[string]func(id, ns string) (delNS string){
		"twice":       func(id, ns string) string { n.add(id, ns); n.del(id, ns); return ns },
		"never added": func(id, ns string) string { return ns },
		"no netns":    func(id, ns string) string { n.add(id, ns); return "" },
		"netns gone":  func(id, ns string) string { n.add(id, ns); netns.Remove(ns); return ns },
		"link gone": func(id, ns string) string {
			n.add(id, ns)
			netnstest.Run(t, ns, "ip", "link", "del", "eth0")
			return ns
		},
		"foreign netns": func(id, ns string) string { n.add(id, ns); return netnstest.New(t) },
		"bad prevResult": func(id, ns string) string {
			n.add(id, ns)
			n.config["prevResult"] = map[string]any{"ips": 7}
			return ns
		},
	}
	for name, p := range prepare {
		t.Run(name, func(t *testing.T) {
			defer delete(n.config, "prevResult")
			outer := n.t
			n.t = t
			defer func() { n.t = outer }()
			id := strings.ReplaceAll(name, " ", "-")
			n.del(id, p(id, netnstest.New(t)))
			// Namespaces and their ends of a pair go a moment later.
			if rest := n.rest(); rest != clean {
				t.Errorf("left after DEL: %s", rest)
			}
		})
	}
}

func TestFailedAddLeavesNothing(t *testing.T) {
	cases := map[string]map[string]any{
		"route that cannot be": {"ipam": map[string]any{"routes": []map[string]any{{"dst": "198.51.100.0/24", "gw": "203.0.113.1"}}}},
		"bridge is no bridge":  {"bridge": "lo"},
		"IPAM fails":           {"ipam": map[string]any{"fail": true}},
	}
	for name, changes := range cases {
		t.Run(name, func(t *testing.T) {
			n := newNetwork(t, nil)
			own := n.config["bridge"]
			defer func() { n.config["bridge"] = own }()
			ipam := maps.Clone(n.config["ipam"].(map[string]any))
			for key, value := range changes {
				if sub, ok := value.(map[string]any); ok {
					maps.Copy(ipam, sub)
					n.config["ipam"] = ipam
				} else {
					n.config[key] = value
				}
			}
			ns := netnstest.New(t)
			out, err := n.call("ADD", "x", ns, nil)
			if err == nil || !strings.Contains(string(out), `"code"`) || strings.Contains(string(out), "interfaces") {
				t.Fatalf("ADD: %v, %s", err, out)
			}
			n.config["bridge"] = own
			if links := netnstest.Run(t, ns, "ip", "-br", "link"); strings.Contains(links, "eth0") {
				t.Errorf("left in the container: %s", links)
			}
			if veths := netnstest.Run(t, "", "ip", "-br", "link", "show", "type", "veth"); veths != "" || len(n.taken) > 0 {
				t.Errorf("left on the host: %q, %v", veths, n.taken)
			}
		})
	}
}

func TestSecondAddHarmsNothing(t *testing.T) {
	n := newNetwork(t, nil)
	ns := netnstest.New(t)
	raw, _ := n.add("x", ns)
	before := n.rest()
	if _, err := n.call("ADD", "x", ns, nil); cni.CodeOf(err) != cni.CodeExists {
		t.Errorf("second ADD: %v", err)
	}
	if _, err := n.call("CHECK", "x", ns, map[string]any{"prevResult": raw}); err != nil || n.rest() != before {
		t.Errorf("the first attachment suffered: %v, %s instead of %s", err, n.rest(), before)
	}
	n.del("x", ns)
}

func TestDualStack(t *testing.T) {
	n := newNetwork(t, nil)
	n.config["ipam"].(map[string]any)["six"] = true
	a, b := netnstest.New(t), netnstest.New(t)
	raw, ra := n.add("a", a)
	_, rb := n.add("b", b)
	if len(ra.IPs) != 2 || len(ra.Routes) != 2 {
		t.Fatalf("result %s", raw)
	}
	for i, ip := range rb.IPs {
		want := ra.IPs[i].Address.IP.String()
		if seen := netnstest.Dial(t, a, ip.Address.IP.String(), netnstest.Listen(t, b)); seen != want {
			t.Errorf("b saw %s instead of %s", seen, want)
		}
	}
	if _, err := n.call("CHECK", "a", a, map[string]any{"prevResult": raw}); err != nil {
		t.Error(err)
	}
	n.del("a", a)
	n.del("b", b)
}

func TestManyAtOnce(t *testing.T) {
	n := newNetwork(t, nil)
	const many = 40
	spaces := make([]string, many)
	for i := range spaces {
		spaces[i] = netnstest.New(t)
	}
	var mu sync.Mutex
	var ips []string
	var wg sync.WaitGroup
	for i, ns := range spaces {
		wg.Go(func() {
			out, err := n.call("ADD", fmt.Sprintf("c%d", i), ns, nil)
			if err != nil {
				t.Error(err)
				return
			}
			r, err := cni.DecodeResult(out, "")
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			ips = append(ips, r.IPs[0].Address.IP.String())
			mu.Unlock()
		})
	}
	wg.Wait()
	slices.Sort(ips)
	if got := len(slices.Compact(ips)); got != many {
		t.Errorf("%d different addresses for %d containers", got, many)
	}
	if rest := n.rest(); rest != "40 ports, 40 elements, 40 addresses" {
		t.Error(rest)
	}
	for i, ns := range spaces {
		wg.Go(func() {
			if _, err := n.call("DEL", fmt.Sprintf("c%d", i), ns, nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if rest := n.rest(); rest != "0 ports, 0 elements, 0 addresses" {
		t.Error(rest)
	}
}

func TestGC(t *testing.T) {
	n := newNetwork(t, nil)
	a, b := netnstest.New(t), netnstest.New(t)
	n.add("a", a)
	n.add("b", b)
	if _, err := n.call("GC", "", "", nil); cni.CodeOf(err) != cni.CodeConfig {
		t.Errorf("GC without a list: %v", err)
	}
	_, err := n.call("GC", "", "", map[string]any{"cni.dev/valid-attachments": []map[string]any{{"containerID": "b", "ifname": "eth0"}}})
	if err != nil {
		t.Fatal(err)
	}
	if rest := n.rest(); rest != "1 ports, 1 elements, 1 addresses" {
		t.Error(rest)
	}
	n.del("a", a)
	n.del("b", b)
}

// TestGCOfOneNetwork: networks may share a bridge, and GC knows its own.
func TestGCOfOneNetwork(t *testing.T) {
	n := newNetwork(t, map[string]any{"macspoofchk": true})
	mine := n.config["name"]
	other := netnstest.New(t)
	n.config["name"] = "other"
	raw, _ := n.add("x", other)
	n.config["name"] = mine
	for i := range 3 {
		n.add(fmt.Sprintf("stale%d", i), netnstest.New(t))
	}
	none := map[string]any{"cni.dev/valid-attachments": []cni.Attachment{}, "ipam": map[string]any{}}
	for range 2 {
		if _, err := n.call("GC", "", "", none); err != nil {
			t.Error(err)
		}
	}
	if rest := n.rest(); rest != "1 ports, 1 elements, 4 addresses" {
		t.Error(rest)
	}
	n.config["name"] = "other"
	if _, err := n.call("CHECK", "x", other, map[string]any{"prevResult": raw}); err != nil {
		t.Errorf("the other network suffered: %v", err)
	}
	n.del("x", other)
}

func TestStatus(t *testing.T) {
	n := newNetwork(t, nil)
	n.config["ipam"].(map[string]any)["most"] = 1
	if _, err := n.call("STATUS", "", "", nil); err != nil {
		t.Error(err)
	}
	ns := netnstest.New(t)
	n.add("only", ns)
	if _, err := n.call("STATUS", "", "", nil); cni.CodeOf(err) != cni.CodeUnavailable {
		t.Errorf("STATUS of an exhausted network: %v", err)
	}
	n.del("only", ns)
}

// TestStatusOfAnotherBridge: what ADD would refuse of a bridge that is there STATUS reports,
// and leaves as it is.
func TestStatusOfAnotherBridge(t *testing.T) {
	n := newNetwork(t, nil)
	ns := netnstest.New(t)
	n.add("only", ns)
	before := netnstest.Run(t, "", "ip", "link", "show", n.config["bridge"].(string))
	for key, c := range map[string]struct {
		value any
		says  string
	}{
		"mtu":  {9000, "mtu 9000"},
		"vlan": {5, "vlan_filtering"},
	} {
		n.config[key] = c.value
		_, refused := n.call("ADD", "x", netnstest.New(t), nil)
		_, err := n.call("STATUS", "", "", nil)
		if cni.CodeOf(err) != cni.CodeUnavailable || !strings.Contains(err.Error(), c.says) || !strings.Contains(fmt.Sprint(refused), c.says) {
			t.Errorf("%s: STATUS %v, ADD %v", key, err, refused)
		}
		delete(n.config, key)
	}
	if now := netnstest.Run(t, "", "ip", "link", "show", n.config["bridge"].(string)); now != before {
		t.Errorf("the bridge was changed from %s to %s", before, now)
	}
	n.config["mtu"] = 1400 // which ADD would make of it
	if _, err := n.call("STATUS", "", "", nil); err != nil {
		t.Error(err)
	}
	delete(n.config, "mtu")
	n.del("only", ns)
}

// TestStatusWithoutChains: where the kernel takes no more chains of a family, STATUS says that
// ADD will fail, if the configuration needs some.
func TestStatusWithoutChains(t *testing.T) {
	for key, c := range map[string]struct {
		family, hook string
		says         string
	}{
		"macspoofchk": {"bridge", "filter hook prerouting", "macspoofchk"},
		"ipMasq":      {"inet", "nat hook postrouting", "ipMasq"},
		"hairpinMode": {"bridge", "filter hook prerouting", ""},
	} {
		t.Run(key, func(t *testing.T) {
			n := newNetwork(t, map[string]any{"ipMasq": false})
			n.add("first", netnstest.New(t)) // with the bridge br_netfilter gets its hooks
			n.del("first", "")
			n.config[key] = true
			fillHook(t, c.family, c.hook)
			_, refused := n.call("ADD", "x", netnstest.New(t), nil)
			n.del("x", "")
			_, err := n.call("STATUS", "", "", nil)
			if (refused == nil) != (c.says == "") || c.says == "" && err != nil || c.says != "" && (cni.CodeOf(err) != cni.CodeUnavailable || !strings.Contains(err.Error(), c.says)) {
				t.Errorf("STATUS says %v, want %q; ADD %v", err, c.says, refused)
			}
		})
	}
}

// fillHook adds chains until the kernel refuses one.
func fillHook(t *testing.T, family, hook string) {
	t.Helper()
	const most = 1024 // MAX_HOOK_COUNT, of which others may have some
	netnstest.Run(t, "", "nft", "add table "+family+" full")
	t.Cleanup(func() { netnstest.Run(t, "", "nft", "delete table "+family+" full") })
	chain := func(name string) string {
		return fmt.Sprintf("add chain %s full %s { type %s priority 0; }\n", family, name, hook)
	}
	var many strings.Builder
	for i := range most - 10 {
		many.WriteString(chain(fmt.Sprintf("c%d", i)))
	}
	file := filepath.Join(t.TempDir(), "many")
	if err := os.WriteFile(file, []byte(many.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	netnstest.Run(t, "", "nft", "-f", file)
	for i := range 11 {
		if exec.Command("nft", chain(fmt.Sprintf("more%d", i))).Run() != nil {
			return
		}
	}
	t.Fatal("there is no limit")
}

// TestVLANWithoutTheKernel: where the kernel has no VLANs on bridges the error says so.
func TestVLANWithoutTheKernel(t *testing.T) {
	n := newNetwork(t, map[string]any{"vlan": 5})
	if _, err := n.call("ADD", "x", netnstest.New(t), nil); err != nil && !strings.Contains(err.Error(), "CONFIG_BRIDGE_VLAN_FILTERING") {
		t.Error(err)
	}
	n.del("x", "")
}

func TestRefusesConfig(t *testing.T) {
	cases := []struct {
		key   string
		value any
		code  uint
		says  string
	}{
		{"isGatway", true, cni.CodeUnsupportedField, `"isGatway" (value true)`},
		{"vlan", 4095, cni.CodeConfig, "vlan 4095"},
		{"vlanTrunk", []map[string]int{{"minID": 7}}, cni.CodeConfig, "maxID is missing"},
		{"vlanTrunk", []map[string]int{{"id": 7}, {"minID": 9, "maxID": 8}}, cni.CodeConfig, "vlanTrunk[1]"},
		{"vlanTrunk", []map[string]int{{}}, cni.CodeConfig, "vlanTrunk[0]"},
		{"disableContainerInterface", true, cni.CodeConfig, "disableContainerInterface and ipam"},
		{"args", map[string]any{"cni": map[string]string{"mac": "01:00:00:00:00:01"}}, cni.CodeConfig, "mac"},
		{"runtimeConfig", map[string]string{"mac": "nonsense"}, cni.CodeConfig, "mac"},
		{"mtu", 5, cni.CodeConfig, "mtu 5"},
		{"mtu", "big", cni.CodeConfig, `"mtu"`},
		{"ipMasqBackend", "ebtables", cni.CodeConfig, "ebtables"},
		{"bridge", "a-name-that-is-too-long", cni.CodeConfig, "15"},
		{"bridge", "rq%d", cni.CodeConfig, "rq%d"},
		{"bridge", "a/b", cni.CodeConfig, "a/b"},
		{"bridge", "a b", cni.CodeConfig, "a b"},
		{"bridge", "a:b", cni.CodeConfig, "a:b"},
		{"bridge", "..", cni.CodeConfig, ".."},
		{"name", "a/b", cni.CodeConfig, "a/b"},
		{"cniVersion", "9.9.9", cni.CodeVersion, "9.9.9"},
	}
	for _, c := range cases {
		n := newNetwork(t, nil)
		old := n.config["bridge"]
		n.config[c.key] = c.value
		_, err := n.call("ADD", "x", netnstest.New(t), nil)
		n.config["bridge"] = old
		if cni.CodeOf(err) != c.code || !strings.Contains(fmt.Sprint(err), c.says) {
			t.Errorf("%s = %v: code %d, %v", c.key, c.value, cni.CodeOf(err), err)
		}
	}
}
