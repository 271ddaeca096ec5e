package portmap_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/cni/portmap"
	"github.com/nodekit-project/nodekit/internal/netnstest"
)

// TestDel removes what is the attachment's, whatever the documents say, and
// nothing of any other.
func TestDel(t *testing.T) {
	newBridge(t)
	ns := netnstest.New(t)
	mapping := portmap.Mapping{HostPort: 80, ContainerPort: 80}
	other := bare(t, ns, "a", "10.55.1.2") // the same container in another network
	other.config["name"] = "pm2"
	other.add(t, portmap.Mapping{HostPort: 81, ContainerPort: 80}, portmap.Mapping{HostPort: 82, ContainerPort: 80, Protocol: "udp"})
	others := elements(t)
	config := func(mappings ...map[string]any) map[string]any { return map[string]any{"portMappings": mappings} }
	for name, changes := range map[string]map[string]any{
		"the documents of ADD":  {},
		"no runtimeConfig":      {"runtimeConfig": nil},
		"no prevResult":         {"prevResult": nil},
		"neither":               {"prevResult": nil, "runtimeConfig": nil},
		"a prevResult of words": {"prevResult": "garbage"},
		"an odd prevResult":     {"prevResult": json.RawMessage(`{"cniVersion":"1.1.0","ips":[{"address":"10.0.0.1/8","interface":99}]}`)},
		"another address":       {"prevResult": result(ns, "10.55.9.9/24")},
		"another port":          {"runtimeConfig": config(map[string]any{"hostPort": 81, "containerPort": 80})},
		"an impossible port":    {"runtimeConfig": config(map[string]any{"hostPort": 99999, "containerPort": 80})},
		"a refused option":      {"externalSetMarkChain": "KUBE-MARK-MASQ"},
		"another snat":          {"snat": false},
		"an older version":      {"cniVersion": "0.3.1"},
	} {
		a := bare(t, ns, "a", "10.55.0.2")
		a.add(t, mapping)
		for try := range 2 { // the second finds nothing
			if out, err := a.call("DEL", a.document(changes, mapping)); err != nil || len(out) > 0 {
				t.Errorf("%s, DEL %d: %v, %s", name, try, err, out)
			}
			if diff := cmp.Diff(others, elements(t)); diff != "" {
				t.Errorf("%s, after DEL %d: %s", name, try, diff)
			}
		}
	}
	a := bare(t, ns, "a", "10.55.0.2")
	a.add(t, mapping)
	for _, gone := range []string{"", "/nowhere", "/proc/self/ns/net"} {
		env := a.env("DEL")
		env["CNI_NETNS"] = gone
		if _, err := cni.Invoke(context.Background(), portmap.Plugin(), env, a.document(nil, mapping)); err != nil {
			t.Errorf("DEL with CNI_NETNS %q: %v", gone, err)
		}
		if diff := cmp.Diff(others, elements(t)); diff != "" {
			t.Errorf("after DEL with CNI_NETNS %q: %s", gone, diff)
		}
		a.add(t, mapping)
	}
}

// TestDelKnowsLess: documents that tell a part of what was mapped, by one ADD or
// by several, leave nothing.
func TestDelKnowsLess(t *testing.T) {
	newBridge(t)
	p := bare(t, netnstest.New(t), "a", "10.55.0.2")
	web, tls, dns := portmap.Mapping{HostPort: 8080, ContainerPort: 80}, portmap.Mapping{HostPort: 8443, ContainerPort: 443}, portmap.Mapping{HostPort: 53, ContainerPort: 53, Protocol: "udp"}
	refused := func() { // and undone
		ctx, cancel := context.WithCancel(t.Context())
		plugin := portmap.Plugin()
		inner := plugin.Add
		plugin.Add = func(ctx context.Context, r *cni.Request) (*cni.Result, error) {
			defer cancel()
			return inner(ctx, r)
		}
		if _, err := cni.Invoke(ctx, plugin, p.env("ADD"), p.document(nil, tls)); err == nil {
			t.Error("an ADD that was given up succeeds")
		}
	}
	for name, adds := range map[string][][]portmap.Mapping{
		"one of two":       {{web, tls}},
		"in another order": {{dns, web}},
		"two ADDs":         {{tls}, {web}},
		"three ADDs":       {{tls}, {dns}, {web}},
		"with an undo":     {{dns}, nil, {web}},
	} {
		for _, mappings := range adds {
			if mappings == nil {
				refused()
				continue
			}
			p.add(t, mappings...)
		}
		p.del(t, web)
		if left := elements(t); len(left) > 0 {
			t.Errorf("%s: left %q", name, left)
		}
	}
}

