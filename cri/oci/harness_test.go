package oci_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	cniruntime "github.com/nodekit-project/nodekit/cni/runtime"
	"github.com/nodekit-project/nodekit/cri"
	"github.com/nodekit-project/nodekit/cri/nri"
	"github.com/nodekit-project/nodekit/cri/oci"
	"github.com/nodekit-project/nodekit/cri/oci/image"
	"github.com/nodekit-project/nodekit/internal/cgroup"
	"github.com/nodekit-project/nodekit/internal/leak"
	"github.com/nodekit-project/nodekit/internal/procstat"
	"github.com/nodekit-project/nodekit/internal/rpc"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// The test binary is also the runtime server that the tests kill: with
// serverDir in its environment it serves the node in that directory. toolsDir
// names the folder with keeper and podtool; without it they are built. ociRuntime
// names the OCI runtime; without it the one that a node would choose is used.
const (
	serverDir     = "NODEKIT_OCI_TEST_DIR"
	toolsDir      = "NODEKIT_TEST_TOOLS"
	ociRuntime    = "NODEKIT_TEST_RUNTIME"
	systemdDriver = "NODEKIT_TEST_SYSTEMD"    // not empty: the systemd cgroup driver
	handler       = "NODEKIT_TEST_HANDLER"    // not empty: the OCI runtime of handler "other"
	cdiDir        = "NODEKIT_TEST_CDI"        // the directory of CDI specs
	nriPlugins    = "NODEKIT_TEST_NRI"        // not empty: NRI plugins may connect
	classFile     = "NODEKIT_TEST_CLASSES"    // the file of block I/O classes
	noSELinux     = "NODEKIT_TEST_NO_SELINUX" // not empty: Pods have no SELinux labels
	imageName     = "nodekit.dev/podtool:latest"
)

