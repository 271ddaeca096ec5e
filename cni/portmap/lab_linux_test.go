package portmap_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"strings"
	"testing"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/cni/portmap"
	"github.com/nodekit-project/nodekit/internal/netnstest"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// TestMain makes the test binary a plugin, too, for tests with several processes.
func TestMain(m *testing.M) {
	if os.Getenv("CNI_COMMAND") != "" {
		cni.Main(portmap.Plugin())
	}
	netnstest.Main(m)
}

const testTable = "pm-test"

// pod is a container behind a bridge, with one server of TCP.
type pod struct {
	id, ns, ip, ip6 string
	port            int
	prev            json.RawMessage
	config          map[string]any // what its requests add to the configuration
}

// newPod connects a namespace to the bridge pm0 as the bridge plugin would.
func newPod(t testing.TB, id string, last int) *pod {
	t.Helper()
	p := &pod{id: id, ns: netnstest.New(t), ip: fmt.Sprintf("10.55.0.%d", last), ip6: fmt.Sprintf("fd55::%d", last), config: map[string]any{}}
	impatient(t, p.ns)
	p.port = netnstest.Listen(t, p.ns)
	netnstest.Link(t, p.ns, "to-"+id, "", p.ip+"/24")
	netnstest.Run(t, "", "ip", "link", "set", "to-"+id, "master", "pm0")
	netnstest.Run(t, "", "ip", "link", "set", "to-"+id, "type", "bridge_slave", "hairpin", "on")
	netnstest.Run(t, p.ns, "ip", "route", "add", "default", "via", "10.55.0.1")
	netnstest.Run(t, p.ns, "ip", "addr", "add", p.ip6+"/64", "dev", "eth0", "nodad")
	netnstest.Run(t, p.ns, "ip", "-6", "route", "add", "default", "via", "fd55::ff")
	p.prev = result(p.ns, p.ip+"/24", p.ip6+"/64")
	return p
}

// result returns what the bridge plugin would, with a key that nobody knows.
func result(ns string, addrs ...string) json.RawMessage {
	var ips []string
	for _, a := range addrs {
		ips = append(ips, fmt.Sprintf(`{"address":%q,"interface":1}`, a))
	}
	return fmt.Appendf(nil, `{"cniVersion":"1.1.0","interfaces":[{"name":"pm0"},{"name":"eth0","sandbox":%q}],"ips":[%s],"extra":{"n":1}}`,
		ns, strings.Join(ips, ","))
}

// set changes the pod's configuration until the test ends.
func (p *pod) set(t testing.TB, key string, value any) {
	p.config[key] = value
	t.Cleanup(func() { delete(p.config, key) })
}

// document returns the stdin of a request: the changes come last, and a nil one
// takes the key away.
func (p *pod) document(changes map[string]any, mappings ...portmap.Mapping) []byte {
	config := map[string]any{
		"cniVersion": "1.1.0", "name": "pm", "type": "portmap", "nftTable": testTable,
		"prevResult": p.prev, "runtimeConfig": map[string]any{"portMappings": mappings},
	}
	maps.Copy(config, p.config)
	maps.Copy(config, changes)
	maps.DeleteFunc(config, func(_ string, v any) bool { return v == nil })
	stdin, err := json.Marshal(config)
	if err != nil {
		panic(err)
	}
	return stdin
}

func (p *pod) env(command string) map[string]string {
	return map[string]string{"CNI_COMMAND": command, "CNI_CONTAINERID": p.id, "CNI_IFNAME": "eth0", "CNI_NETNS": p.ns}
}

func (p *pod) call(command string, stdin []byte) ([]byte, error) {
	return cni.Invoke(context.Background(), portmap.Plugin(), p.env(command), stdin)
}

func (p *pod) portmap(command string, mappings ...portmap.Mapping) ([]byte, error) {
	return p.call(command, p.document(nil, mappings...))
}

func (p *pod) repair(mappings ...portmap.Mapping) error {
	set := cni.Set{"portmap": portmap.Plugin()}
	return set.Repair(context.Background(), "portmap", p.env("CHECK"), p.document(nil, mappings...))
}

