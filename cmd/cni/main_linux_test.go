package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/cni/bridge"
	"github.com/nodekit-project/nodekit/cni/hostlocal"
	"github.com/nodekit-project/nodekit/cni/portmap"
	"github.com/nodekit-project/nodekit/cni/runtime"
	"github.com/nodekit-project/nodekit/conformance"
	"github.com/nodekit-project/nodekit/conformance/cnisuite"
	"github.com/nodekit-project/nodekit/internal/netns"
	"github.com/nodekit-project/nodekit/internal/netnstest"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

func TestMain(m *testing.M) {
	if os.Args[0] == "crasher" {
		crashInAdd(os.Args[1])
	}
	netnstest.Main(m)
}

// build returns a directory with the binary under the plugins' names.
func build(t testing.TB) (dir string) {
	t.Helper()
	dir = t.TempDir()
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w -buildid=", "-o", filepath.Join(dir, "bridge"), ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, name := range []string{"host-local", "portmap", "loopback"} {
		if err := os.Symlink("bridge", filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestProtocol(t *testing.T) {
	dir := build(t)
	if err := os.Symlink("bridge", filepath.Join(dir, "brige")); err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		name, plugin, env, stdin string
		rc                       int
		stdout                   string
	}{
		{"version is echoed", "bridge", "CNI_COMMAND=VERSION", `{"cniVersion":"0.4.0"}`, 0, `{"cniVersion":"0.4.0","supportedVersions":["0.1.0","0.2.0","0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]}`},
		{"no command", "portmap", "", "", 1, `{"cniVersion":"1.1.0","code":4,"msg":"CNI_COMMAND is missing"}`},
		{"unknown name", "brige", "CNI_COMMAND=ADD", "", 1, `{"cniVersion":"1.1.0","code":7,"msg":"no plugin is called \"brige\", the name of this executable: rename it to one of [\"bridge\" \"host-local\" \"loopback\" \"portmap\"]"}`},
		{"strange command", "loopback", "CNI_COMMAND=FOO", "{}", 1, `{"cniVersion":"1.1.0","code":4,"msg":"CNI_COMMAND is \"FOO\", which is no command of CNI"}`},
		{"several variables", "bridge", "CNI_COMMAND=ADD CNI_CONTAINERID=../x", "{}", 1, `{"cniVersion":"1.1.0","code":4,"msg":"CNI_CONTAINERID is \"../x\": it must begin with a letter or digit and go on with those, '_', '.' and '-'; CNI_IFNAME is missing; CNI_NETNS is missing"}`},
		{"not JSON", "bridge", "CNI_COMMAND=STATUS", "{", 1, `{"cniVersion":"1.1.0","code":6,"msg":"decoding network configuration: unexpected EOF"}`},
		{"own namespace", "bridge", "CNI_COMMAND=ADD CNI_CONTAINERID=x CNI_IFNAME=eth0 CNI_NETNS=/proc/self/ns/net", `{"cniVersion":"1.0.0","name":"n"}`, 1, `{"cniVersion":"1.0.0","code":4,"msg":"CNI_NETNS: \"/proc/self/ns/net\" is the network namespace that the plugin runs in"}`},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			cmd := exec.Command(filepath.Join(dir, c.plugin))
			cmd.Env, cmd.Stdin = strings.Fields(c.env), strings.NewReader(c.stdin)
			out, _ := cmd.Output()
			if rc := cmd.ProcessState.ExitCode(); rc != c.rc || string(out) != c.stdout {
				t.Errorf("rc %d, stdout\n%s, want\n%s", rc, out, c.stdout)
			}
		})
	}
}

// TestConforms holds the plugins to the suite, with the suite's IPAM plugin and
// with the real one.
func TestConforms(t *testing.T) {
	testenv.Require(t, testenv.Root)
	dir := build(t)
	for name, target := range map[string]cnisuite.Target{
		"bridge":                   {Config: `{"bridge":"suite0","isDefaultGateway":true,"ipMasq":true,"ipam":{"type":"suite-ipam"}}`},
		"bridge without addresses": {Config: `{"type":"bridge"}`},
	} {
		t.Run(name, func(t *testing.T) {
			target.Binary = filepath.Join(dir, strings.Fields(name)[0])
			// tools/conformance goes on to the crash tier.
			cnisuite.Suite().Test(t, target, &conformance.Options{Tier: conformance.Quick})
		})
	}
}