func TestMain(m *testing.M) {
	if os.Getenv(cniCommand) != "" {
		if err := plugin(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if dir := os.Getenv(serverDir); dir != "" {
		if err := serve(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	if os.Getenv(toolsDir) != "" {
		return m.Run() // built elsewhere, for a machine without Go
	}
	dir, err := os.MkdirTemp("", "nodekit-oci-tools-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	build := exec.Command("go", "build", "-o", dir+"/", "../../cmd/keeper", "../../cmd/podtool")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		panic(fmt.Sprintf("building the test programs: %v\n%s", err, out))
	}
	os.Setenv(toolsDir, dir)
	return m.Run()
}

// paths of a test node.
type paths struct{ dir string }

func (p paths) socket() string { return "unix://" + p.dir + "/s" }
func (p paths) cgroup() string { return "/nodekit-oci-" + filepath.Base(p.dir) }

// sandboxCgroup is the parent cgroup of the containers of a sandbox that names none.
func (p paths) sandboxCgroup(id string) string {
	files := p.cgroup() + "/sandbox-" + id
	if p.cfg().Systemd {
		return cgroup.Slice(files)
	}
	return files
}

func (p paths) cfg() oci.Config {
	c := oci.Config{
		StateDir: p.dir + "/oci", RunDir: p.dir + "/run", CgroupParent: p.cgroup(),
		Keeper: filepath.Join(os.Getenv(toolsDir), "keeper"), Runtime: os.Getenv(ociRuntime), Systemd: os.Getenv(systemdDriver) != "",
	}
	if path := os.Getenv(handler); path != "" {
		c.Handlers = map[string]string{"other": path}
	}
	if dir := os.Getenv(cdiDir); dir != "" {
		c.CDIDirs = []string{dir}
	}
	c.BlockIOClasses, c.NoSELinux = os.Getenv(classFile), os.Getenv(noSELinux) != ""
	return c
}

// nriSocket is where NRI plugins connect.
func (p paths) nriSocket() string { return p.dir + "/nri.sock" }

// openRuntime returns a runtime, with plugins unless they are nil, and the function that
// closes its network.
func openRuntime(ctx context.Context, dir string, log *slog.Logger, plugins *nri.Plugins) (*oci.Runtime, func() error, error) {
	p := paths{dir}
	cfg := p.cfg()
	cfg.Logger = log
	if plugins != nil {
		cfg.Adjust = plugins.Adjust
	}
	var err error
	if cfg.Images, err = image.Open(dir+"/images", nil); err != nil {
		return nil, nil, err
	}
	cfg.Network, err = cniruntime.Open(cniruntime.Config{ConfDir: dir + "/net.d", BinDirs: []string{dir + "/bin"}, StateDir: dir + "/cni"})
	if err != nil {
		return nil, nil, err
	}
	rt, err := oci.New(ctx, cfg)
	if err != nil {
		return nil, nil, errors.Join(err, cfg.Network.Close())
	}
	return rt, cfg.Network.Close, nil
}

// serve is the server process.
func serve(dir string) error {
	ctx, cancel := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer cancel()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	var plugins *nri.Plugins
	if os.Getenv(nriPlugins) != "" {
		plugins = nri.New(nri.Config{Socket: paths{dir}.nriSocket(), Logger: log})
	}
	rt, closeNetwork, err := openRuntime(ctx, dir, log, plugins)
	if err != nil {
		return err
	}
	served := rt.CRI()
	if plugins != nil {
		if err := plugins.Extend(served, nri.Methods{Spec: rt.Spec, InjectCDI: rt.InjectCDI, BlockIO: rt.BlockIO, RDT: rt.RDT}); err != nil {
			return err
		}
	}
	err = cri.Serve(ctx, paths{dir}.socket(), served, &cri.Options{StateDir: dir + "/cri", Logger: log})
	return errors.Join(err, rt.Close(), closeNetwork())
}

// node is a runtime server under test, in a process of its own.
type node struct {
	paths
	t    testing.TB
	cmd  *exec.Cmd
	conn io.Closer // of rs
	rs   runtimeapi.RuntimeServiceClient
}

// fakeCNI gives every sandbox one address of the documentation range and keeps a file per
// attachment, so that a missing DEL is noticed.
const fakeCNI = `#!/bin/sh
d=$(dirname "$0")/../attached
case "$CNI_COMMAND" in
ADD) : >"$d/$CNI_CONTAINERID"
echo '{"cniVersion":"1.0.0","interfaces":[],"ips":[{"address":"192.0.2.7/24"}]}' ;;
DEL) rm -f "$d/$CNI_CONTAINERID" ;;
VERSION) echo '{"cniVersion":"1.0.0","supportedVersions":["1.0.0"]}' ;;
esac
`

// newNode starts a node and checks at the end that it has left nothing behind.
func newNode(t testing.TB) *node {
	t.Helper()
	testenv.Require(t, testenv.Root, testenv.OCIRuntime)
	dir, err := os.MkdirTemp("", "nkoci")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o711); err != nil { // for the roots of user namespaces
		t.Fatal(err)
	}
	n := &node{paths: paths{dir}, t: t}
	before, err := leak.Take(leak.Scope{
		Kinds:    []leak.Kind{leak.Mount, leak.Namespace, leak.Cgroup, leak.Process},
		Prefixes: map[leak.Kind][]string{leak.Mount: {dir}, leak.Namespace: {dir}, leak.Cgroup: {n.cgroup(), cgroup.Slice(n.cgroup())}},
		Marker:   dir,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.end(before) })
	for _, d := range []string{"net.d", "bin", "attached", "logs"} {
		n.must(os.Mkdir(filepath.Join(dir, d), 0o755))
	}
	n.must(os.WriteFile(dir+"/net.d/10-test.conflist", []byte(`{"cniVersion":"1.0.0","name":"test","plugins":[{"type":"fake"}]}`), 0o644))
	n.must(os.WriteFile(dir+"/bin/fake", []byte(fakeCNI), 0o755))
	archive, err := image.Pack(filepath.Join(os.Getenv(toolsDir), "podtool"), imageName)
	n.must(err)
	n.must(os.WriteFile(dir+"/podtool.tar", archive, 0o600))
	store, err := image.Open(dir+"/images", nil)
	n.must(err)
	_, err = store.Load(t.Context(), dir+"/podtool.tar")
	n.must(err)
	n.start()
	return n
}

func (n *node) must(err error) {
	n.t.Helper()
	if err != nil {
		n.t.Fatal(err)
	}
}

// start starts the server and returns when it answers.
func (n *node) start() {
	n.t.Helper()
	log, err := os.OpenFile(n.dir+"/server.log", os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	n.must(err)
	defer log.Close()
	n.cmd = exec.Command("/proc/self/exe")
	n.cmd.Env = append(os.Environ(), serverDir+"="+n.dir)
	n.cmd.Stdout, n.cmd.Stderr = log, log
	n.must(n.cmd.Start())
	conn, err := rpc.Dial(n.socket(), "cri", nil)
	n.must(err)
	if n.conn != nil {
		_ = n.conn.Close() // it was the dead server's
	}
	n.conn = conn
	n.rs = runtimeapi.NewRuntimeServiceClient(conn)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		_, err := n.rs.Version(context.Background(), &runtimeapi.VersionRequest{})
		if err == nil {
			return
		}
		if time.Now().After(deadline) || procstat.Ended(n.cmd.Process.Pid) {
			n.t.Fatalf("the server does not answer: %v\n%s", err, n.serverLog())
		}
	}
}

func (n *node) serverLog() string {
	text, _ := os.ReadFile(n.dir + "/server.log")
	keeper, _ := os.ReadFile(n.dir + "/oci/keeper/log")
	return string(text) + "\nkeeper:\n" + string(keeper)
}

// kill is kill -9 of the server.
func (n *node) kill() {
	n.t.Helper()
	n.must(n.cmd.Process.Kill())
	_ = n.cmd.Wait()
}

func (n *node) restart() {
	n.t.Helper()
	n.kill()
	n.start()
}

// end shuts everything down, in this process, and checks for leftovers.
func (n *node) end(before *leak.Snapshot) {
	if n.cmd != nil {
		_ = n.cmd.Process.Kill()
		_ = n.cmd.Wait()
	}
	if n.conn != nil {
		_ = n.conn.Close()
	}
	if n.t.Failed() {
		n.t.Logf("server log:\n%s", n.serverLog())
	}
	// Not the test's context, which has ended.
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := shutDown(ctx, n.dir); err != nil {
		n.t.Errorf("shutting down: %v", err)
	}
	for _, l := range leak.Settled(ctx, before) {
		n.t.Errorf("left behind: %v", l)
	}
	for _, d := range []string{"attached", "run"} {
		left, _ := filepath.Glob(filepath.Join(n.dir, d, "*"))
		if len(left) > 0 {
			n.t.Errorf("left behind: %v", left)
		}
	}
	if err := os.RemoveAll(n.dir); err != nil {
		n.t.Error(err)
	}
}

// shutDown takes over a node whose server was killed and ends it.
func shutDown(ctx context.Context, dir string) error {
	rt, closeNetwork, err := openRuntime(ctx, dir, nil, nil)
	if err != nil {
		return err
	}
	served, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() {
		done <- cri.Serve(served, paths{dir}.socket(), rt.CRI(), &cri.Options{StateDir: dir + "/cri"})
	}()
	conn, err := rpc.Dial(paths{dir}.socket(), "cri", nil)
	if err != nil {
		stop()
		return err
	}
	defer conn.Close()
	rs := runtimeapi.NewRuntimeServiceClient(conn)
	for ctx.Err() == nil { // until it has recovered
		if _, err := rs.Version(ctx, &runtimeapi.VersionRequest{}); err == nil {
			break
		}
		runtime.Gosched()
	}
	stop()
	return errors.Join(<-done, rt.Shutdown(ctx), closeNetwork())
}

// sandbox runs a sandbox and returns its id and config. change may adjust it.
func (n *node) sandbox(name string, change func(*runtimeapi.PodSandboxConfig)) (string, *runtimeapi.PodSandboxConfig) {
	n.t.Helper()
	cfg := n.sandboxConfig(name, change)
	resp, err := n.rs.RunPodSandbox(n.t.Context(), &runtimeapi.RunPodSandboxRequest{Config: cfg})
	n.must(err)
	return resp.PodSandboxId, cfg
}

func (n *node) sandboxConfig(name string, change func(*runtimeapi.PodSandboxConfig)) *runtimeapi.PodSandboxConfig {
	cfg := &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: name, Namespace: "test", Uid: "uid-" + name},
		Hostname:     name,
		LogDirectory: n.dir + "/logs/" + name,
		DnsConfig:    &runtimeapi.DNSConfig{Servers: []string{"192.0.2.53"}, Searches: []string{"test.local"}},
		Linux: &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
			NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER},
		}},
	}
	if change != nil {
		change(cfg)
	}
	return cfg
}