// add forwards ports for the test.
func (p *pod) add(t testing.TB, mappings ...portmap.Mapping) {
	t.Helper()
	out, err := p.portmap("ADD", mappings...)
	if err != nil {
		t.Fatalf("ADD: %v", err)
	}
	if string(out) != string(p.prev) {
		t.Errorf("prevResult was not passed through: %s", out)
	}
}

// hold is add until the test ends.
func (p *pod) hold(t testing.TB, mappings ...portmap.Mapping) {
	t.Helper()
	p.add(t, mappings...)
	t.Cleanup(func() { p.del(t) })
}

// del ends it, with the documents of the ADD.
func (p *pod) del(t testing.TB, mappings ...portmap.Mapping) {
	t.Helper()
	if out, err := p.portmap("DEL", mappings...); err != nil || len(out) > 0 {
		t.Errorf("DEL: %v, %s", err, out)
	}
}

// impatient makes IPv6 usable at once: new interfaces look for no duplicates.
func impatient(t testing.TB, ns string) {
	t.Helper()
	netnstest.Run(t, ns, "sysctl", "-qw", "net.ipv6.conf.all.accept_dad=0", "net.ipv6.conf.default.accept_dad=0")
}

// newBridge makes the bridge pm0 and takes it and the table away in the end.
func newBridge(t testing.TB) {
	testenv.Require(t, testenv.Root)
	impatient(t, "")
	netnstest.Run(t, "", "ip", "link", "set", "lo", "up")
	netnstest.Run(t, "", "ip", "link", "add", "pm0", "type", "bridge")
	netnstest.Run(t, "", "ip", "addr", "add", "10.55.0.1/24", "dev", "pm0")
	netnstest.Run(t, "", "ip", "addr", "add", "fd55::ff/64", "dev", "pm0", "nodad")
	netnstest.Run(t, "", "ip", "link", "set", "pm0", "up")
	t.Cleanup(func() {
		netnstest.Run(t, "", "ip", "link", "del", "pm0")
		if err := portmap.Teardown(context.Background(), portmap.Config{NFTTable: testTable}); err != nil {
			t.Error(err)
		}
	})
}

// newOutside connects a machine that is not this host.
func newOutside(t testing.TB) (ns string) {
	ns = netnstest.New(t)
	impatient(t, ns)
	netnstest.Link(t, ns, "out0", "192.0.2.1/24", "192.0.2.2/24")
	netnstest.Run(t, ns, "ip", "route", "add", "default", "via", "192.0.2.1")
	netnstest.Run(t, "", "ip", "addr", "add", "2001:db8::1/64", "dev", "out0", "nodad")
	netnstest.Run(t, ns, "ip", "addr", "add", "2001:db8::2/64", "dev", "eth0", "nodad")
	netnstest.Run(t, ns, "ip", "-6", "route", "add", "default", "via", "2001:db8::1")
	return ns
}

// lab is what tests of the way of packets share.
type lab struct {
	a, b    *pod
	outside string
}

// TestPackets has the tests that send packets and leave the host as it was.
func TestPackets(t *testing.T) {
	newBridge(t)
	l := &lab{newPod(t, "a", 2), newPod(t, "b", 3), newOutside(t)}
	t.Run("paths", l.testPaths)
	t.Run("passing through", l.testPassingThrough)
	t.Run("host addresses", l.testHostIP)
	t.Run("loopback is shared", l.testLoopbackIsShared)
	t.Run("masqAll", l.testMasqAll)
	t.Run("UDP clients follow", l.testUDPClientsFollow)
	t.Run("SCTP", l.testSCTP)
	t.Run("many ports", l.testManyPorts)
}

// rules returns the table as nft(8) prints it.
func rules(t testing.TB) string {
	t.Helper()
	return netnstest.Run(t, "", "nft", "list", "table", "inet", testTable)
}

// wantCode expects an error with the code that has the words.
func wantCode(t *testing.T, what string, err error, code uint, words ...string) {
	t.Helper()
	if err == nil || cni.CodeOf(err) != code {
		t.Errorf("%s: code %d is expected instead of: %v", what, code, err)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%s: %q is not in: %v", what, w, err)
		}
	}
}
