package oci_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri/oci/checkpoint"
	"github.com/nodekit-project/nodekit/internal/netns"
	"github.com/nodekit-project/nodekit/internal/nspin"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// savedPod is a Pod of two containers that have changed something, and a directory for
// its checkpoint.
type savedPod struct {
	*node
	sandbox string
	config  *runtimeapi.PodSandboxConfig
	ids     []string
	dir     string
}

var savedNames = []string{"one", "two"}

func (n *node) savedPod(name string) *savedPod {
	n.t.Helper()
	p := &savedPod{node: n, dir: filepath.Join(n.dir, "checkpoint-"+name)}
	n.must(os.Mkdir(p.dir, 0o700))
	p.sandbox, p.config = n.sandbox(name, nil)
	for _, c := range savedNames {
		id := n.create(p.sandbox, p.config, c, nil, "do", "write /changed-"+c+" new", "write /dev/shm/"+c+" shared", "echo written", "sleep forever")
		n.startContainer(id)
		n.waitLog(name, c, "written") // the files are there before it is
		p.ids = append(p.ids, id)
	}
	return p
}

// save makes a checkpoint of both containers.
func (p *savedPod) save(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	_, err := p.rs.CheckpointPod(ctx, &runtimeapi.CheckpointPodRequest{PodSandboxId: p.sandbox, OutputPath: p.dir, ContainerIds: p.ids})
	return err
}

// runOn fails for containers that do not respond, such as frozen ones.
func (p *savedPod) runOn() {
	p.t.Helper()
	for _, id := range p.ids {
		if out, code := p.exec(id, "/podtool", "do", "echo runs on"); out != "runs on\n" || code != 0 {
			p.t.Errorf("container %s printed %q and ended with %d", id, out, code)
		}
	}
}

// empty fails if the checkpoint's directory is not empty.
func (p *savedPod) empty() {
	p.t.Helper()
	if left, err := os.ReadDir(p.dir); err != nil || len(left) > 0 {
		p.t.Errorf("the directory has %v, %v", left, err)
	}
}

// restoring returns a request to restore the Pod under another name.
func (p *savedPod) restoring(name string) *runtimeapi.RestorePodRequest {
	req := &runtimeapi.RestorePodRequest{CheckpointPath: p.dir, Config: proto.CloneOf(p.config)}
	req.Config.Metadata.Name, req.Config.Metadata.Uid, req.Config.LogDirectory = name, "uid-"+name, p.node.dir+"/logs/"+name
	for _, id := range p.ids {
		st, err := p.rs.ContainerStatus(p.t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: id})
		p.must(err)
		c := st.Status.Metadata.Name
		req.ContainerConfigs = append(req.ContainerConfigs, &runtimeapi.ContainerConfig{
			Metadata: &runtimeapi.ContainerMetadata{Name: c}, Image: &runtimeapi.ImageSpec{Image: imageName}, LogPath: c + ".log",
			Args: []string{"do", "write /changed-" + c + " new", "write /dev/shm/" + c + " shared", "echo written", "sleep forever"},
			Linux: &runtimeapi.LinuxContainerConfig{SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
				NamespaceOptions: p.config.GetLinux().GetSecurityContext().GetNamespaceOptions(),
			}},
		})
	}
	return req
}

func (n *node) restore(ctx context.Context, req *runtimeapi.RestorePodRequest) (*runtimeapi.RestorePodResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return n.rs.RestorePod(ctx, req)
}

// sandboxes returns how many there are.
func (n *node) sandboxes() int {
	n.t.Helper()
	list, err := n.rs.ListPodSandbox(n.t.Context(), &runtimeapi.ListPodSandboxRequest{})
	n.must(err)
	all, err := n.rs.ListContainers(n.t.Context(), &runtimeapi.ListContainersRequest{})
	n.must(err)
	if len(list.Items) == 0 && len(all.Containers) > 0 {
		n.t.Errorf("there are %d containers without a sandbox", len(all.Containers))
	}
	return len(list.Items)
}

