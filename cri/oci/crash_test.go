package oci_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri"
	"github.com/nodekit-project/nodekit/cri/oci/keeper"
	"github.com/nodekit-project/nodekit/internal/cgroup"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/procstat"
)

// TestServerDies: without a server, containers keep running and their logs are written;
// exits that happen meanwhile are known afterwards.
func TestServerDies(t *testing.T) {
	n := newNode(t)
	sandbox, cfg := n.sandbox("dies", nil)
	const count = 400
	ends := n.create(sandbox, cfg, "ends", nil, "do", "lines --interval 1ms "+strconv.Itoa(count), "wait-file /go", "exit 42")
	stays := n.create(sandbox, cfg, "stays", nil, "trap", "3")
	n.startContainer(ends)
	n.startContainer(stays)
	pid, ending := n.pidOf(stays), n.pidOf(ends)
	for range 3 {
		n.restart()
	}
	n.kill()
	n.must(os.WriteFile(fmt.Sprintf("/proc/%d/root/go", ending), nil, 0o600))
	n.waitFor(func() bool { return errors.Is(unix.Kill(ending, 0), unix.ESRCH) }, "the container to end without a server")
	n.start()
	if st := n.status(ends); st.State != runtimeapi.ContainerState_CONTAINER_EXITED || st.ExitCode != 42 {
		t.Errorf("the container that ended without a server is %v with code %d, want exited with 42", st.State, st.ExitCode)
	}
	var want strings.Builder
	for i := 1; i <= count; i++ {
		fmt.Fprintln(&want, i)
	}
	if got := n.logOf("dies", "ends"); got != want.String() {
		t.Errorf("the log has %d lines, want %d", strings.Count(got, "\n"), count)
	}
	if st := n.status(stays); st.State != runtimeapi.ContainerState_CONTAINER_RUNNING || n.pidOf(stays) != pid {
		t.Errorf("the container that runs is %v with pid %d, want running with %d", st.State, n.pidOf(stays), pid)
	}
	if out, code := n.exec(stays, "/podtool", "hostname"); out != "dies\n" || code != 0 {
		t.Errorf("exec printed %q and ended with %d", out, code)
	}
	_, err := n.rs.StopContainer(t.Context(), &runtimeapi.StopContainerRequest{ContainerId: stays, Timeout: 5})
	n.must(err)
	if st := n.status(stays); st.ExitCode != 3 {
		t.Errorf("stop ended it with %d, want 3", st.ExitCode)
	}
	n.removeSandbox(sandbox)
}

// pidOf asks the keeper.
func (n *node) pidOf(id string) int {
	n.t.Helper()
	list, err := keeper.NewClient(n.dir + "/run").List(n.t.Context())
	n.must(err)
	for _, st := range list {
		if st.ID == id {
			return st.PID
		}
	}
	return 0
}

// TestKilledAnywhere kills the server at random moments of a Pod's life. The
// harness checks that nothing is left when the rest has been removed.
func TestKilledAnywhere(t *testing.T) {
	n := newNode(t)
	for round := range 12 {
		var life sync.WaitGroup
		for p := range 2 {
			life.Go(func() { n.wholeLife(fmt.Sprintf("r%dp%d", round, p)) })
		}
		time.Sleep(time.Duration(rand.IntN(120)) * time.Millisecond)
		n.kill()
		life.Wait()
		n.start()
		n.consistent()
	}
	list, err := n.rs.ListPodSandbox(t.Context(), &runtimeapi.ListPodSandboxRequest{})
	n.must(err)
	for _, s := range list.Items {
		n.removeSandbox(s.Id)
	}
}

// consistent compares what the runtime reports with the processes that exist.
func (n *node) consistent() {
	n.t.Helper()
	list, err := n.rs.ListContainers(n.t.Context(), &runtimeapi.ListContainersRequest{})
	n.must(err)
	for _, c := range list.Containers {
		running, pid := n.status(c.Id).State == runtimeapi.ContainerState_CONTAINER_RUNNING, n.pidOf(c.Id)
		if running != (pid != 0) {
			n.t.Errorf("container %s is running: %v, and its process is %d", c.Id, running, pid)
		}
	}
}

