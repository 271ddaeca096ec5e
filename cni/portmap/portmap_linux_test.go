package portmap_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/cni/portmap"
	"github.com/nodekit-project/nodekit/internal/netnstest"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

func TestMain(m *testing.M) { netnstest.Main(m) }

// pod is a container behind a bridge, with one server.
type pod struct {
	id, ns, ip string
	port       int
	prev       json.RawMessage
}

// newPod connects a namespace to the bridge pm0 as the bridge plugin would.
func newPod(t *testing.T, id string, last int) *pod {
	t.Helper()
	p := &pod{id: id, ns: netnstest.New(t), ip: fmt.Sprintf("10.55.0.%d", last)}
	p.port = netnstest.Listen(t, p.ns)
	netnstest.Link(t, p.ns, "to-"+id, "", p.ip+"/24")
	netnstest.Run(t, "", "ip", "link", "set", "to-"+id, "master", "pm0")
	netnstest.Run(t, "", "ip", "link", "set", "to-"+id, "type", "bridge_slave", "hairpin", "on")
	netnstest.Run(t, p.ns, "ip", "route", "add", "default", "via", "10.55.0.1")
	p.prev = fmt.Appendf(nil, `{"cniVersion":"1.1.0","interfaces":[{"name":"pm0"},{"name":"eth0","sandbox":%q}],`+
		`"ips":[{"address":"%s/24","interface":1}],"extra":1}`, p.ns, p.ip)
	return p
}

func (p *pod) call(command, config string) ([]byte, error) {
	env := map[string]string{"CNI_COMMAND": command, "CNI_CONTAINERID": p.id, "CNI_IFNAME": "eth0", "CNI_NETNS": p.ns}
	return cni.Invoke(context.Background(), portmap.Plugin(), env, []byte(config))
}

func (p *pod) portmap(command string, mappings ...portmap.Mapping) ([]byte, error) {
	config := map[string]any{"cniVersion": "1.1.0", "name": "pm", "type": "portmap", "nftTable": "pm-test"}
	if command != "DEL" { // which must do without
		config["prevResult"], config["runtimeConfig"] = p.prev, map[string]any{"portMappings": mappings}
	}
	stdin, err := json.Marshal(config)
	if err != nil {
		return nil, err
	}
	return p.call(command, string(stdin))
}

func setUp(t *testing.T) (a, b *pod, outside string) {
	testenv.Require(t, testenv.Root)
	netnstest.Run(t, "", "ip", "link", "add", "pm0", "type", "bridge")
	netnstest.Run(t, "", "ip", "addr", "add", "10.55.0.1/24", "dev", "pm0")
	netnstest.Run(t, "", "ip", "link", "set", "pm0", "up")
	t.Cleanup(func() {
		netnstest.Run(t, "", "ip", "link", "del", "pm0")
		if err := portmap.Teardown(context.Background(), portmap.Config{NFTTable: "pm-test"}); err != nil {
			t.Error(err)
		}
	})
	a, b, outside = newPod(t, "a", 2), newPod(t, "b", 3), netnstest.New(t)
	netnstest.Link(t, outside, "out0", "192.0.2.1/24", "192.0.2.2/24")
	netnstest.Run(t, outside, "ip", "route", "add", "default", "via", "192.0.2.1")
	return a, b, outside
}

