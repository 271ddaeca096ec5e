package oci_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri/oci/keeper"
	"github.com/nodekit-project/nodekit/internal/procstat"
)

var (
	cycles    = flag.Int("cycles", 12, "how many containers live under kills in TestRandomCycles; make kills takes 200, make soak 2000")
	cycleSeed = flag.Uint64("cycle-seed", 0, "what TestRandomCycles draws its moments from; 0 takes the time")
)

// TestRandomCycles runs containers while the server, the keeper and its anchor are killed
// at random moments, alone and one after the other in both orders, and while either is
// restarting. Every container runs once, ends with its code and has its log complete to
// the byte, even over rotations; one that runs all the time stays the same process. Some
// live in a sandbox of their own, which is created and removed under kills, too. The
// harness checks for leftovers at the end.
func TestRandomCycles(t *testing.T) {
	seed := *cycleSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("to repeat: go test ./cri/oci -run TestRandomCycles -cycles %d -cycle-seed %d", *cycles, seed)
	n := newNode(t)
	k := &cycler{node: n, random: rand.New(rand.NewPCG(seed, 0))}
	k.sandboxID, k.cfg = n.sandbox("soak", inSoak)
	stays := n.create(k.sandboxID, k.cfg, "stays", nil, "trap", "3")
	n.startContainer(stays)
	pid := n.pidOf(stays)
	k.cycle(0) // creates what a keeper keeps for itself
	before := k.descriptors()
	begun := time.Now()
	for i := range *cycles {
		k.cycle(i + 1)
		if t.Failed() {
			t.Fatalf("in cycle %d", i+1)
		}
	}
	t.Logf("%d cycles, %v: the server was killed %d times, the keeper %d times and the anchor %d times",
		*cycles, time.Since(begun).Round(time.Millisecond), k.servers, k.keepers, k.anchors)
	if now := n.pidOf(stays); now != pid {
		t.Errorf("the container that runs all the time has process %d, want %d", now, pid)
	}
	if after := k.descriptors(); after > before+16 {
		t.Errorf("keeper and anchor hold %d descriptors, and %d after the first cycle", after, before)
	}
	n.removeSandbox(k.sandboxID)
}

// inSoak has the containers of every sandbox log into one directory.
func inSoak(c *runtimeapi.PodSandboxConfig) {
	c.LogDirectory = filepath.Join(filepath.Dir(c.LogDirectory), "soak")
}

// cycler kills a node again and again.
type cycler struct {
	*node
	random    *rand.Rand
	sandboxID string
	cfg       *runtimeapi.PodSandboxConfig
	// how many were killed
	servers, keepers, anchors int
}

// cycle is the life of one container.
func (k *cycler) cycle(i int) {
	k.t.Helper()
	name, lines, code := fmt.Sprint("c", i), 1+k.random.IntN(150), k.random.IntN(100)
	killed := k.kills()
	sandbox, cfg := k.sandboxID, k.cfg
	own := k.random.IntN(12) == 0
	if own {
		cfg = k.sandboxConfig(name, inSoak)
		sandbox = k.insist(func(ctx context.Context) (string, error) {
			r, err := k.rs.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: cfg})
			return r.GetPodSandboxId(), err
		})
	}
	id := k.insist(func(ctx context.Context) (string, error) {
		r, err := k.rs.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: sandbox, SandboxConfig: cfg, Config: &runtimeapi.ContainerConfig{
			Metadata: &runtimeapi.ContainerMetadata{Name: name}, Image: &runtimeapi.ImageSpec{Image: imageName}, LogPath: name + ".log",
			Args: []string{"do", "lines --interval 1ms " + strconv.Itoa(lines), "exit " + strconv.Itoa(code)},
		}})
		return r.GetContainerId(), err
	})
	k.insist(func(ctx context.Context) (string, error) { return "", k.startOnce(ctx, id) })
	if k.random.IntN(3) == 0 {
		k.insist(func(ctx context.Context) (string, error) { return "", k.rotate(ctx, id, name) })
	}
	if <-killed {
		k.restart()
	}
	if st := k.exited(id); int(st.ExitCode) != code || st.Reason == "ContainerStatusUnknown" {
		k.t.Errorf("%s ended with %d (%s), want %d", name, st.ExitCode, st.Reason, code)
	}
	if got := k.whole(name); got != numbers(lines) {
		k.t.Errorf("the log of %s has %d lines, want %d: %.200q", name, strings.Count(got, "\n"), lines, got)
	}
	if own {
		k.removeUnderKills(sandbox)
		return
	}
	_, err := k.rs.RemoveContainer(k.t.Context(), &runtimeapi.RemoveContainerRequest{ContainerId: id})
	k.must(err)
}