// wholeLife runs a Pod until the server is gone.
func (n *node) wholeLife(name string) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	cfg := &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: name, Namespace: "test", Uid: name},
		LogDirectory: n.dir + "/logs/" + name,
	}
	var mounts []*runtimeapi.Mount
	if strings.HasSuffix(name, "p1") { // every other one has everything that can be left behind
		cfg.Linux = &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{NamespaceOptions: &runtimeapi.NamespaceOption{}}}
		ownUsers(cfg)
		users := cfg.Linux.SecurityContext.NamespaceOptions.UsernsOptions
		mounts = []*runtimeapi.Mount{
			imageMount(""),
			{ContainerPath: "/logs", HostPath: n.dir + "/logs", UidMappings: users.Uids, GidMappings: users.Gids},
			{ContainerPath: "/rro", HostPath: n.dir + "/logs", Readonly: true, RecursiveReadOnly: true},
		}
	}
	rs := n.rs
	s, err := rs.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: cfg})
	if err != nil {
		return
	}
	c, err := rs.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: s.PodSandboxId, SandboxConfig: cfg, Config: &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: "main"}, Image: &runtimeapi.ImageSpec{Image: imageName}, Args: []string{"sleep", "forever"}, LogPath: "main.log", Mounts: mounts,
	}})
	if err != nil {
		return
	}
	if _, err := rs.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: c.ContainerId}); err != nil {
		return
	}
	if _, err := rs.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: s.PodSandboxId}); err != nil {
		return
	}
	_, _ = rs.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: s.PodSandboxId})
}

// TestKeeperDies: nothing is lost, with or without a server. Exits are kept, running
// containers continue, and exits that happen meanwhile are known.
func TestKeeperDies(t *testing.T) {
	for name, withServer := range map[string]bool{"beside the server": true, "with the server": false} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			sandbox, cfg := n.sandbox("orphans", nil)
			const count = 300
			stays := n.create(sandbox, cfg, "stays", nil, "trap", "3")
			ends := n.create(sandbox, cfg, "ends", nil, "do", "lines --interval 1ms "+strconv.Itoa(count), "exit 42")
			ended := n.create(sandbox, cfg, "ended", nil, "exit", "9")
			n.startContainer(stays)
			n.startContainer(ended)
			n.exited(ended)
			pid := n.pidOf(stays)
			n.startContainer(ends)
			if !withServer {
				n.kill()
			}
			n.killKeeper()
			if !withServer {
				n.start()
			}
			if st := n.exited(ends); st.ExitCode != 42 {
				t.Errorf("it ended with %d (%s), want 42", st.ExitCode, st.Reason)
			}
			if got, want := n.logOf("orphans", "ends"), numbers(count); got != want {
				t.Errorf("the log has %d lines, want %d", strings.Count(got, "\n"), count)
			}
			if st := n.status(ended); st.ExitCode != 9 {
				t.Errorf("the exit that was known is %d, want 9", st.ExitCode)
			}
			if now := n.pidOf(stays); now != pid {
				t.Errorf("the container that runs has process %d, want %d", now, pid)
			}
			_, err := n.rs.StopContainer(t.Context(), &runtimeapi.StopContainerRequest{ContainerId: stays, Timeout: 5})
			n.must(err)
			if st := n.status(stays); st.ExitCode != 3 {
				t.Errorf("stop ended it with %d, want 3", st.ExitCode)
			}
			n.removeSandbox(sandbox)
		})
	}
}

// TestKeeperDiesBehindATerminal: the container gets no hang-up, and loses no more output
// than one read of a terminal returns.
func TestKeeperDiesBehindATerminal(t *testing.T) {
	n := newNode(t)
	sandbox, cfg := n.sandbox("tty", nil)
	const count, kills, oneRead = 400, 3, 4 << 10
	id := n.create(sandbox, cfg, "tty", func(c *runtimeapi.ContainerConfig) { c.Tty, c.Stdin = true, true }, "do", "lines --interval 1ms "+strconv.Itoa(count), "exit 5")
	n.startContainer(id)
	for range kills {
		n.killKeeper()
	}
	if st := n.exited(id); st.ExitCode != 5 {
		t.Errorf("it ended with %d (%s), want 5", st.ExitCode, st.Reason)
	}
	want, got := strings.ReplaceAll(numbers(count), "\n", "\r\n"), n.logOf("tty", "tty")
	if lost := len(want) - len(got); lost < 0 || lost > kills*oneRead || !strings.HasSuffix(got, fmt.Sprintf("%d\r\n", count)) {
		t.Errorf("%d of %d bytes are lost, want %d at most and none at the end: %.100q", lost, len(want), kills*oneRead, got)
	}
	n.removeSandbox(sandbox)
}

// numbers is what podtool lines prints.
func numbers(count int) string {
	var b strings.Builder
	for i := 1; i <= count; i++ {
		fmt.Fprintln(&b, i)
	}
	return b.String()
}

// killKeeper is kill -9 of the keeper, and returns when there is another.
func (n *node) killKeeper() {
	n.t.Helper()
	c := keeper.NewClient(n.dir + "/run")
	before, err := c.Hello(n.t.Context())
	n.must(err)
	n.must(unix.Kill(before.PID, unix.SIGKILL))
	for now := before; now.PID == before.PID; {
		now, err = c.Hello(n.t.Context())
		n.must(err)
	}
}