// TestPodCheckpoint: all containers are frozen while each is saved, and then continue;
// another Pod, once it is started, continues from there, whatever happened to the server
// and the checkpoint before.
func TestPodCheckpoint(t *testing.T) {
	n, bin := newSaver(t)
	p := n.savedPod("saved")
	n.must(p.save(t.Context()))
	p.runOn()
	states, err := os.ReadFile(bin + "/states")
	n.must(err)
	if s := strings.ReplaceAll(strings.ReplaceAll(string(states), "FROZEN", "1"), "\n", ""); s != "1111" {
		t.Errorf("while each of the two was saved the states were %q", states)
	}
	saved, err := checkpoint.Open(p.dir)
	n.must(err)
	if len(saved.Containers) != 2 || saved.Engine != "saving-runc" || !saved.Has(checkpoint.Shm) {
		t.Errorf("the checkpoint is %+v", saved.Pod)
	}
	req := p.restoring("restored")
	n.removeSandbox(p.sandbox)
	resp, err := n.restore(t.Context(), req)
	n.must(err)
	n.must(os.RemoveAll(p.dir)) // the client's, to do with what it likes
	n.filled(resp.PodSandboxId)
	// A program that does not know restored containers must not start one from the
	// beginning.
	begun := n.create(resp.PodSandboxId, req.Config, "begun", nil, "sleep", "forever")
	if got := n.stateVersion(begun); got != 2 {
		t.Errorf("the state of a container that begins has version %d, want 2", got)
	}
	if got := n.stateVersion(resp.RestoredContainers[0].ContainerId); got != 3 {
		t.Errorf("the state of a restored container has version %d, want 3", got)
	}
	n.restart()
	for i, c := range resp.RestoredContainers {
		st := n.status(c.ContainerId)
		if c.Name != savedNames[i] || st.State != runtimeapi.ContainerState_CONTAINER_CREATED {
			t.Errorf("container %q is %v", c.Name, st.State)
		}
		if _, err := os.Stat(st.LogPath); !os.IsNotExist(err) {
			t.Errorf("container %q has a log before it was started: %v", c.Name, err)
		}
		n.startContainer(c.ContainerId)
	}
	n.goneOn(bin, resp)
	n.removeSandbox(resp.PodSandboxId)
}

// stateVersion returns the version of the state that the runtime has recorded for a
// container.
func (n *node) stateVersion(id string) int {
	n.t.Helper()
	var found []string
	n.must(filepath.WalkDir(n.dir+"/cri", func(path string, e os.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() && strings.Contains(path, id) && !strings.Contains(path, "/dirs/") {
			found = append(found, path)
		}
		return err
	}))
	if len(found) != 1 {
		n.t.Fatalf("the records of container %s are %q", id, found)
	}
	text, err := os.ReadFile(found[0])
	n.must(err)
	var version int
	_, rest, _ := strings.Cut(string(text), `"state":{"version":`)
	_, err = fmt.Sscanf(rest, "%d", &version)
	n.must(err)
	return version
}

// filled checks the files of a restored Pod whose programs have not run yet.
func (n *node) filled(sandbox string) {
	n.t.Helper()
	for _, c := range savedNames {
		roots, err := filepath.Glob(n.dir + "/run/sandboxes/*/rootfs-*/changed-" + c)
		n.must(err)
		if len(roots) != 1 {
			n.t.Errorf("what container %q has changed is in %q", c, roots)
		}
		if text, err := os.ReadFile(n.dir + "/run/sandboxes/" + sandbox + "/shm/" + c); err != nil || string(text) != "shared\n" {
			n.t.Errorf("what container %q has shared is %q, %v", c, text, err)
		}
	}
}

