package nodetest_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"

	"github.com/nodekit-project/nodekit/internal/leak"
	"github.com/nodekit-project/nodekit/internal/testenv"
	"github.com/nodekit-project/nodekit/kubelet/node"
	"github.com/nodekit-project/nodekit/kubelet/nodetest"
)

const module = "github.com/nodekit-project/nodekit/"

// programs builds all that the tests run, in one go, and returns the directory.
var programs = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "nodetest-bin-")
	if err != nil {
		return "", err
	}
	cmd := exec.Command("go", "build", "-trimpath", "-o", dir, module+"cmd/keeper", module+"cmd/podtool",
		module+"examples/device-hello", module+"examples/csi-hello", module+"kubelet/nodetest/testdata/cni-static", module+"examples/cri-hello")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return dir, fmt.Errorf("building the programs: %w\n%s", err, out)
	}
	archive, err := node.PackImage(filepath.Join(dir, "podtool"), "nodekit.dev/podtool:v1")
	if err != nil {
		return dir, err
	}
	return dir, os.WriteFile(filepath.Join(dir, "podtool.tar"), archive, 0o600)
})

func TestMain(m *testing.M) {
	code := m.Run()
	if built {
		if dir, _ := programs(); dir != "" {
			os.RemoveAll(dir)
		}
	}
	os.Exit(code)
}

// built says that a test has built the programs.
var built bool

// start starts a node in a directory of its own, and fails the test if anything
// of it is left on the machine in the end.
func start(t *testing.T, cfg node.Config) *nodetest.Node {
	t.Helper()
	testenv.Require(t, testenv.Root, testenv.OCIRuntime)
	built = true
	bin, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	for i := range cfg.Plugins {
		if !filepath.IsAbs(cfg.Plugins[i].Path) {
			cfg.Plugins[i].Path = filepath.Join(bin, cfg.Plugins[i].Path)
		}
	}
	cfg.Keeper, cfg.Images = filepath.Join(bin, "keeper"), []string{filepath.Join(bin, "podtool.tar")}
	dir := nodetest.ShortDir(t)
	cfg.Root, cfg.Run = filepath.Join(dir, "root"), filepath.Join(dir, "run")
	var name string
	t.Cleanup(func() { clean(t, dir, name) }) // after the node's own
	n := nodetest.Start(t, &cfg)
	name = n.String()
	return n
}

var networkID = regexp.MustCompile(`(?:bridge|network) nk-([0-9a-f]+)`)

// clean fails the test if something of the node is there.
func clean(t *testing.T, dir, name string) {
	t.Helper()
	scope := leak.Scope{
		Kinds: []leak.Kind{leak.Mount, leak.Namespace, leak.Loop, leak.Process, leak.Link, leak.NFT, leak.Cgroup}, Marker: dir,
		Prefixes: map[leak.Kind][]string{leak.Mount: {dir}, leak.Namespace: {dir}, leak.Loop: {dir}, leak.Link: {"none"}, leak.NFT: {"none"}, leak.Cgroup: {"none"}},
	}
	if m := networkID.FindStringSubmatch(name); m != nil {
		id := m[1]
		scope.Prefixes[leak.Link], scope.Prefixes[leak.NFT] = []string{"nk-" + id}, []string{"nodekit-" + id}
		scope.Prefixes[leak.Cgroup] = []string{"/nodekit-" + id}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	nothing, err := leak.Take(leak.Scope{Kinds: []leak.Kind{leak.Loop}, Prefixes: map[leak.Kind][]string{leak.Loop: {"none"}}})
	if err != nil {
		t.Fatal(err)
	}
	var left []leak.Leak
	for ; ctx.Err() == nil; time.Sleep(20 * time.Millisecond) {
		now, err := leak.Take(scope)
		if err != nil {
			t.Fatal(err)
		}
		left = slices.DeleteFunc(nothing.Diff(now), func(l leak.Leak) bool {
			return l.Kind == leak.Process && strings.HasPrefix(l.Name, fmt.Sprint(os.Getpid()))
		})
		if len(left) == 0 {
			return
		}
	}
	t.Errorf("left behind of %s: %v", dir, left)
}

// podOf is a Pod "p" whose container "main" runs podtool.
func podOf(command, rest string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 2
  containers:
  - name: main
    image: nodekit.dev/podtool:v1
    args: %s
%s`, command, rest)
}

const claim = `
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: c}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
---`

const usesClaim = `
    volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, persistentVolumeClaim: {claimName: c}}]