// killAnchored kills the keeper and its anchor at once.
func (n *node) killAnchored() {
	n.t.Helper()
	hello, err := keeper.NewClient(n.dir + "/run").Hello(n.t.Context())
	n.must(err)
	n.must(unix.Kill(hello.Anchor, unix.SIGSTOP)) // so that it starts no other
	n.must(unix.Kill(hello.PID, unix.SIGKILL))
	n.must(unix.Kill(hello.Anchor, unix.SIGKILL))
}

// TestKeeperAndAnchorDie: the documented loss, and nothing more. Earlier exits are kept,
// running containers are ended and reported, and the next container runs.
func TestKeeperAndAnchorDie(t *testing.T) {
	for name, withServer := range map[string]bool{"beside the server": true, "with the server": false} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			sandbox, cfg := n.sandbox("orphans", nil)
			runs := n.create(sandbox, cfg, "runs", nil, "sleep", "forever")
			ended := n.create(sandbox, cfg, "ended", nil, "exit", "9")
			n.startContainer(runs)
			n.startContainer(ended)
			n.exited(ended)
			pid := n.pidOf(runs)
			if !withServer {
				n.kill()
			}
			n.killAnchored()
			if !withServer {
				n.start()
			}
			if st := n.exited(runs); st.Reason != "ContainerStatusUnknown" || st.ExitCode != 137 {
				t.Errorf("it ended with %d (%s), want 137 (ContainerStatusUnknown)", st.ExitCode, st.Reason)
			}
			if !procstat.Ended(pid) {
				t.Errorf("process %d still runs", pid)
			}
			if st := n.status(ended); st.ExitCode != 9 {
				t.Errorf("the exit that was known is %d, want 9", st.ExitCode)
			}
			next := n.create(sandbox, cfg, "next", nil, "exit", "4")
			n.startContainer(next)
			if st := n.exited(next); st.ExitCode != 4 {
				t.Errorf("the next container ended with %d, want 4", st.ExitCode)
			}
			n.removeSandbox(sandbox)
		})
	}
}

// TestKeeperDiesInAStart: the next keeper completes the start, once.
func TestKeeperDiesInAStart(t *testing.T) {
	n := newNode(t)
	sandbox, cfg := n.sandbox("start", nil)
	for round := range 8 {
		name := fmt.Sprint("c", round)
		id := n.create(sandbox, cfg, name, nil, "do", "lines 1", "exit 6")
		hello, err := keeper.NewClient(n.dir + "/run").Hello(t.Context())
		n.must(err)
		killed := make(chan error, 1)
		time.AfterFunc(time.Duration(2+round*6)*time.Millisecond, func() { killed <- unix.Kill(hello.PID, unix.SIGKILL) })
		n.startContainer(id)
		n.must(<-killed)
		if st := n.exited(id); st.ExitCode != 6 {
			t.Errorf("round %d: it ended with %d (%s), want 6", round, st.ExitCode, st.Reason)
		}
		if got := n.logOf("start", name); got != "1\n" {
			t.Errorf("round %d: it printed %q, want 1", round, got)
		}
	}
	n.removeSandbox(sandbox)
}

// killInTurn kills the keeper, then, when the next one serves, the anchor, and waits for
// the keeper after that.
func (n *node) killInTurn() (serving keeper.Hello) {
	n.t.Helper()
	client := keeper.NewClient(n.dir + "/run")
	serving, err := client.Hello(n.t.Context())
	n.must(err)
	for _, victim := range []func(keeper.Hello) int{
		func(h keeper.Hello) int { return h.PID },
		func(h keeper.Hello) int { return h.Anchor },
	} {
		before := serving.PID
		n.must(unix.Kill(victim(serving), unix.SIGKILL))
		for serving.PID == before {
			serving, err = client.Hello(n.t.Context())
			n.must(err)
		}
	}
	return serving
}

// TestKeeperThenAnchorDieInAStart: an OCI runtime that is at work while its keeper and
// then the anchor die, and so has neither as its parent, starts the container, which then
// is like any other.
func TestKeeperThenAnchorDieInAStart(t *testing.T) {
	n := newNode(t)
	sandbox, cfg := n.sandbox("adrift", nil)
	id, runtime := n.hangingStart(sandbox, cfg, "do", "lines 1", "trap 6")
	n.killInTurn()
	n.must(unix.Kill(runtime, unix.SIGCONT))
	n.waitLog("adrift", "hangs0", "1")
	n.waitFor(func() bool {
		list, err := keeper.NewClient(n.dir + "/run").List(t.Context())
		n.must(err)
		return len(list) > 0 && !list[0].Starting
	}, "the end of the start")
	_, err := n.rs.StopContainer(t.Context(), &runtimeapi.StopContainerRequest{ContainerId: id, Timeout: 10})
	n.must(err)
	if st := n.exited(id); st.ExitCode != 6 {
		t.Errorf("it ended with %d (%s: %s), want 6", st.ExitCode, st.Reason, st.Message)
	}
	n.removeSandbox(sandbox)
}