// removeUnderKills stops and removes a sandbox with its containers.
func (k *cycler) removeUnderKills(id string) {
	k.t.Helper()
	killed := k.kills()
	k.insist(func(ctx context.Context) (string, error) {
		_, err := k.rs.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: id})
		return "", err
	})
	k.insist(func(ctx context.Context) (string, error) {
		_, err := k.rs.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: id})
		return "", err
	})
	if <-killed {
		k.restart()
	}
	if st, err := k.rs.PodSandboxStatus(k.t.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: id}); status.Code(err) != codes.NotFound {
		k.t.Errorf("a sandbox that was removed: %v, %v", st, err)
	}
}

// kills kills in the background, and reports at the end whether the server was killed.
func (k *cycler) kills() <-chan bool {
	victims := [][]string{{"server"}, {"keeper"}, {"server", "keeper"}, {"keeper", "server"}, {"keeper", "keeper"}, {"keeper", "keeper", "server", "keeper"}, {"anchor"}, {"anchor", "server"}, {"server", "anchor"}}
	list := victims[k.random.IntN(len(victims))]
	var pauses []time.Duration
	for range list {
		pauses = append(pauses, time.Duration(k.random.IntN(60))*time.Millisecond)
	}
	server, done := k.cmd.Process.Pid, make(chan bool, 1)
	go func() {
		for i, v := range list {
			time.Sleep(pauses[i])
			switch v {
			case "server":
				_ = unix.Kill(server, unix.SIGKILL)
			case "anchor":
				k.killAnchor()
			default:
				if pid := k.keeperPID(); pid != 0 {
					_ = unix.Kill(pid, unix.SIGKILL)
				}
			}
		}
		done <- slices.Contains(list, "server")
	}()
	for _, v := range list {
		switch v {
		case "server":
			k.servers++
		case "anchor":
			k.anchors++
		default:
			k.keepers++
		}
	}
	return done
}

// killAnchor kills the anchor and waits until the next keeper serves: neither of the two
// may die before the other is back.
func (k *cycler) killAnchor() {
	client := keeper.NewClient(k.dir + "/run")
	before, err := client.Hello(context.Background())
	if err != nil {
		k.t.Error(err)
		return
	}
	_ = unix.Kill(before.Anchor, unix.SIGKILL)
	for now := before; now.PID == before.PID && err == nil; {
		now, err = client.Hello(context.Background())
	}
	if err != nil {
		k.t.Error(err)
	}
}

// keeperPID returns the keeper's process, whether or not it serves already.
func (k *cycler) keeperPID() int {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range files {
		line, _ := os.ReadFile(file)
		if strings.HasPrefix(string(line), "nodekit-keeper\x00run\x00") && strings.Contains(string(line), k.dir) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			return pid
		}
	}
	return 0
}

// insist repeats a call until it succeeds, as a kubelet does; a dead server is restarted
// first.
func (k *cycler) insist(call func(context.Context) (string, error)) string {
	k.t.Helper()
	for late := time.Now().Add(20 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(k.t.Context(), 15*time.Second)
		out, err := call(ctx)
		cancel()
		if err == nil {
			return out
		}
		if procstat.Ended(k.cmd.Process.Pid) {
			k.restart()
			continue
		}
		if status.Code(err) != codes.Unavailable || time.Now().After(late) {
			k.t.Fatal(err)
		}
	}
}

// startOnce starts a container that does not run yet.
func (k *cycler) startOnce(ctx context.Context, id string) error {
	r, err := k.rs.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id})
	if err != nil || r.Status.State != runtimeapi.ContainerState_CONTAINER_CREATED {
		return err
	}
	_, err = k.rs.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: id})
	return err
}

// rotate rotates the container's log, unless it has ended.
func (k *cycler) rotate(ctx context.Context, id, name string) error {
	file := filepath.Join(k.dir, "logs", "soak", name+".log")
	if _, err := os.Stat(file + ".1"); err != nil {
		if err := os.Rename(file, file+".1"); err != nil {
			return err
		}
	}
	_, err := k.rs.ReopenContainerLog(ctx, &runtimeapi.ReopenContainerLogRequest{ContainerId: id})
	if status.Code(err) == codes.FailedPrecondition {
		return nil
	}
	return err
}

// whole returns the text of a log including what was rotated away.
func (k *cycler) whole(name string) string {
	k.t.Helper()
	file := filepath.Join(k.dir, "logs", "soak", name+".log")
	old, _ := os.ReadFile(file + ".1")
	now, _ := os.ReadFile(file) // not there when it ended before the rotation
	var b strings.Builder
	for line := range strings.Lines(string(old) + string(now)) {
		f := strings.SplitN(line, " ", 4)
		if len(f) != 4 {
			k.t.Fatalf("the log of %s has the record %q", name, line)
		}
		b.WriteString(f[3])
	}
	return b.String()
}

// descriptors counts those of the keeper and its anchor, once they are idle.
func (k *cycler) descriptors() (count int) {
	k.t.Helper()
	time.Sleep(50 * time.Millisecond)
	hello, err := keeper.NewClient(k.dir + "/run").Hello(k.t.Context())
	k.must(err)
	for _, pid := range []int{hello.PID, hello.Anchor} {
		fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		k.must(err)
		count += len(fds)
	}
	return count
}
