package main

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nodekit-project/nodekit/internal/leak"
	"github.com/nodekit-project/nodekit/internal/mount"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// The node on a runtime that others wrote, with their network and with ours.

// containerd is a containerd of the test's own.
type containerd struct {
	*cli
	dir string
	cmd *exec.Cmd
}

const containerdConfig = `version = 2
root = "DIR/root"
state = "DIR/state"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.opt", "io.containerd.internal.v1.tracing", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
  address = "DIR/c.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "nodekit.dev/pause:v1"
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
  netns_mounts_under_state_dir = true
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "CNI"
  conf_dir = "DIR/net.d"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
  Root = "DIR/runc"
`

// startContainerd starts a containerd that takes its CNI plugins from the
// directory, and gives it the images.
func (c *cli) startContainerd(plugins string) *containerd {
	c.t.Helper()
	dir, err := os.MkdirTemp("", "nkc-")
	if err != nil {
		c.t.Fatal(err)
	}
	d := &containerd{cli: c, dir: dir}
	c.t.Cleanup(func() {
		if err := mount.RemoveAll(dir); err != nil {
			c.t.Error(err)
		}
	})
	writeNetwork(c.t, d.path("net.d"))
	config := strings.NewReplacer("DIR", dir, "CNI", plugins).Replace(containerdConfig)
	if err := os.WriteFile(d.path("config.toml"), []byte(config), 0o600); err != nil {
		c.t.Fatal(err)
	}
	d.launch()
	c.t.Cleanup(d.end)
	d.ctr("images", "import", c.pauseImage(dir))
	d.ctr("images", "import", filepath.Join(c.bin, "images", "podtool.tar"))
	return d
}

func (d *containerd) path(name string) string { return filepath.Join(d.dir, name) }

func (d *containerd) endpoint() string { return "unix://" + d.path("c.sock") }

// launch starts the daemon and waits until it listens.
func (d *containerd) launch() {
	d.t.Helper()
	log, err := os.OpenFile(d.path("log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		d.t.Fatal(err)
	}
	defer log.Close()
	d.cmd = exec.Command("containerd", "--config", d.path("config.toml"))
	d.cmd.Stdout, d.cmd.Stderr = log, log
	if err := d.cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	d.own = append(d.own, d.cmd.Process.Pid)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		conn, err := net.Dial("unix", d.path("c.sock"))
		if err == nil {
			conn.Close()
			return
		}
		if time.Now().After(deadline) {
			d.stop()
			text, _ := os.ReadFile(d.path("log"))
			d.t.Fatalf("containerd does not listen: %v\n%s", err, text)
		}
	}
}

// stop ends the daemon; what it has started runs on.
func (d *containerd) stop() {
	d.t.Helper()
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		d.t.Error(err)
	}
	kill := time.AfterFunc(10*time.Second, func() { _ = d.cmd.Process.Kill() })
	defer kill.Stop()
	_ = d.cmd.Wait() // a signal ended it
}

// ctr runs containerd's own client.
func (d *containerd) ctr(args ...string) string {
	d.t.Helper()
	cmd := exec.Command("ctr", append([]string{"--address", d.path("c.sock"), "--namespace", "k8s.io"}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		d.t.Errorf("ctr %q: %v\n%s", args, err, out)
	}
	return string(out)
}

// tasks lists the processes of all sandboxes and containers.
func (d *containerd) tasks() []string {
	d.t.Helper()
	return slices.Sorted(strings.Lines(d.ctr("tasks", "ls")))
}

// end ends the daemon and, where a test failed, what is left in it.
func (d *containerd) end() {
	for _, id := range strings.Fields(d.ctr("containers", "ls", "--quiet")) {
		d.t.Errorf("container %s is left", id)
		d.ctr("tasks", "rm", "--force", id)
		d.ctr("containers", "rm", id)
	}
	d.stop()
	if d.t.Failed() {
		text, _ := os.ReadFile(d.path("log"))
		d.t.Logf("containerd:\n%s", text[max(0, len(text)-8192):])
	}
	for _, l := range d.left(leak.Scope{
		Kinds: []leak.Kind{leak.Mount, leak.Namespace, leak.Process}, Marker: d.dir,
		Prefixes: map[leak.Kind][]string{leak.Mount: {d.dir}, leak.Namespace: {d.dir}},
	}) {
		d.t.Errorf("containerd left %v", l)
	}
}

// pauseImage makes the image of sandboxes and returns its archive.
func (c *cli) pauseImage(dir string) string {
	c.t.Helper()
	program, archive := filepath.Join(dir, "pause"), filepath.Join(dir, "pause.tar")
	build := exec.Command("go", "build", "-o", program, "./testdata/pause")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		c.t.Fatalf("%v\n%s", err, out)
	}
	if out, code := c.run("image", "pack", "--name", "nodekit.dev/pause:v1", "--output", archive, program); code != 0 {
		c.t.Fatal(out)
	}
	return archive
}

// referencePlugins returns a directory with the project's CNI plugins under their
// usual names.
func (c *cli) referencePlugins() string {
	c.t.Helper()
	dir := c.t.TempDir()
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "cni"), "../cni")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		c.t.Fatalf("%v\n%s", err, out)
	}
	for _, name := range []string{"bridge", "host-local", "portmap", "loopback"} {
		if err := os.Symlink("cni", filepath.Join(dir, name)); err != nil {
			c.t.Fatal(err)
		}
	}
	return dir
}