// TestLostIsEnded: a container of which nobody can tell whether it runs does not keep
// running once it is reported as ended.
func TestLostIsEnded(t *testing.T) {
	for name, restart := range map[string]bool{"by the server": false, "by the next server": true} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			sandbox, cfg := n.sandbox("lost", nil)
			id, runtime := n.hangingStart(sandbox, cfg, "sleep", "forever")
			serving := n.killInTurn()
			n.must(unix.Kill(serving.PID, unix.SIGSTOP))
			n.must(unix.Kill(runtime, unix.SIGCONT))
			n.waitFor(func() bool { return procstat.Ended(runtime) }, "the end of the OCI runtime")
			if restart {
				n.kill()
			}
			file := fmt.Sprintf("%s/run/sandboxes/%s/bundle-%s/pid", n.dir, sandbox, id)
			text, err := os.ReadFile(file)
			n.must(err)
			pid, err := strconv.Atoi(string(text))
			n.must(err)
			n.must(os.WriteFile(file, []byte(strconv.Itoa(os.Getpid())), 0o600))
			n.must(unix.Kill(serving.PID, unix.SIGCONT))
			if restart {
				n.start()
			}
			if st := n.exited(id); st.Reason != "ContainerStatusUnknown" || st.ExitCode != 137 {
				t.Errorf("it ended with %d (%s), want 137 (ContainerStatusUnknown)", st.ExitCode, st.Reason)
			}
			if !procstat.Ended(pid) {
				t.Errorf("process %d still runs", pid)
			}
			n.removeSandbox(sandbox)
		})
	}
}

// TestKeeperAndAnchorDieInAStart: a program that started while they died does not keep
// running beside the one that replaces it.
func TestKeeperAndAnchorDieInAStart(t *testing.T) {
	n := newNode(t)
	sandbox, cfg := n.sandbox("start", nil)
	for round := range 6 {
		id := n.create(sandbox, cfg, fmt.Sprint("c", round), nil, "sleep", "forever")
		hello, err := keeper.NewClient(n.dir + "/run").Hello(t.Context())
		for err != nil { // the next one is being started
			hello, err = keeper.NewClient(n.dir + "/run").Hello(t.Context())
		}
		killed := make(chan error, 1)
		time.AfterFunc(time.Duration(10+round*8)*time.Millisecond, func() {
			_ = unix.Kill(hello.Anchor, unix.SIGSTOP)
			_ = unix.Kill(hello.PID, unix.SIGKILL)
			killed <- unix.Kill(hello.Anchor, unix.SIGKILL)
		})
		_, _ = n.rs.StartContainer(t.Context(), &runtimeapi.StartContainerRequest{ContainerId: id}) // it may fail
		n.must(<-killed)
		for _, err := keeper.NewClient(n.dir + "/run").Hello(t.Context()); err != nil; { // until the next one serves
			_, err = keeper.NewClient(n.dir + "/run").Hello(t.Context())
		}
		if n.pidOf(id) != 0 { // the start came so late that the next keeper did it
			_, err := n.rs.StopContainer(t.Context(), &runtimeapi.StopContainerRequest{ContainerId: id})
			n.must(err)
		}
		n.exited(id)
		for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			left, err := cgroup.Processes(n.sandboxCgroup(sandbox))
			n.must(err)
			if len(left) == 0 {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("round %d: the container has ended, and processes %v run on", round, left)
			}
		}
	}
	n.removeSandbox(sandbox)
}

// TestEndThatTheKeeperForgot: an end that the server has recorded is gone from the keeper
// when that dies. A call that was under way to such a container finds one that does not
// run, and not one that does not exist.
func TestEndThatTheKeeperForgot(t *testing.T) {
	n := newNode(t)
	n.kill()
	rt, closeNetwork, err := openRuntime(t.Context(), n.dir, slog.New(slog.DiscardHandler), nil)
	n.must(err)
	gone := &cri.Container{ID: "gone"}
	for call, err := range map[string]error{
		"ReopenLog": rt.CRI().ReopenLog(t.Context(), gone),
		"Attach":    rt.CRI().Attach(t.Context(), gone, cri.Streams{}),
	} {
		if !errors.Is(err, fault.FailedPrecondition) || !strings.Contains(err.Error(), `"gone" is not running`) {
			t.Errorf("%s: %v", call, err)
		}
	}
	n.must(errors.Join(rt.Close(), closeNetwork()))
}