// TestAddressOfAnother: a container that got the address of one whose DEL was
// lost, and that DEL then comes.
func TestAddressOfAnother(t *testing.T) {
	newBridge(t)
	ns := netnstest.New(t)
	lost, now := bare(t, ns, "a", "10.55.0.2"), bare(t, ns, "b", "10.55.0.2")
	mapping, mine := portmap.Mapping{HostPort: 80, ContainerPort: 80}, portmap.Mapping{HostPort: 81, ContainerPort: 80}
	lost.add(t, mapping)
	now.add(t, mine)
	lost.del(t, mapping)
	if _, err := now.portmap("CHECK", mine); err != nil {
		t.Error(err)
	}
	if all := strings.Join(elements(t), " "); strings.Contains(all, "pm/a/") {
		t.Errorf("left: %s", all)
	}
}

func TestGC(t *testing.T) {
	newBridge(t)
	ns := netnstest.New(t)
	a, b, c := bare(t, ns, "a", "10.55.0.2"), bare(t, ns, "b", "10.55.0.3"), bare(t, ns, "c", "10.55.0.4")
	c.config["name"] = "pm2"
	for i, p := range []*pod{a, b, c} {
		p.add(t, portmap.Mapping{HostPort: 80 + i, ContainerPort: 80})
	}
	gc := func(valid any) error {
		doc := a.document(map[string]any{"prevResult": nil, "runtimeConfig": nil, "cni.dev/valid-attachments": valid})
		_, err := cni.Invoke(context.Background(), portmap.Plugin(), map[string]string{"CNI_COMMAND": "GC"}, doc)
		return err
	}
	for _, step := range []struct {
		valid any
		left  string
	}{
		{[]cni.Attachment{{ContainerID: "b", IfName: "eth0"}, {ContainerID: "a", IfName: "eth1"}}, "pm/b/eth0 pm2/c/eth0"},
		{[]cni.Attachment{{ContainerID: "b", IfName: "eth0"}}, "pm/b/eth0 pm2/c/eth0"},
		{[]cni.Attachment{}, "pm2/c/eth0"},
	} {
		if err := gc(step.valid); err != nil {
			t.Error(err)
		}
		owners := regexp.MustCompile(`pm2?/./eth.`).FindAllString(strings.Join(elements(t), " "), -1)
		if got := strings.Join(slices.Compact(owners), " "); got != step.left {
			t.Errorf("GC with %v left %s", step.valid, got)
		}
	}
	wantCode(t, "GC without a list", gc(nil), cni.CodeConfig, "valid-attachments")
}

// TestInterfacesAreForgotten: what attachments share of an interface goes some
// time after it.
func TestInterfacesAreForgotten(t *testing.T) {
	newBridge(t)
	ns := netnstest.New(t)
	on := func(id, ip string) *pod {
		netnstest.Run(t, "", "ip", "link", "add", "pm-"+id, "type", "bridge")
		netnstest.Run(t, "", "ip", "addr", "add", ip+"1/24", "dev", "pm-"+id)
		netnstest.Run(t, "", "ip", "link", "set", "pm-"+id, "up")
		return bare(t, ns, id, ip+"2")
	}
	mapping := portmap.Mapping{HostPort: 80, ContainerPort: 80, HostIP: "0.0.0.0"}
	want := func(step string, names ...string) {
		t.Helper()
		list := netnstest.Run(t, "", "nft", "list", "set", "inet", testTable, "localnet") +
			netnstest.Run(t, "", "nft", "list", "set", "inet", testTable, "back")
		got := regexp.MustCompile(`"pm-?[a-z0-9]*"`).FindAllString(list, -1)
		slices.Sort(got)
		if diff := cmp.Diff(names, slices.Compact(got)); diff != "" {
			t.Errorf("%s: %s", step, diff)
		}
	}
	a := on("a", "10.56.0.")
	a.add(t, mapping)
	want("an ADD", `"pm-a"`)
	a.del(t, mapping)
	netnstest.Run(t, "", "ip", "link", "del", "pm-a")
	b := on("b", "10.57.0.")
	b.add(t, mapping)
	want("an ADD by another", `"pm-b"`)
	netnstest.Run(t, "", "ip", "link", "del", "pm-b")
	gc := b.document(map[string]any{"prevResult": nil, "runtimeConfig": nil, "cni.dev/valid-attachments": []any{}})
	if _, err := cni.Invoke(context.Background(), portmap.Plugin(), map[string]string{"CNI_COMMAND": "GC"}, gc); err != nil {
		t.Error(err)
	}
	want("GC")
}