// goneOn checks containers of a restored Pod that were started.
func (n *node) goneOn(bin string, resp *runtimeapi.RestorePodResponse) {
	n.t.Helper()
	given, err := os.ReadFile(bin + "/restored")
	n.must(err)
	ns := n.dir + "/run/sandboxes/" + resp.PodSandboxId
	if want := strings.Repeat("memory\njoin-ns ipc:"+ns+"/ipc\njoin-ns uts:"+ns+"/uts\n", 2); sorted(string(given)) != sorted(want) {
		n.t.Errorf("criu was given %q, want %q", given, want)
	}
	for _, c := range resp.RestoredContainers {
		id := c.ContainerId
		n.waitLog("restored", c.Name, "written")
		if out, _ := n.exec(id, "/podtool", "hostname"); out != "saved\n" { // which the request has again
			n.t.Errorf("the host of container %q is %q", c.Name, out)
		}
		for file, want := range map[string]string{"/changed-" + c.Name: "new\n", "/dev/shm/one": "shared\n", "/dev/shm/two": "shared\n"} {
			if out, code := n.exec(id, "/podtool", "print", file); out != want || code != 0 {
				n.t.Errorf("%s in container %q is %q (%d)", file, c.Name, out, code)
			}
		}
		left, _ := filepath.Glob(n.dir + "/cri/*/*/restored")
		if len(left) > 0 {
			n.t.Errorf("criu's images are still there: %q", left)
		}
		_, err := n.rs.StopContainer(n.t.Context(), &runtimeapi.StopContainerRequest{ContainerId: id})
		n.must(err)
		if st := n.exited(id); st.ExitCode != 137 {
			n.t.Errorf("container %q was killed and ended with %d", c.Name, st.ExitCode)
		}
	}
}

// sorted sorts lines.
func sorted(text string) string {
	lines := strings.SplitAfter(text, "\n")
	slices.Sort(lines)
	return strings.Join(lines, "")
}

// TestPodCheckpointFails: a failure is reported, and leaves neither files nor a frozen
// container.
func TestPodCheckpointFails(t *testing.T) {
	testenv.Require(t, testenv.NFT)
	if _, err := exec.LookPath("iptables-restore"); err != nil {
		t.Fatal("iptables, which criu uses by default, is missing: apt-get install iptables")
	}
	n, bin := newSaver(t)
	p := n.savedPod("saved")

	// The second dump.
	n.must(os.WriteFile(bin+"/fail", []byte("1"), 0o600))
	if err := p.save(t.Context()); err == nil || !strings.Contains(err.Error(), `container "two"`) || !strings.Contains(err.Error(), "the cause") {
		t.Errorf("a dump that fails half way says %v", err)
	}
	p.empty()
	p.runOn()
	n.must(os.Remove(bin + "/fail"))

	// The second freeze, because the kernel's file cannot be written.
	frozen := lockCgroup(t, n.sandboxCgroup(p.sandbox)+"/"+p.ids[1])
	if err := p.save(t.Context()); err == nil || !strings.Contains(err.Error(), "freezing") {
		t.Errorf("a container that cannot be frozen: %v", err)
	}
	p.empty()
	frozen()
	p.runOn()

	// A client that goes away, while criu is at work.
	n.must(os.WriteFile(bin+"/hang", nil, 0o600))
	ctx, cancel := context.WithCancel(t.Context())
	over := make(chan error, 1)
	go func() { over <- p.save(ctx) }()
	criu := p.busy(bin)
	p.lockNetwork()
	cancel()
	if err := <-over; status.Code(err) != codes.Canceled {
		t.Errorf("a client that went away got %v", err)
	}
	p.settled()
	p.ended(criu, "a client that went away")
	p.empty()
	p.runOn()
	p.unlocked()

	n.must(os.Remove(bin + "/hang"))
	n.must(p.save(t.Context()))
	n.removeSandbox(p.sandbox)
}

// TestNetworkStaysLocked: that the Pod may be cut off from the network is reported, and
// undone as soon as possible.
func TestNetworkStaysLocked(t *testing.T) {
	testenv.Require(t, testenv.NFT)
	n, bin := newSaver(t)
	p := n.savedPod("saved")
	n.must(os.WriteFile(bin+"/hang", nil, 0o600))
	n.must(os.WriteFile(bin+"/fail", []byte("0"), 0o600))
	over := make(chan error, 1)
	go func() { over <- p.save(t.Context()) }()
	p.busy(bin)
	p.lockNetwork()
	p.inNetwork("nft", "add rule ip filter CRIU meta mark set numgen inc mod 2") // which iptables cannot show
	n.must(os.Remove(bin + "/hang"))
	if err := <-over; err == nil || !strings.Contains(err.Error(), "letting the Pod's network go on") || !strings.Contains(err.Error(), "incompatible") {
		t.Errorf("a Pod that is cut off: %v", err)
	}
	p.runOn()
	n.must(os.Remove(bin + "/fail"))
	p.inNetwork("nft", "flush chain ip filter CRIU")
	n.must(p.save(t.Context()))
	p.unlocked()
	n.removeSandbox(p.sandbox)
}