const config = `{"cniVersion":"1.1.0","name":%q,"type":"bridge","bridge":%q,"isDefaultGateway":true,"ipMasq":true,
	"ipam":{"type":"host-local","dataDir":%q,"ranges":[[{"subnet":"10.44.0.0/16"}]]}}`

// door is one of the ways in which a plugin is reached.
type door func(env map[string]string, stdin []byte) ([]byte, error)

func doors(dir string) map[string]door {
	set := cni.Set{"bridge": bridge.Plugin(), "host-local": hostlocal.Plugin()}
	return map[string]door{
		"in process": func(env map[string]string, stdin []byte) ([]byte, error) {
			return set.Invoke(context.Background(), "bridge", env, stdin)
		},
		"executed": func(env map[string]string, stdin []byte) ([]byte, error) {
			env["CNI_PATH"] = dir
			return cni.Exec(context.Background(), filepath.Join(dir, "bridge"), env, stdin, nil)
		},
	}
}

// TestSameDocuments runs a life through both doors and compares the answers.
func TestSameDocuments(t *testing.T) {
	testenv.Require(t, testenv.Root)
	data := t.TempDir()
	stdin := fmt.Appendf(nil, config, "same", "same0", data)
	t.Cleanup(func() {
		if err := bridge.Teardown(context.Background(), bridge.Config{Bridge: "same0"}); err != nil {
			t.Error(err)
		}
	})
	ns := netnstest.New(t)
	answers := map[string]string{}
	for name, call := range doors(build(t)) {
		answer := ""
		for _, command := range []string{"ADD", "ADD", "CHECK", "DEL", "DEL", "STATUS", "GC"} {
			env := map[string]string{"CNI_COMMAND": command, "CNI_CONTAINERID": "c", "CNI_IFNAME": "eth0", "CNI_NETNS": ns}
			out, err := call(env, stdin)
			var document map[string]any
			if len(out) > 0 {
				if err := json.Unmarshal(out, &document); err != nil {
					t.Errorf("%s, %s: %v", name, command, err)
				}
			}
			for i := range len(asList(document["interfaces"])) { // which are random
				delete(asList(document["interfaces"])[i].(map[string]any), "mac")
			}
			for _, ip := range asList(document["ips"]) { // which goes on from the last
				ip.(map[string]any)["address"] = "some"
			}
			text, _ := json.Marshal(document)
			answer += fmt.Sprintf("%s: %s, %v\n", command, text, err)
		}
		answers[name] = answer
	}
	if answers["in process"] != answers["executed"] {
		t.Errorf("in process:\n%s\nexecuted:\n%s", answers["in process"], answers["executed"])
	}
}

func asList(v any) []any {
	list, _ := v.([]any)
	return list
}

// crashConfig is a bridge network whose last plugin kills the process.
const crashConfig = `{"cniVersion":"1.1.0","name":"crash","plugins":[
	{"type":"bridge","bridge":"crash0","isDefaultGateway":true,"ipMasq":true,"ipam":{"type":"host-local","dataDir":%q,"ranges":[[{"subnet":"10.66.0.0/24"}]]}},
	{"type":"portmap","nftTable":"crash-ports","capabilities":{"portMappings":true}},
	{"type":"killer"}]}`

func builtins(kill func()) map[string]*cni.Plugin {
	return map[string]*cni.Plugin{"bridge": bridge.Plugin(), "host-local": hostlocal.Plugin(), "portmap": portmap.Plugin(), "killer": {
		Name: "killer",
		Add:  func(context.Context, *cni.Request) (*cni.Result, error) { kill(); return nil, nil },
	}}
}

func crashAttachment(dir string) runtime.Attachment {
	return runtime.Attachment{
		ContainerID: "c1", IfName: "eth0", NetNS: filepath.Join(dir, "ns"),
		PortMappings: []runtime.PortMapping{{HostPort: 8080, ContainerPort: 80, Protocol: "tcp"}},
	}
}

