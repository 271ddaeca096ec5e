package oci_test

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/internal/cgroup"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// livePod is a Pod that gives criu something to do.
type livePod struct {
	*savedPod
	configs []*runtimeapi.ContainerConfig
}

// live are the programs of its containers.
var live = map[string][]string{
	"counter": {"lines", "--interval", "20ms", "0"},
	"server":  {"do", "write /said hello", "write /dev/shm/said shared", "serve --text served"},
	"family":  {"do", "leave sleep forever", "trap 7"},
	"stdin":   {"do", "echo ready", "copy-stdin"},
}

func (n *node) livePod(name string) *livePod {
	n.t.Helper()
	p := &livePod{savedPod: &savedPod{node: n, dir: n.dir + "/checkpoint-" + name}}
	n.must(os.Mkdir(p.dir, 0o700))
	p.sandbox, p.config = n.sandbox(name, nil)
	for c, args := range live {
		id := n.create(p.sandbox, p.config, c, func(config *runtimeapi.ContainerConfig) {
			config.Stdin = c == "stdin"
			config.Envs = []*runtimeapi.KeyValue{{Key: "GODEBUG", Value: []byte("multipathtcp=0")}} // which criu does not support
			p.configs = append(p.configs, proto.CloneOf(config))
		}, args...)
		n.startContainer(id)
		p.ids = append(p.ids, id)
	}
	n.waitLog(name, "counter", "20\n")
	n.waitLog(name, "stdin", "ready")
	n.waitServed(p.container("server"))
	return p
}

// container returns the id of a container of the Pod.
func (p *livePod) container(name string) string {
	for i, c := range p.configs {
		if c.Metadata.Name == name {
			return p.ids[i]
		}
	}
	p.t.Fatalf("there is no container %q", name)
	return ""
}

func (n *node) waitServed(id string) {
	n.t.Helper()
	n.waitFor(func() bool {
		out, _ := n.exec(id, "/podtool", "get", "--retry", "3s", "http://127.0.0.1:8080/")
		return strings.Contains(out, "served")
	}, "served")
}

// restored restores the Pod under another name; its server is killed before the Pod is
// started.
func (p *livePod) restored(name string) *livePod {
	p.t.Helper()
	req := &runtimeapi.RestorePodRequest{CheckpointPath: p.dir, Config: proto.CloneOf(p.config), ContainerConfigs: p.configs}
	req.Config.Metadata.Name, req.Config.Metadata.Uid, req.Config.Hostname = name, "uid-"+name, name
	req.Config.LogDirectory = p.node.dir + "/logs/" + name
	resp, err := p.restore(p.t.Context(), req)
	p.must(err)
	p.restart()
	next := &livePod{savedPod: &savedPod{node: p.node, sandbox: resp.PodSandboxId, config: req.Config, dir: p.node.dir + "/checkpoint-" + name}, configs: p.configs}
	p.must(os.Mkdir(next.dir, 0o700))
	for _, c := range resp.RestoredContainers {
		p.startContainer(c.ContainerId)
		next.ids = append(next.ids, c.ContainerId)
	}
	return next
}

// first returns the first number in the log of the counter.
func (p *livePod) first(name string) int {
	p.t.Helper()
	p.waitLog(name, "counter", "\n")
	line, _, _ := strings.Cut(p.logOf(name, "counter"), "\n")
	number, err := strconv.Atoi(line)
	p.must(err)
	return number
}

// goesOn checks a restored Pod whose counter had reached a number.
func (p *livePod) goesOn(name string, after int) {
	p.t.Helper()
	if got := p.first(name); got < after {
		p.t.Errorf("the counter had printed %d, and goes on with %d", after, got)
	}
	server := p.container("server")
	p.waitServed(server)
	for file, want := range map[string]string{"/said": "hello\n", "/dev/shm/said": "shared\n"} {
		if out, code := p.exec(server, "/podtool", "cat", file); out != want || code != 0 {
			p.t.Errorf("%s is %q (%d)", file, out, code)
		}
	}
	for c := range live {
		id := p.container(c)
		if out, _ := p.exec(id, "/podtool", "hostname"); out != name+"\n" {
			p.t.Errorf("the host of container %q is %q, want %q", c, out, name)
		}
		for _, ns := range []string{"ipc", "uts", "net"} {
			inside, err := os.Stat("/proc/" + itoa(p.pidOf(id)) + "/ns/" + ns)
			p.must(err)
			pinned, err := os.Stat(p.node.dir + "/run/sandboxes/" + p.sandbox + "/" + ns)
			p.must(err)
			if !os.SameFile(inside, pinned) {
				p.t.Errorf("container %q is in another %s namespace than the Pod's", c, ns)
			}
		}
	}
}