// inNetwork runs a program in the Pod's network namespace.
func (p *savedPod) inNetwork(argv ...string) (output string) {
	p.t.Helper()
	p.must(netns.Do(p.node.dir+"/run/sandboxes/"+p.sandbox+"/net", func() error {
		out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
		output = string(out)
		if err != nil {
			return fmt.Errorf("%q: %s: %w", argv, out, err)
		}
		return nil
	}))
	return output
}

// lockNetwork does what a real criu does to the network of the processes that it saves,
// with iptables and with nftables.
func (p *savedPod) lockNetwork() {
	p.t.Helper()
	p.inNetwork("nft", "add table inet CRIU-7; add table inet kept; "+
		"add table ip filter; add chain ip filter CRIU; add rule ip filter CRIU counter drop; "+
		"add chain ip filter INPUT { type filter hook input priority filter; }; add rule ip filter INPUT counter jump CRIU; "+
		"add chain ip filter OUTPUT { type filter hook output priority filter; }; add rule ip filter OUTPUT counter jump CRIU")
}

func (p *savedPod) unlocked() {
	p.t.Helper()
	if rules := p.inNetwork("nft", "list", "ruleset"); strings.Contains(rules, "CRIU") || !strings.Contains(rules, "kept") {
		p.t.Errorf("the network has these rules: %s", rules)
	}
}

func (n *node) waitFile(path string) {
	n.t.Helper()
	n.waitFor(func() bool {
		_, err := os.Stat(path)
		return err == nil
	}, path)
}

// settled waits for the end of a checkpoint whose client has gone: the next call for the
// sandbox waits for it.
func (p *savedPod) settled() {
	p.t.Helper()
	_, err := p.rs.UpdateContainerResources(p.t.Context(), &runtimeapi.UpdateContainerResourcesRequest{
		ContainerId: p.ids[0], Linux: &runtimeapi.LinuxContainerResources{CpuShares: 512},
	})
	p.must(err)
}

// TestPodCheckpointRefuses: what could not be restored is not saved, and the error says
// what can be.
func TestPodCheckpointRefuses(t *testing.T) {
	n, _ := newSaver(t)
	p := n.savedPod("saved")
	tty := n.create(p.sandbox, p.config, "tty", func(c *runtimeapi.ContainerConfig) { c.Tty = true }, "sleep", "forever")
	n.startContainer(tty)
	host := n.create(p.sandbox, p.config, "host", func(c *runtimeapi.ContainerConfig) {
		c.Linux.SecurityContext.NamespaceOptions = &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_NODE}
	}, "sleep", "forever")
	n.startContainer(host)
	refuses := func(says string, sandbox string, ids ...string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := n.rs.CheckpointPod(ctx, &runtimeapi.CheckpointPodRequest{PodSandboxId: sandbox, OutputPath: p.dir, ContainerIds: ids})
		if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), says) {
			t.Errorf("%v; want a refusal that says %q", err, says)
		}
		p.empty()
	}
	refuses("without tty", p.sandbox, p.ids[0], tty)
	refuses("process ids", p.sandbox, p.ids[0], host)
	n.must(nspin.OnThrowAwayThread(func() error {
		ns, err := os.Open(n.dir + "/run/sandboxes/" + p.sandbox + "/ipc")
		if err != nil {
			return err
		}
		defer ns.Close()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWIPC); err != nil {
			return err
		}
		_, err = unix.SysvShmGet(0x4e4b, 4096, unix.IPC_CREAT)
		return err
	}))
	refuses("System V", p.sandbox, p.ids...)
	p.runOn()
	shared, cfg := n.sandbox("shared", func(c *runtimeapi.PodSandboxConfig) {
		c.Linux.SecurityContext.NamespaceOptions.Pid = runtimeapi.NamespaceMode_POD
	})
	id := n.create(shared, cfg, "one", nil, "sleep", "forever")
	n.startContainer(id)
	refuses("shareProcessNamespace", shared, id)
	n.removeSandbox(shared)
	n.removeSandbox(p.sandbox)
}