// withoutPrivileges runs fn on a thread that may not change the network. The
// thread ends with it.
func withoutPrivileges(t *testing.T, fn func()) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked
		none := [2]unix.CapUserData{}
		err := unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &none[0])
		if err == nil {
			fn()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestStatus(t *testing.T) {
	newBridge(t)
	p := bare(t, "", "a", "10.55.0.2")
	status := func(changes map[string]any) error {
		changes["prevResult"], changes["runtimeConfig"] = nil, nil
		_, err := cni.Invoke(context.Background(), portmap.Plugin(), map[string]string{"CNI_COMMAND": "STATUS"}, p.document(changes))
		return err
	}
	if err := status(map[string]any{}); err != nil {
		t.Error(err)
	}
	if all := netnstest.Run(t, "", "nft", "list", "tables"); strings.Contains(all, testTable) {
		t.Errorf("STATUS left a table: %s", all)
	}
	withoutPrivileges(t, func() {
		wantCode(t, "STATUS without privileges", status(map[string]any{}), cni.CodeUnavailable, "nftables")
	})
	wantCode(t, "STATUS of a mistake", status(map[string]any{"backend": "ebtables"}), cni.CodeConfig, "backend")
}

// checked is an attachment with its mappings.
type checked struct {
	*pod
	mappings []portmap.Mapping
}

func (c checked) check() error {
	_, err := c.portmap("CHECK", c.mappings...)
	return err
}

func (c checked) mend() error { return c.repair(c.mappings...) }

// each calls fn for all until one fails.
func each(all []checked, fn func(checked) error) error {
	for _, c := range all {
		if err := fn(c); err != nil {
			return err
		}
	}
	return nil
}

// newChecked makes attachments that have an element of every kind.
func newChecked(t *testing.T) []checked {
	a, ns := newPod(t, "a", 2), netnstest.New(t)
	quiet, wide := bare(t, ns, "b", "10.55.0.3"), bare(t, ns, "c", "10.55.0.4")
	quiet.config["snat"], wide.config["masqAll"] = false, true
	all := []checked{
		{a, []portmap.Mapping{{HostPort: 80, ContainerPort: a.port}, {HostPort: 81, ContainerPort: 80, HostIP: "192.0.2.1", Protocol: "udp"}}},
		{quiet, []portmap.Mapping{{HostPort: 82, ContainerPort: 80}}},
		{wide, []portmap.Mapping{{HostPort: 83, ContainerPort: 80}}},
	}
	for _, c := range all {
		c.add(t, c.mappings...)
	}
	return all
}

// TestCheckAndRepair breaks one thing after the other.
func TestCheckAndRepair(t *testing.T) {
	newBridge(t)
	all := newChecked(t)
	a := all[0]
	for _, s := range []struct{ act, words string }{
		{"nft delete table inet pm-test", `"output"`},
		{"nft delete element inet pm-test any4 { tcp . 80 }", "80/tcp to 10.55.0.2"},
		{"nft delete element inet pm-test any6 { tcp . 80 }", "80/tcp to [fd55::2]"},
		{"nft delete element inet pm-test one4 { udp . 192.0.2.1 . 81 }", "81/udp"},
		{"nft flush set inet pm-test localnet", "guard of interface pm0"},
		{"nft flush set inet pm-test back", "back by interface pm0"},
		{"nft flush set inet pm-test self6", "itself"},
		{"nft delete element inet pm-test near4 { udp . 80 . 10.55.0.2 }", "masquerading of container port 80/udp"},
		{"nft flush set inet pm-test quiet4", "127.0.0.1 from host port 82/tcp"},
		{"nft flush set inet pm-test wide4", "masquerading of container port 80/tcp"},
		{"sysctl -qw net.ipv4.ip_forward=0", "net/ipv4/ip_forward"},
		{"sysctl -qw net.ipv6.conf.all.forwarding=0", "net/ipv6/conf/all/forwarding"},
		{"sysctl -qw net.ipv4.conf.pm0.route_localnet=0", "pm0/route_localnet"},
	} {
		netnstest.Run(t, "", strings.Fields(s.act)...)
		before := netnstest.Run(t, "", "nft", "list", "ruleset")
		wantCode(t, s.act, each(all, checked.check), cni.CodeNotAsExpected, s.words)
		if after := netnstest.Run(t, "", "nft", "list", "ruleset"); after != before {
			t.Errorf("%s: CHECK changed something: %s", s.act, cmp.Diff(before, after))
		}
		if err := each(all, checked.mend); err != nil {
			t.Errorf("%s: repair: %v", s.act, err)
		}
		if err := each(all, checked.check); err != nil {
			t.Errorf("%s: after the repair: %v", s.act, err)
		}
	}
	if seen, err := netnstest.TryDial(a.ns, "10.55.0.1", 80); err != nil || seen != "10.55.0.1" {
		t.Errorf("after the repairs: %q %v", seen, err)
	}
	// A port that another has by now is not taken back.
	a.del(t, a.mappings...)
	all[2].add(t, a.mappings[0])
	wantCode(t, "repair of a port that was lost", a.mend(), cni.CodeExists, "80/tcp", "pm/c/eth0")
}

// TestCheckMissesEveryRule takes away one rule after the other.
func TestCheckMissesEveryRule(t *testing.T) {
	newBridge(t)
	a := newChecked(t)[0]
	handle := regexp.MustCompile(`# handle (\d+)\n`)
	for _, chain := range []string{"guard", "prerouting", "output", "postrouting"} {
		for n := 1; ; n++ { // the first handle is the chain's own
			handles := handle.FindAllStringSubmatch(netnstest.Run(t, "", "nft", "-a", "list", "chain", "inet", testTable, chain), -1)
			if n == len(handles) && n > 2 {
				break
			}
			netnstest.Run(t, "", "nft", "delete", "rule", "inet", testTable, chain, "handle", handles[n][1])
			wantCode(t, fmt.Sprintf("rule %d of %s", n, chain), a.check(), cni.CodeNotAsExpected, `"`+chain+`"`)
			if err := a.mend(); err != nil {
				t.Error(err)
			}
		}
	}
	if err := a.check(); err != nil {
		t.Error(err)
	}
}

// TestLostRulesComeBack: a runtime that never calls CHECK gets no port that leads
// nowhere, also when nothing has to be added.
func TestLostRulesComeBack(t *testing.T) {
	newBridge(t)
	p := bare(t, netnstest.New(t), "a", "10.55.0.2")
	mapping := portmap.Mapping{HostPort: 80, ContainerPort: 80}
	p.add(t, mapping)
	for what, call := range map[string]func() error{
		"ADD":    func() error { _, err := p.portmap("ADD", mapping); return err },
		"STATUS": func() error { _, err := p.call("STATUS", p.document(map[string]any{"prevResult": nil})); return err },
	} {
		netnstest.Run(t, "", "nft", "flush table inet "+testTable)
		if err := call(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if _, err := p.portmap("CHECK", mapping); err != nil {
			t.Errorf("after %s: %v", what, err)
		}
	}
	p.del(t, mapping)
}

// TestTeardown: with the guard goes what it guarded.
func TestTeardown(t *testing.T) {
	newBridge(t)
	a := newPod(t, "a", 2)
	a.add(t, portmap.Mapping{HostPort: 80, ContainerPort: 80})
	localnet := func() string {
		b, err := os.ReadFile("/proc/sys/net/ipv4/conf/pm0/route_localnet")
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(b))
	}
	if localnet() != "1" {
		t.Fatal("127.0.0.1 is not open")
	}
	for range 2 {
		if err := portmap.Teardown(context.Background(), portmap.Config{NFTTable: testTable}); err != nil {
			t.Error(err)
		}
	}
	if localnet() != "0" {
		t.Error("127.0.0.1 is still open")
	}
}

// TestUndo: an ADD whose caller has gone leaves nothing.
func TestUndo(t *testing.T) {
	newBridge(t)
	p := bare(t, netnstest.New(t), "a", "10.55.0.2")
	p.add(t, portmap.Mapping{HostPort: 80, ContainerPort: 80})
	before := elements(t)
	ctx, cancel := context.WithCancel(context.Background())
	plugin := portmap.Plugin()
	inner := plugin.Add
	plugin.Add = func(ctx context.Context, r *cni.Request) (*cni.Result, error) {
		defer cancel()
		return inner(ctx, r)
	}
	_, err := cni.Invoke(ctx, plugin, p.env("ADD"), p.document(nil, portmap.Mapping{HostPort: 81, ContainerPort: 80}, portmap.Mapping{HostPort: 80, ContainerPort: 80}))
	wantCode(t, "an ADD that was given up", err, cni.CodeTryAgain)
	if diff := cmp.Diff(before, elements(t)); diff != "" {
		t.Error(diff)
	}
}