// interrupted kills a criu in the middle of its work; the Pod must be unchanged after
// that.
func (p *livePod) interrupted() {
	p.t.Helper()
	ctx, cancel := context.WithCancel(p.t.Context())
	defer cancel()
	over := make(chan error, 1)
	go func() { over <- p.save(ctx) }()
	p.criuAtWork()
	cancel()
	if err := <-over; status.Code(err) != codes.Canceled {
		p.t.Errorf("a client that went away got %v", err)
	}
	p.settled()
	p.empty()
	p.waitServed(p.container("server"))
}

// criuAtWork waits for a criu that is saving a process.
func (p *livePod) criuAtWork() {
	p.t.Helper()
	p.waitFor(func() bool { // the network is locked before it looks at memory
		logs, _ := filepath.Glob(p.node.dir + "/cri/*/*/checkpoint/dump.log")
		text, _ := os.ReadFile(strings.Join(logs, ""))
		return strings.Contains(string(text), "Dumping pstree")
	}, "a criu at work")
}

// killed kills the server in the middle of a checkpoint, which the Pod must survive.
func (p *livePod) killed() {
	p.t.Helper()
	over := make(chan error, 1)
	go func() { over <- p.save(p.t.Context()) }()
	p.criuAtWork()
	p.restart()
	<-over
	p.must(os.RemoveAll(p.dir)) // the client's
	p.must(os.Mkdir(p.dir, 0o700))
	p.waitServed(p.container("server"))
	for c := range live {
		if st := p.status(p.container(c)); st.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
			p.t.Errorf("container %q is %v: %s", c, st.State, st.Message)
		}
	}
}

// restoreKilled kills, in the middle of a restore, everything that could report its
// outcome. The container then has ended, and everything can be removed.
func (p *livePod) restoreKilled(name string) {
	p.t.Helper()
	req := &runtimeapi.RestorePodRequest{CheckpointPath: p.dir, Config: proto.CloneOf(p.config), ContainerConfigs: p.configs}
	req.Config.Metadata.Name, req.Config.Metadata.Uid, req.Config.LogDirectory = name, "uid-"+name, p.node.dir+"/logs/"+name
	resp, err := p.restore(p.t.Context(), req)
	p.must(err)
	id := resp.RestoredContainers[0].ContainerId
	over := make(chan error, 1)
	go func() {
		_, err := p.rs.StartContainer(p.t.Context(), &runtimeapi.StartContainerRequest{ContainerId: id})
		over <- err
	}()
	p.waitFor(func() bool {
		logs, _ := filepath.Glob(p.node.dir + "/run/sandboxes/" + resp.PodSandboxId + "/bundle-" + id + "/restore.log")
		text, _ := os.ReadFile(strings.Join(logs, ""))
		return strings.Contains(string(text), "Running post-setup-namespaces scripts") // the network is locked
	}, "a criu that restores")
	p.must(cgroup.Freeze(p.sandboxCgroup(resp.PodSandboxId) + "/" + id)) // criu, too
	p.kill()
	p.killAnchored()
	p.start()
	<-over
	if st := p.exited(id); st.ExitCode != 137 {
		p.t.Errorf("the container has ended with %d", st.ExitCode)
	}
	r := &restart{p.node, "", resp.PodSandboxId, resp.RestoredContainers}
	r.free()
	p.removeSandbox(resp.PodSandboxId)
}

// TestCRIU: with a real criu, processes continue where they were, in a Pod with another
// name, and are containers like any other; and so do those of a Pod that was restored
// before.
func TestCRIU(t *testing.T) {
	testenv.Require(t, testenv.Root, testenv.Runc, testenv.CRIU)
	t.Setenv(ociRuntime, "runc")
	n := newNode(t)
	p := n.livePod("first")
	p.interrupted()
	p.killed()
	for _, name := range []string{"second", "third"} {
		before := strings.Count(n.logOf(p.config.Metadata.Name, "counter"), "\n")
		n.must(p.save(t.Context()))
		n.waitServed(p.container("server")) // it runs on
		n.removeSandbox(p.sandbox)
		p.restoreKilled("not-" + name)
		p = p.restored(name)
		p.goesOn(name, before)
	}
	family := p.container("family")
	_, err := n.rs.StopContainer(t.Context(), &runtimeapi.StopContainerRequest{ContainerId: family, Timeout: 30})
	n.must(err)
	if st := n.exited(family); st.ExitCode != 7 {
		t.Errorf("a program that ends with 7 at SIGTERM ended with %d", st.ExitCode)
	}
	n.removeSandbox(p.sandbox)
}