`

// TestLife holds a whole node: a Pod with a volume and a device becomes Ready,
// lives on over a restart without a flicker, answers exec and logs, and leaves
// nothing.
func TestLife(t *testing.T) {
	n := start(t, node.Config{})
	n.Apply(claim + podOf(`[do, "write /data/x kept", "stat-device /dev/nodekit-gpu0", "serve --port 8080"]`,
		"    readinessProbe: {httpGet: {port: 8080}}\n    resources: {limits: {nodekit.dev/gpu: 1}}"+usesClaim))
	before := n.WaitReady("p")
	n.Restart()
	after := n.WaitReady("p")
	if a, z := before.Status.ContainerStatuses[0], after.Status.ContainerStatuses[0]; a.ContainerID != z.ContainerID || z.RestartCount != 0 {
		t.Errorf("the container was %s and is %s after %d restarts", a.ContainerID, z.ContainerID, z.RestartCount)
	}
	if a, z := readySince(before), readySince(after); a.Unix() != z.Unix() {
		t.Errorf("Ready since %s, and after the restart since %s", a, z)
	}
	for range 3 {
		var out bytes.Buffer
		if err := execIn(t, n, "p", "main", []string{"/podtool", "cat", "/data/x"}, &out); err != nil || strings.TrimSpace(out.String()) != "kept" {
			t.Errorf("exec printed %q, %v", out.String(), err)
		}
	}
	if err := execIn(t, n, "p", "main", []string{"/podtool", "exit", "7"}, io.Discard); err == nil || !strings.Contains(err.Error(), "7") {
		t.Errorf("a command that exits with 7: %v", err)
	}
}

func readySince(p *v1.Pod) time.Time {
	i := slices.IndexFunc(p.Status.Conditions, func(c v1.PodCondition) bool { return c.Type == v1.PodReady })
	return p.Status.Conditions[i].LastTransitionTime.Time
}

// execIn runs a command in a container through the kubelet's API, as kubectl's
// client does.
func execIn(t *testing.T, n *nodetest.Node, pod, container string, command []string, out io.Writer) error {
	t.Helper()
	address := forward(t, filepath.Join(n.Config.Run, "nodekit.sock"))
	u, err := http.NewRequest(http.MethodPost, "http://"+address+"/exec/default/"+pod+"/"+container, nil)
	if err != nil {
		t.Fatal(err)
	}
	query := u.URL.Query()
	query["command"] = command
	query.Set("output", "1")
	query.Set("error", "1")
	u.URL.RawQuery = query.Encode()
	executor, err := remotecommand.NewSPDYExecutor(&rest.Config{Host: address}, http.MethodPost, u.URL)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	return executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: out, Stderr: io.Discard})
}

// forward makes a unix socket reachable at a TCP address for the test's life:
// client-go dials nothing else.
func forward(t *testing.T, socket string) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return
			}
			to, err := net.Dial("unix", socket)
			if err != nil {
				from.Close()
				return
			}
			// Half-closed: a socket that is closed with unread data resets its peer.
			go func() { _, _ = io.Copy(to, from); _ = to.(*net.UnixConn).CloseWrite() }()
			go func() { _, _ = io.Copy(from, to); _ = from.(*net.TCPConn).CloseWrite() }()
		}
	}()
	return l.Addr().String()
}

// TestAuthorsPlugins runs a Pod on three plugins of three kinds, made with the
// SDKs, none of whose kinds is named.
func TestAuthorsPlugins(t *testing.T) {
	var mu sync.Mutex
	var said []string
	n := start(t, node.Config{
		Plugins: []node.Plugin{{Path: "device-hello"}, {Path: "csi-hello"}, {Path: "cni-static"}},
		OnPlugin: func(e node.PluginEvent) {
			mu.Lock()
			defer mu.Unlock()
			said = append(said, e.Plugin+" "+e.What)
		},
	})
	n.Apply(claim + podOf(`[do, "cat /data/hello.txt", "env HELLO"]`, "    resources: {limits: {example.com/hello: 1}}"+usesClaim))
	p := n.WaitPhase("p", v1.PodSucceeded)
	if p.Status.PodIP != "192.0.2.77" {
		t.Errorf("the Pod's address is %q, not the plugin's", p.Status.PodIP)
	}
	if text := n.Log("p", "main"); !strings.Contains(text, "hello from pvc-") || !strings.Contains(text, "hello from hello-") {
		t.Errorf("the Pod printed %q", text)
	}
	mu.Lock()
	defer mu.Unlock()
	want := []string{"device-hello is a deviceplugin plugin", "csi-hello is a csi plugin", "cni-static is a cni plugin"}
	if !slices.Equal(said, want) {
		t.Errorf("the node said %q, want %q", said, want)
	}
}

func TestAuthorsRuntime(t *testing.T) {
	n := start(t, node.Config{Plugins: []node.Plugin{{Path: "cri-hello"}}})
	n.Apply(`
apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  restartPolicy: Never
  hostNetwork: true
  containers: [{name: main, image: 'host:latest', imagePullPolicy: Never, command: [/bin/sh, -c, 'echo hello; exit 3']}]
`)
	p := n.WaitPhase("p", v1.PodFailed)
	if s := p.Status.ContainerStatuses[0].State.Terminated; s == nil || s.ExitCode != 3 {
		t.Errorf("the container's status is %+v", p.Status.ContainerStatuses[0])
	}
}

// TestStartThatFailsLeavesNothing has plugins that a node cannot use, each of
// which fails the start at another point.
func TestStartThatFailsLeavesNothing(t *testing.T) {
	testenv.Require(t, testenv.Root, testenv.OCIRuntime)
	built = true
	bin, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	dies := filepath.Join(t.TempDir(), "dies")
	if err := os.WriteFile(dies, []byte("#!/bin/sh\necho no license >&2; exit 4\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(t.TempDir(), "cni-other")
	if err := os.Link(filepath.Join(bin, "cni-static"), other); err != nil {
		t.Fatal(err)
	}
	for want, plugins := range map[string][]string{
		"no license":                {filepath.Join(bin, "csi-hello"), dies},
		"are both cni plugins":      {filepath.Join(bin, "cni-static"), other},
		"have one name":             {filepath.Join(bin, "csi-hello"), filepath.Join(bin, "csi-hello")},
		"no such file or directory": {filepath.Join(bin, "nothing")},
	} {
		dir := nodetest.ShortDir(t)
		cfg := node.Config{Root: filepath.Join(dir, "root"), Run: filepath.Join(dir, "run"), Keeper: filepath.Join(bin, "keeper")}
		for _, p := range plugins {
			cfg.Plugins = append(cfg.Plugins, node.Plugin{Path: p})
		}
		if _, err := node.Start(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("plugins %v: got %v, want an error with %q", plugins, err, want)
		}
		clean(t, dir, "")
	}
}