// create makes a container that runs podtool with args.
func (n *node) create(sandbox string, cfg *runtimeapi.PodSandboxConfig, name string, change func(*runtimeapi.ContainerConfig), args ...string) string {
	n.t.Helper()
	c := &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: name},
		Image:    &runtimeapi.ImageSpec{Image: imageName},
		Args:     args,
		LogPath:  name + ".log",
		Linux: &runtimeapi.LinuxContainerConfig{SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
			NamespaceOptions: cfg.GetLinux().GetSecurityContext().GetNamespaceOptions(),
		}},
	}
	if change != nil {
		change(c)
	}
	resp, err := n.rs.CreateContainer(n.t.Context(), &runtimeapi.CreateContainerRequest{PodSandboxId: sandbox, Config: c, SandboxConfig: cfg})
	n.must(err)
	return resp.ContainerId
}

func (n *node) startContainer(id string) {
	n.t.Helper()
	_, err := n.rs.StartContainer(n.t.Context(), &runtimeapi.StartContainerRequest{ContainerId: id})
	n.must(err)
}

// run makes a sandbox with one container in it and starts that.
func (n *node) run(name string, change func(*runtimeapi.ContainerConfig), args ...string) (sandbox, container string) {
	n.t.Helper()
	sandbox, cfg := n.sandbox(name, nil)
	container = n.create(sandbox, cfg, "main", change, args...)
	n.startContainer(container)
	return sandbox, container
}