func TestDataPath(t *testing.T) {
	a, b, outside := setUp(t)
	mapping := portmap.Mapping{HostPort: 8080, ContainerPort: a.port, Protocol: "tcp"}
	out, err := a.portmap("ADD", mapping)
	if err != nil {
		t.Fatal(err)
	}
	if string(out) != string(a.prev) {
		t.Errorf("prevResult was not passed through: %s", out)
	}
	if _, err := a.portmap("CHECK", mapping); err != nil {
		t.Error(err)
	}
	for _, c := range []struct{ name, from, to, seen string }{
		{"from outside", outside, "192.0.2.1", "192.0.2.2"},
		{"from the host", "", "192.0.2.1", "192.0.2.1"},
		{"from a neighbour", b.ns, "192.0.2.1", "10.55.0.1"},
		{"from itself", a.ns, "192.0.2.1", "10.55.0.1"},
	} {
		if seen, err := netnstest.TryDial(c.from, c.to, 8080); err != nil || seen != c.seen {
			t.Errorf("%s: the server saw %q instead of %q (%v)", c.name, seen, c.seen, err)
		}
	}
	elsewhere := netnstest.Listen(t, outside)
	if _, err := b.portmap("ADD", portmap.Mapping{HostPort: elsewhere, ContainerPort: b.port}); err != nil {
		t.Fatal(err)
	}
	// A port of some other machine is not ours to forward.
	if seen, err := netnstest.TryDial(a.ns, "192.0.2.2", elsewhere); err != nil || seen != a.ip {
		t.Errorf("a connection through the host was caught: server saw %q, %v", seen, err)
	}
	for _, p := range []*pod{a, a, b} {
		if out, err := p.portmap("DEL"); err != nil || len(out) > 0 {
			t.Errorf("DEL: %v, %s", err, out)
		}
	}
	if _, err := netnstest.TryDial(outside, "192.0.2.1", 8080); err == nil {
		t.Error("the port is still forwarded")
	}
	if rules := netnstest.Run(t, "", "nft", "list", "table", "inet", "pm-test"); strings.Contains(rules, "comment") {
		t.Errorf("left after DEL: %s", rules)
	}
}

func TestHostIP(t *testing.T) {
	a, _, outside := setUp(t)
	if _, err := a.portmap("ADD", portmap.Mapping{HostPort: 8081, ContainerPort: a.port, HostIP: "192.0.2.1"}); err != nil {
		t.Fatal(err)
	}
	if _, err := netnstest.TryDial(outside, "192.0.2.1", 8081); err != nil {
		t.Error(err)
	}
	if _, err := netnstest.TryDial(outside, "10.55.0.1", 8081); err == nil {
		t.Error("the port of another address is forwarded too")
	}
	if _, err := a.portmap("DEL"); err != nil {
		t.Error(err)
	}
}

func TestConflictsAndMistakes(t *testing.T) {
	a, b, _ := setUp(t)
	if _, err := a.portmap("ADD", portmap.Mapping{HostPort: 8080, ContainerPort: 80}); err != nil {
		t.Fatal(err)
	}
	for _, m := range []portmap.Mapping{{HostPort: 8080, ContainerPort: 81}, {HostPort: 8080, ContainerPort: 80, HostIP: "192.0.2.1"}} {
		if _, err := b.portmap("ADD", m); cni.CodeOf(err) != cni.CodeExists {
			t.Errorf("%v, which a has: %v", m, err)
		}
	}
	if _, err := b.portmap("ADD", portmap.Mapping{HostPort: 8080, ContainerPort: 80, Protocol: "udp"}); err != nil {
		t.Errorf("the same port of another protocol: %v", err)
	}
	for _, m := range []portmap.Mapping{
		{HostPort: 99999, ContainerPort: 80},
		{HostPort: 80, ContainerPort: 0},
		{HostPort: 80, ContainerPort: 80, Protocol: "sctp"},
		{HostPort: 80, ContainerPort: 80, HostIP: "bogus"},
		{HostPort: 80, ContainerPort: 80, HostIP: "fd00::1"},
	} {
		if _, err := a.portmap("ADD", m); cni.CodeOf(err) != cni.CodeConfig {
			t.Errorf("%v: %v", m, err)
		}
	}
	if _, err := a.call("GC", `{"cniVersion":"1.1.0","name":"pm","nftTable":"pm-test","cni.dev/valid-attachments":[{"containerID":"b","ifname":"eth0"}]}`); err == nil {
		rules := netnstest.Run(t, "", "nft", "list", "table", "inet", "pm-test")
		if strings.Contains(rules, "pm/a/eth0") || !strings.Contains(rules, "pm/b/eth0") {
			t.Errorf("after GC: %s", rules)
		}
	} else {
		t.Error(err)
	}
}