func crashNetwork(dir string, kill func()) (*runtime.Network, error) {
	return runtime.Open(runtime.Config{
		ConfDir: filepath.Join(dir, "net.d"), StateDir: filepath.Join(dir, "state"), Builtin: builtins(kill),
	})
}

// crashInAdd is a process that dies in the middle of an ADD.
func crashInAdd(dir string) {
	n, err := crashNetwork(dir, func() { syscall.Kill(os.Getpid(), syscall.SIGKILL) })
	if err == nil {
		_, err = n.Attach(context.Background(), crashAttachment(dir))
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func TestKilledInAdd(t *testing.T) {
	testenv.Require(t, testenv.Root, testenv.NFT)
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "net.d"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "net.d", "1.conflist"), fmt.Appendf(nil, crashConfig, dir), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := bridge.Teardown(context.Background(), bridge.Config{Bridge: "crash0"}); err != nil {
			t.Error(err)
		}
		if err := portmap.Teardown(context.Background(), portmap.Config{NFTTable: "crash-ports"}); err != nil {
			t.Error(err)
		}
	})
	if err := netns.Create(filepath.Join(dir, "ns")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { netns.Remove(filepath.Join(dir, "ns")) })
	crash := exec.Command("/proc/self/exe", dir)
	crash.Args[0] = "crasher"
	if out, err := crash.CombinedOutput(); crash.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the process did not die by its own hand: %v, %s", err, out)
	}
	left := func() []string {
		files, _ := filepath.Glob(filepath.Join(dir, "crash", "10.*"))
		rules := netnstest.Run(t, "", "nft", "list", "ruleset")
		if i := strings.Index(rules, `comment "crash/c1/eth0"`); i >= 0 {
			files = append(files, rules[i:])
		}
		return slices.DeleteFunc(append(files, netnstest.Run(t, "", "ip", "-o", "link", "show", "master", "crash0")), func(s string) bool { return s == "" })
	}
	if len(left()) < 3 {
		t.Fatalf("the crash came before everything was made: %q", left())
	}
	n, err := crashNetwork(dir, func() {})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	if l := left(); len(l) > 0 {
		t.Errorf("left after the restart: %q", l)
	}
	if _, err := n.Attach(t.Context(), crashAttachment(dir)); err != nil {
		t.Errorf("attaching again: %v", err)
	}
	if err := n.Detach(t.Context(), crashAttachment(dir)); err != nil {
		t.Error(err)
	}
}

// BenchmarkDoors measures ADD and DEL of bridge, host-local and masquerade.
func BenchmarkDoors(b *testing.B) {
	testenv.Require(b, testenv.Root)
	all := doors(build(b))
	if os.Getenv("CNI_BENCH_UPSTREAM") != "" {
		all["upstream executed"] = func(env map[string]string, stdin []byte) ([]byte, error) {
			env["CNI_PATH"] = "/usr/lib/cni"
			env["PATH"] = os.Getenv("PATH")
			stdin = bytes.Replace(stdin, []byte("1.1.0"), []byte("1.0.0"), 1)
			return cni.Exec(context.Background(), "/usr/lib/cni/bridge", env, stdin, nil)
		}
	}
	for name, call := range all {
		b.Run(name, func(b *testing.B) {
			stdin := fmt.Appendf(nil, config, "bench", "bench0", b.TempDir())
			defer bridge.Teardown(context.Background(), bridge.Config{Bridge: "bench0"})
			ns := filepath.Join(b.TempDir(), "ns")
			if err := netns.Create(ns); err != nil {
				b.Fatal(err)
			}
			defer netns.Remove(ns)
			var took [2][]time.Duration
			for b.Loop() {
				for i, command := range []string{"ADD", "DEL"} {
					start := time.Now()
					if _, err := call(map[string]string{"CNI_COMMAND": command, "CNI_CONTAINERID": "c", "CNI_IFNAME": "eth0", "CNI_NETNS": ns}, stdin); err != nil {
						b.Fatal(err)
					}
					took[i] = append(took[i], time.Since(start))
				}
			}
			for i, unit := range []string{"ms-add-p50", "ms-del-p50"} {
				slices.Sort(took[i])
				b.ReportMetric(float64(took[i][len(took[i])/2].Microseconds())/1000, unit)
			}
		})
	}
}
