package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/leak"
	"github.com/nodekit-project/nodekit/internal/netns"
	"github.com/nodekit-project/nodekit/internal/netnstest"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// The node with a CNI network that others wrote.

const (
	upstreamPlugins = "/usr/lib/cni"
	testBridge      = "nke2e0"
	testSubnet      = "10.213.77."
)

// ownNetwork puts the test, and what it starts, into a network of its own: what
// others wrote keeps its rules and names for the whole host, and tests run side
// by side.
func ownNetwork(t *testing.T) {
	t.Helper()
	h, err := netns.Open(netnstest.New(t))
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	runtime.LockOSThread() // never unlocked: the thread ends with the test's goroutine
	if err := unix.Setns(h.FD(), unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
}

// writeNetwork writes a configuration of bridge, host-local and portmap into
// the directory, which it makes.
func writeNetwork(t *testing.T, dir string) {
	t.Helper()
	list := fmt.Sprintf(`{"cniVersion": "1.0.0", "name": "e2e", "plugins": [
  {"type": "bridge", "bridge": %q, "isGateway": true, "ipMasq": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "dataDir": %q, "ranges": [[{"subnet": %q}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}`, testBridge, filepath.Join(dir, "addresses"), testSubnet+"0/24")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "10-e2e.conflist"), []byte(list), 0o600); err != nil {
		t.Fatal(err)
	}
}

// kept is what the plugins keep for the next Pod, however many there were: the
// bridge and the chains through which those of Pods are reached.
var kept = regexp.MustCompile(`^(link|address) (lo|` + testBridge + `)\b|^nft table |` +
	`^nft nat ip6? chain (PREROUTING|OUTPUT|POSTROUTING|CNI-HOSTPORT-DNAT$|CNI-HOSTPORT-MASQ|CNI-HOSTPORT-SETMARK)|` +
	`^nft cni-(` + testBridge + `|portmap) inet (chain|set [a-z0-9]+$|set (back|localnet) element)`)

// networkClean fails the test unless nothing of a Pod is left in its network.
func (c *cli) networkClean() {
	c.t.Helper()
	for _, l := range c.left(leak.Scope{Kinds: []leak.Kind{leak.Link, leak.Address, leak.NFT}}) {
		c.t.Errorf("left in the network: %v", l)
	}
}

// left returns what of the scope is there once the kernel has settled, but for
// what the network plugins keep.
func (c *cli) left(scope leak.Scope) []leak.Leak {
	c.t.Helper()
	nothing, err := leak.Take(leak.Scope{Kinds: []leak.Kind{leak.Loop}, Prefixes: map[leak.Kind][]string{leak.Loop: {"none"}}})
	if err != nil {
		c.t.Fatal(err)
	}
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		after, err := leak.Take(scope)
		if err != nil {
			c.t.Fatal(err)
		}
		left := slices.DeleteFunc(c.withoutOwn(nothing.Diff(after)), func(l leak.Leak) bool { return kept.MatchString(l.String()) })
		if len(left) == 0 || time.Now().After(deadline) {
			return left
		}
	}
}

const podServing = `apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  containers:
    - name: main
      image: nodekit.dev/podtool:v1
      args: [serve, --port, "8080", --text, "hello from the Pod", --requests, "1"]
      ports: [{containerPort: 8080, hostPort: 18080}]
      readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
`

// reachHostPort waits until the Pod is ready and asks it through the port of
// the host, which ends it.
func reachHostPort(t *testing.T, p *process) {
	t.Helper()
	p.await(`ready`)
	conn, err := (&net.Dialer{Timeout: 3 * time.Second}).Dial("tcp", testSubnet+"1:18080")
	if err != nil {
		t.Fatalf("%v\n%s", err, p.out)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(3 * time.Second))
	fmt.Fprint(conn, "GET / HTTP/1.0\r\n\r\n")
	if answer, err := io.ReadAll(conn); err != nil || !strings.Contains(string(answer), "hello from the Pod") {
		t.Errorf("%q, %v", answer, err)
	}
}

func TestRunOnUpstreamsNetwork(t *testing.T) {
	testenv.Require(t, testenv.Root, testenv.OCIRuntime, testenv.CNIPlugins)
	ownNetwork(t)
	c := newCLI(t)
	conf := filepath.Join(t.TempDir(), "net.d")
	writeNetwork(t, conf)
	p := c.start("run", "--cni-conf-dir", conf, "--cni-bin-dir", upstreamPlugins, c.write("p.yaml", podServing))
	reachHostPort(t, p)
	if code := p.exit(); code != 0 || !strings.Contains(p.out.String(), testSubnet) {
		t.Errorf("exit code %d:\n%s", code, p.out)
	}
	c.clean(p.out.String())
	c.networkClean()
}

// What the network's plugins keep of a Pod goes with it also when the node is
// taken down later, by a command of its own.
func TestResetOfANodeOnUpstreamsNetwork(t *testing.T) {
	testenv.Require(t, testenv.Root, testenv.OCIRuntime, testenv.CNIPlugins)
	ownNetwork(t)
	c := newCLI(t)
	d := c.daemon()
	conf := filepath.Join(t.TempDir(), "net.d")
	writeNetwork(t, conf)
	network := []string{"--cni-conf-dir", conf, "--cni-bin-dir", upstreamPlugins}
	p := d.up(append([]string{"--image-archive", filepath.Join(d.bin, "images", "podtool.tar")}, network...)...)
	d.manifest("p.yaml", counterPod)
	d.ready()
	p.interrupt()
	p.exit()
	c.clean(p.out.String() + d.reset(network...))
	c.networkClean()
	if left, _ := filepath.Glob(filepath.Join(conf, "addresses", "e2e", testSubnet+"*")); len(left) > 0 {
		t.Errorf("addresses that are still given out: %q", left)
	}
}