func (n *node) status(id string) *runtimeapi.ContainerStatus {
	n.t.Helper()
	resp, err := n.rs.ContainerStatus(n.t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: id})
	n.must(err)
	return resp.Status
}

// exited waits for the container's end.
func (n *node) exited(id string) *runtimeapi.ContainerStatus {
	n.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		st := n.status(id)
		if st.State == runtimeapi.ContainerState_CONTAINER_EXITED {
			return st
		}
		if time.Now().After(deadline) {
			n.t.Fatalf("container %s has not ended: %v", id, st)
		}
	}
}

// logOf returns the text of a container's log without the record heads.
func (n *node) logOf(sandbox, container string) string {
	n.t.Helper()
	raw, err := os.ReadFile(filepath.Join(n.dir, "logs", sandbox, container+".log"))
	n.must(err)
	var b strings.Builder
	for line := range strings.Lines(string(raw)) {
		f := strings.SplitN(line, " ", 4)
		if len(f) != 4 {
			n.t.Fatalf("bad log record %q", line)
		}
		b.WriteString(f[3])
	}
	return b.String()
}

// waitFor waits until ready returns true.
func (n *node) waitFor(ready func() bool, what string) {
	n.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ready(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			n.t.Fatalf("waited in vain for %q", what)
		}
	}
}

// waitLog waits until the container has logged text.
func (n *node) waitLog(sandbox, container, text string) {
	n.t.Helper()
	n.waitFor(func() bool { return strings.Contains(n.logOf(sandbox, container), text) }, text)
}

func (n *node) exec(id string, argv ...string) (stdout string, code int32) {
	n.t.Helper()
	resp, err := n.rs.ExecSync(n.t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: argv, Timeout: 10})
	n.must(err)
	return string(resp.Stdout) + string(resp.Stderr), resp.ExitCode
}

func (n *node) removeSandbox(id string) {
	n.t.Helper()
	_, err := n.rs.StopPodSandbox(n.t.Context(), &runtimeapi.StopPodSandboxRequest{PodSandboxId: id})
	n.must(err)
	_, err = n.rs.RemovePodSandbox(n.t.Context(), &runtimeapi.RemovePodSandboxRequest{PodSandboxId: id})
	n.must(err)
}