func TestRunOnContainerd(t *testing.T) {
	testenv.Require(t, testenv.Root, testenv.Containerd, testenv.CNIPlugins)
	for name, plugins := range map[string]func(*cli) string{
		"with upstream's network": func(*cli) string { return upstreamPlugins },
		"with nodekit's network":  (*cli).referencePlugins,
	} {
		t.Run(name, func(t *testing.T) {
			ownNetwork(t)
			c := newCLI(t)
			d := c.startContainerd(plugins(c))
			out, code := c.run("run", "--runtime-endpoint", d.endpoint(), c.example())
			if code != 0 {
				t.Errorf("exit code %d:\n%s", code, out)
			}
			checkExample(t, out)
			if !strings.Contains(out, testSubnet) {
				t.Errorf("the Pod has no address in %s:\n%s", testSubnet, out)
			}
			c.clean(out)
			c.networkClean()
		})
	}
}

func TestHostPortOnContainerd(t *testing.T) {
	testenv.Require(t, testenv.Root, testenv.Containerd, testenv.CNIPlugins)
	ownNetwork(t)
	c := newCLI(t)
	d := c.startContainerd(c.referencePlugins())
	p := c.start("run", "--runtime-endpoint", d.endpoint(), c.write("p.yaml", podServing))
	reachHostPort(t, p)
	if code := p.exit(); code != 0 {
		t.Errorf("exit code %d:\n%s", code, p.out)
	}
	c.clean(p.out.String())
	c.networkClean()
}

func TestNextRunTakesDownWhatAKilledOneLeftInContainerd(t *testing.T) {
	testenv.Require(t, testenv.Root, testenv.Containerd, testenv.CNIPlugins)
	ownNetwork(t)
	c := newCLI(t)
	d := c.startContainerd(upstreamPlugins)
	killed := c.start("run", "--runtime-endpoint", d.endpoint(), c.write("p.yaml", podRunning(`[trap, "0"]`)))
	killed.await(`ready`)
	killed.kill()
	out, code := c.run("run", "--runtime-endpoint", d.endpoint(), c.write("p.yaml", podRunning(`[exit, "5"]`)))
	if code != 5 || !strings.Contains(out, "taking down what a killed run left") {
		t.Errorf("exit code %d:\n%s", code, out)
	}
	c.clean(killed.out.String() + out)
	c.networkClean()
}

// Neither the end of the node nor that of containerd ends a container, and the
// node sees what happened meanwhile.
func TestNodeAndContainerdRestart(t *testing.T) {
	testenv.Require(t, testenv.Root, testenv.Containerd, testenv.CNIPlugins)
	ownNetwork(t)
	c := newCLI(t)
	d := c.startContainerd(upstreamPlugins)
	n := c.daemon()
	p := n.up("--runtime-endpoint", d.endpoint())
	n.manifest("p.yaml", podRunning(`[trap, "0"]`))
	n.ready()
	before := d.tasks()
	p.kill()
	d.stop()
	d.launch()
	out := p.out.String()
	p = n.up("--runtime-endpoint", d.endpoint())
	n.ready()
	d.stop() // also beneath a node that runs
	d.launch()
	n.ready()
	if after := d.tasks(); !slices.Equal(before, after) {
		t.Errorf("before: %q, after: %q", before, after)
	}
	n.remove("p.yaml")
	p.interrupt()
	p.exit()
	c.clean(out + p.out.String() + n.reset("--runtime-endpoint", d.endpoint()))
	c.networkClean()
}

func TestBenchAgainstContainerd(t *testing.T) {
	testenv.Require(t, testenv.Root, testenv.Containerd, testenv.CNIPlugins)
	ownNetwork(t)
	c := newCLI(t)
	d := c.startContainerd(upstreamPlugins)
	out, code := c.run("bench", "--rounds", "2", "--against", d.endpoint())
	if code != 0 || !regexp.MustCompile(`(?s)nodekit +2 .*sandbox +2 .*removal +2 .*other runtime +2 .*sandbox +2 .*removal +2 `).MatchString(out) {
		t.Errorf("exit code %d:\n%s", code, out)
	}
	c.clean(out)
	c.networkClean()
}

func TestRuntimeThatIsNotThere(t *testing.T) {
	t.Parallel()
	c := newCLI(t)
	manifest := c.write("p.yaml", podRunning(`[exit, "0"]`))
	endpoint := "unix://" + filepath.Join(t.TempDir(), "absent.sock")
	out, code := c.run("run", "--runtime-endpoint", endpoint, manifest)
	if code != 1 || !strings.Contains(out, "absent.sock: connect: no such file") {
		t.Errorf("exit code %d:\n%s", code, out)
	}
	refused, code := c.run("run", "--runtime-endpoint", endpoint, "--image-archive", "i.tar", manifest)
	if code != 1 || !strings.Contains(refused, "images import i.tar") {
		t.Errorf("exit code %d:\n%s", code, refused)
	}
	c.clean(out + refused)
}
