package cri_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri"
)

func TestLifeOfAPod(t *testing.T) {
	f, rt := newFake()
	n := serve(t, rt, t.TempDir())
	sb := n.sandbox("a")
	c := n.started(sb, "main")

	st := n.sandboxStatus(sb)
	if st.Status.State != runtimeapi.PodSandboxState_SANDBOX_READY || st.Status.Network.Ip != "10.0.0.1" || st.Status.Network.AdditionalIps[0].Ip != "fd00::1" {
		t.Errorf("sandbox status: %v", st.Status)
	}
	if len(st.ContainersStatuses) != 1 || st.ContainersStatuses[0].State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		t.Errorf("statuses of its containers: %v", st.ContainersStatuses)
	}
	if err := errors.Join(n.stopContainer(c, 1), n.stopContainer(c, 1)); err != nil {
		t.Error(err)
	}
	if st := n.status(c); st.State != runtimeapi.ContainerState_CONTAINER_EXITED || st.ExitCode != 137 || st.Reason != "Error" || st.FinishedAt < st.StartedAt {
		t.Errorf("after the stop: %v", st)
	}
	if err := n.start(c); !errors.Is(err, cri.ErrFailedPrecondition) {
		t.Errorf("starting an ended container: %v", err)
	}
	for range 2 { // all of them idempotent
		if err := errors.Join(n.removeContainer(c), n.stopSandbox(sb), n.removeSandbox(sb)); err != nil {
			t.Error(err)
		}
	}
	want := []string{"run a", "create main", "start main", "kill main", "delete main", "stop a", "remove a"}
	if diff := cmp.Diff(want, f.noted()); diff != "" {
		t.Errorf("the author's calls (-want +got):\n%s", diff)
	}
	n.empty()
}

func TestRemovingASandboxTakesItsContainersAlong(t *testing.T) {
	f, rt := newFake()
	n := serve(t, rt, t.TempDir())
	sb := n.sandbox("a")
	n.started(sb, "running")
	n.container(sb, "created")
	if err := n.removeSandbox(sb); err != nil {
		t.Fatal(err)
	}
	calls := f.noted()
	for _, want := range []string{"kill running", "kill created", "delete running", "delete created"} {
		if i := slices.Index(calls, want); i < 0 || i > slices.Index(calls, "remove a") {
			t.Errorf("no %q before the sandbox was removed: %q", want, calls)
		}
	}
	n.empty()
}

func TestUnknownObjects(t *testing.T) {
	_, rt := newFake()
	n := serve(t, rt, t.TempDir())
	const id = "0123456789abcdef"
	if err := errors.Join(n.stopContainer(id, 0), n.removeContainer(id), n.stopSandbox(id), n.removeSandbox(id)); err != nil {
		t.Errorf("stopping and removing: %v", err)
	}
	_, err := n.Runtime.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: id})
	if status.Code(err) != codes.NotFound {
		t.Errorf("container status: %v", err)
	}
	_, err = n.Runtime.PodSandboxStatus(t.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: id})
	if status.Code(err) != codes.NotFound {
		t.Errorf("sandbox status: %v", err)
	}
	if err := n.start(id); status.Code(err) != codes.NotFound {
		t.Errorf("start: %v", err)
	}
	_, err = n.Runtime.CreateContainer(t.Context(), createRequest(id, "a"))
	if status.Code(err) != codes.NotFound {
		t.Errorf("create: %v", err)
	}
	if err := n.stopContainer("", 0); status.Code(err) != codes.InvalidArgument {
		t.Errorf("no id: %v", err)
	}
}

func TestShortIDs(t *testing.T) {
	_, rt := newFake()
	n := serve(t, rt, t.TempDir())
	sb := n.sandbox("a")
	if got := n.sandboxStatus(sb[:13]).Status.Id; got != sb {
		t.Errorf("got %q for %q", got, sb[:13])
	}
}

// A client that gives up and tries again gets the sandbox of its first try.
func TestRepeatedCreationJoins(t *testing.T) {
	f, rt := newFake()
	release := make(chan struct{})
	run := rt.RunSandbox
	rt.RunSandbox = func(ctx context.Context, s *cri.Sandbox) error {
		<-release
		return errors.Join(run(ctx, s), ctx.Err())
	}
	n := serve(t, rt, t.TempDir())
	short, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	_, err := n.Runtime.RunPodSandbox(short, &runtimeapi.RunPodSandboxRequest{Config: sandboxConfig("a")})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("the first try: %v", err)
	}
	ids := make([]string, 5)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() { ids[i] = n.sandbox("a") })
	}
	time.Sleep(20 * time.Millisecond)
	close(release)
	wg.Wait()
	ids = append(ids, n.sandbox("a"))
	if len(slices.Compact(ids)) != 1 {
		t.Errorf("several sandboxes: %q", ids)
	}
	if calls := f.noted(); len(calls) != 1 {
		t.Errorf("calls: %q", calls)
	}
	if err := n.stopSandbox(ids[0]); err != nil {
		t.Fatal(err)
	}
	_, err = n.Runtime.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: sandboxConfig("a")})
	if !errors.Is(err, cri.ErrAlreadyExists) {
		t.Errorf("a stopped sandbox has the name: %v", err)
	}
}

func TestRepeatedContainerCreation(t *testing.T) {
	_, rt := newFake()
	n := serve(t, rt, t.TempDir())
	sb := n.sandbox("a")
	id := n.container(sb, "main")
	if again := n.container(sb, "main"); again != id {
		t.Errorf("got %q, want %q", again, id)
	}
	if err := errors.Join(n.start(id), n.start(id)); err != nil {
		t.Errorf("a repeated start: %v", err)
	}
	_, err := n.Runtime.CreateContainer(t.Context(), createRequest(sb, "main"))
	if !errors.Is(err, cri.ErrAlreadyExists) {
		t.Errorf("creating a started container again: %v", err)
	}
}

func TestFailedCreationIsUndone(t *testing.T) {
	f, rt := newFake()
	rt.RunSandbox = func(context.Context, *cri.Sandbox) error { return cri.ErrUnavailable.Errorf("no address is free") }
	n := serve(t, rt, t.TempDir())
	_, err := n.Runtime.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: sandboxConfig("a")})
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "no address is free") {
		t.Errorf("got %v", err)
	}
	if diff := cmp.Diff([]string{"stop a", "remove a"}, f.noted()); diff != "" {
		t.Error(diff)
	}
	n.empty()
}

// What cannot be undone is not forgotten: the kubelet sees it and removes it.
func TestFailedUndoingStaysVisible(t *testing.T) {
	_, rt := newFake()
	var healed bool
	rt.RunSandbox = func(context.Context, *cri.Sandbox) error { panic("a bug") }
	rt.StopSandbox = func(context.Context, *cri.Sandbox) error {
		if !healed { // its kind says nothing about RunPodSandbox
			return cri.ErrUnavailable.Errorf("network daemon is down")
		}
		return nil
	}
	n := serve(t, rt, t.TempDir())
	_, err := n.Runtime.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: sandboxConfig("a")})
	if status.Code(err) != codes.Internal || !strings.Contains(err.Error(), "network daemon is down") {
		t.Fatalf("got %v", err)
	}
	list, err := n.Runtime.ListPodSandbox(t.Context(), &runtimeapi.ListPodSandboxRequest{})
	if err != nil || len(list.Items) != 1 || list.Items[0].State != runtimeapi.PodSandboxState_SANDBOX_NOTREADY {
		t.Fatalf("got %v, %v", list, err)
	}
	healed = true
	if err := n.removeSandbox(list.Items[0].Id); err != nil {
		t.Fatal(err)
	}
	n.empty()
}

func TestFailedStart(t *testing.T) {
	f, rt := newFake()
	rt.StartContainer = func(context.Context, *cri.Container) error { return errors.New("no such program") }
	n := serve(t, rt, t.TempDir())
	id := n.container(n.sandbox("a"), "main")
	if err := n.start(id); err == nil || !strings.Contains(err.Error(), "no such program") {
		t.Errorf("got %v", err)
	}
	st := n.status(id)
	if st.State != runtimeapi.ContainerState_CONTAINER_EXITED || st.ExitCode != 128 || st.Reason != "StartError" {
		t.Errorf("got %v", st)
	}
	if calls := f.noted(); calls[len(calls)-1] != "kill main" {
		t.Errorf("what may have started was not stopped: %q", calls)
	}
}

// An exit that is reported before StartContainer returned comes after the
// start.
// TestErrorThatIsANilPointer: the function that returns one has failed, and the server
// goes on.
func TestErrorThatIsANilPointer(t *testing.T) {
	f, rt := newFake()
	rt.StartContainer = func(context.Context, *cri.Container) error {
		var none *os.SyscallError
		return none
	}
	n := serve(t, rt, t.TempDir())
	id := n.container(n.sandbox("a"), "c")
	if err := n.start(id); status.Code(err) != codes.Internal || !strings.Contains(err.Error(), "StartContainer returned an error that cannot be read, a *os.SyscallError") {
		t.Errorf("start answers %v", err)
	}
	if calls := f.noted(); calls[len(calls)-1] != "kill c" {
		t.Errorf("the author was asked for %q, and not to stop it", calls)
	}
}

func TestExitDuringStart(t *testing.T) {
	f, rt := newFake()
	reported := make(chan struct{})
	rt.Watch = func(ctx context.Context, ended func(string, cri.Exit)) error {
		e := <-f.exits
		ended(e.id, e.e)
		close(reported)
		<-ctx.Done()
		return nil
	}
	rt.StartContainer = func(_ context.Context, c *cri.Container) error {
		f.end(c.ID, 3)
		<-reported
		return nil
	}
	n := serve(t, rt, t.TempDir())
	id := n.started(n.sandbox("a"), "main")
	if st := n.status(id); st.State != runtimeapi.ContainerState_CONTAINER_EXITED || st.ExitCode != 3 || st.StartedAt == 0 {
		t.Errorf("got %v", st)
	}
}

// Containers of one sandbox are stopped side by side, and a stop with less
// grace does not wait for one with more.
func TestStops(t *testing.T) {
	f, rt := newFake()
	rt.StopContainer = func(ctx context.Context, c *cri.Container, grace time.Duration) error {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(grace):
		}
		f.end(c.ID, 137)
		return nil
	}
	n := serve(t, rt, t.TempDir())
	sb := n.sandbox("a")
	ids := []string{n.started(sb, "a"), n.started(sb, "b"), n.started(sb, "c")}
	var wg sync.WaitGroup
	start := time.Now()
	for _, id := range ids {
		wg.Go(func() {
			if err := n.stopContainer(id, 1000); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() {
			if err := n.stopContainer(id, 1); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if took := time.Since(start); took < time.Second || took > 20*time.Second {
		t.Errorf("took %v, want the shorter of 1 and 1000 s", took)
	}
	id := n.started(sb, "stubborn")
	wg.Go(func() { _ = n.stopContainer(id, 1000) })
	time.Sleep(10 * time.Millisecond)
	start = time.Now()
	if err := n.removeSandbox(sb); err != nil || time.Since(start) > 20*time.Second {
		t.Errorf("removing the sandbox: %v after %v", err, time.Since(start))
	}
	wg.Wait()
	n.empty()
}

func TestFilters(t *testing.T) {
	_, rt := newFake()
	n := serve(t, rt, t.TempDir())
	a, b := n.sandbox("a"), n.sandbox("b")
	one, two := n.started(a, "one"), n.container(b, "two")
	if err := n.stopSandbox(b); err != nil {
		t.Fatal(err)
	}
	notReady := &runtimeapi.PodSandboxStateValue{State: runtimeapi.PodSandboxState_SANDBOX_NOTREADY}
	for _, tc := range []struct {
		f    *runtimeapi.PodSandboxFilter
		want []string
	}{
		{nil, []string{a, b}},
		{&runtimeapi.PodSandboxFilter{Id: b}, []string{b}},
		{&runtimeapi.PodSandboxFilter{State: notReady}, []string{b}},
		{&runtimeapi.PodSandboxFilter{Id: a, State: notReady}, nil},
		{&runtimeapi.PodSandboxFilter{LabelSelector: map[string]string{"pod": "a"}}, []string{a}},
	} {
		list, err := n.Runtime.ListPodSandbox(t.Context(), &runtimeapi.ListPodSandboxRequest{Filter: tc.f})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, s := range list.Items {
			got = append(got, s.Id)
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("filter %v: %s", tc.f, diff)
		}
	}
	running := &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING}
	for _, tc := range []struct {
		f    *runtimeapi.ContainerFilter
		want []string
	}{
		{nil, []string{one, two}},
		{&runtimeapi.ContainerFilter{PodSandboxId: b}, []string{two}},
		{&runtimeapi.ContainerFilter{State: running}, []string{one}},
		{&runtimeapi.ContainerFilter{LabelSelector: map[string]string{"container": "x"}}, nil},
	} {
		list, err := n.Runtime.ListContainers(t.Context(), &runtimeapi.ListContainersRequest{Filter: tc.f})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, c := range list.Containers {
			got = append(got, c.Id)
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("filter %v: %s", tc.f, diff)
		}
	}
}

func TestRefusedRequests(t *testing.T) {
	f, rt := newFake()
	n := serve(t, rt, t.TempDir())
	sb := n.sandbox("ok")
	sandbox := func(change func(*runtimeapi.RunPodSandboxRequest)) error {
		req := &runtimeapi.RunPodSandboxRequest{Config: sandboxConfig("x")}
		change(req)
		_, err := n.Runtime.RunPodSandbox(t.Context(), req)
		return err
	}
	container := func(change func(*runtimeapi.ContainerConfig)) error {
		req := createRequest(sb, "x")
		change(req.Config)
		_, err := n.Runtime.CreateContainer(t.Context(), req)
		return err
	}
	for name, err := range map[string]error{
		"no config":         sandbox(func(r *runtimeapi.RunPodSandboxRequest) { r.Config = nil }),
		"no uid":            sandbox(func(r *runtimeapi.RunPodSandboxRequest) { r.Config.Metadata.Uid = "" }),
		"unknown handler":   sandbox(func(r *runtimeapi.RunPodSandboxRequest) { r.RuntimeHandler = "kata" }),
		"relative log dir":  sandbox(func(r *runtimeapi.RunPodSandboxRequest) { r.Config.LogDirectory = "logs" }),
		"no container name": container(func(c *runtimeapi.ContainerConfig) { c.Metadata = nil }),
		"no image":          container(func(c *runtimeapi.ContainerConfig) { c.Image = nil }),
		"handler of image":  container(func(c *runtimeapi.ContainerConfig) { c.Image.RuntimeHandler = "kata" }),
		"handler of volume": container(func(c *runtimeapi.ContainerConfig) {
			c.Mounts = []*runtimeapi.Mount{{ContainerPath: "/x", Readonly: true, Image: &runtimeapi.ImageSpec{Image: "i", RuntimeHandler: "kata"}}}
		}),
		"writable image": container(func(c *runtimeapi.ContainerConfig) {
			c.Mounts = []*runtimeapi.Mount{{ContainerPath: "/x", Image: &runtimeapi.ImageSpec{Image: "i"}}}
		}),
		"log path escapes": container(func(c *runtimeapi.ContainerConfig) { c.LogPath = "../../bin/sh" }),
		"relative mount":   container(func(c *runtimeapi.ContainerConfig) { c.Mounts = []*runtimeapi.Mount{{ContainerPath: "x"}} }),
	} {
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
	if calls := f.noted(); len(calls) != 1 {
		t.Errorf("the author was called: %q", calls)
	}
	if err := sandbox(func(r *runtimeapi.RunPodSandboxRequest) { r.RuntimeHandler = "special" }); err != nil {
		t.Errorf("a handler that the runtime has: %v", err)
	}
}

func TestServeRefuses(t *testing.T) {
	_, half := newFake()
	half.StopContainer = nil
	err := cri.Serve(t.Context(), filepath.Join(t.TempDir(), "s"), half, &cri.Options{StateDir: t.TempDir()})
	if !errors.Is(err, cri.ErrInvalid) || !strings.Contains(err.Error(), "StopContainer") {
		t.Errorf("half a runtime: %v", err)
	}
	for text, change := range map[string]func(*cri.Runtime){
		`name ""`:            func(rt *cri.Runtime) { rt.Handlers = []cri.Handler{{}, {}} },
		"Checkpoints.Resume": func(rt *cri.Runtime) { rt.Checkpoints = &cri.Checkpoints{Pause: rt.StartContainer} },
		"metric descriptor": func(rt *cri.Runtime) {
			rt.Metrics = &cri.Metrics{Descriptors: []*runtimeapi.MetricDescriptor{{Name: "a b"}}}
		},
	} {
		_, rt := newFake()
		change(rt)
		err := cri.Serve(t.Context(), filepath.Join(t.TempDir(), "s"), rt, &cri.Options{StateDir: t.TempDir()})
		if !errors.Is(err, cri.ErrInvalid) || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v", text, err)
		}
	}
	_, rt := newFake()
	n := serve(t, rt, t.TempDir())
	err = cri.Serve(t.Context(), filepath.Join(t.TempDir(), "s"), rt, &cri.Options{StateDir: n.dir})
	if !errors.Is(err, cri.ErrAlreadyExists) {
		t.Errorf("a second server on the directory: %v", err)
	}
}

// TestServeReady: at that moment calls are taken.
func TestServeReady(t *testing.T) {
	_, rt := newFake()
	dir, err := os.MkdirTemp("", "cri") // short: see unix(7)
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	socket := filepath.Join(dir, "s")
	ctx, cancel := context.WithCancel(t.Context())
	ready, ended := make(chan error, 2), make(chan error, 1)
	go func() {
		ended <- cri.Serve(ctx, socket, rt, &cri.Options{StateDir: filepath.Join(dir, "state"), Ready: func() {
			conn, err := net.Dial("unix", socket)
			if err == nil {
				err = conn.Close()
			}
			ready <- err
		}})
	}()
	if err := <-ready; err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-ended; err != nil || len(ready) > 0 {
		t.Errorf("the server ended with %v, and was ready %d times more", err, len(ready))
	}
}

func TestServeEndsWhenWatchFails(t *testing.T) {
	_, rt := newFake()
	rt.Watch = func(context.Context, func(string, cri.Exit)) error { return errors.New("keeper is gone") }
	err := cri.Serve(t.Context(), filepath.Join(t.TempDir(), "s"), rt, &cri.Options{StateDir: t.TempDir()})
	if err == nil || !strings.Contains(err.Error(), "keeper is gone") {
		t.Errorf("got %v", err)
	}
}

func TestUpdateContainerResources(t *testing.T) {
	_, rt := newFake()
	var fail bool
	rt.UpdateContainer = func(_ context.Context, _ *cri.Container, r *runtimeapi.LinuxContainerResources) error {
		if fail {
			return errors.New("kernel says no")
		}
		return nil
	}
	n := serve(t, rt, t.TempDir())
	id := n.started(n.sandbox("a"), "main")
	update := func(r *runtimeapi.LinuxContainerResources) error {
		_, err := n.Runtime.UpdateContainerResources(t.Context(), &runtimeapi.UpdateContainerResourcesRequest{ContainerId: id, Linux: r})
		return err
	}
	if err := errors.Join(
		update(&runtimeapi.LinuxContainerResources{CpuShares: 512}),
		update(&runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 1 << 20}),
	); err != nil {
		t.Fatal(err)
	}
	fail = true
	if err := update(&runtimeapi.LinuxContainerResources{CpuShares: 1}); err == nil {
		t.Error("a failed update succeeded")
	}
	res := n.status(id).Resources.GetLinux()
	if res.GetCpuShares() != 512 || res.GetMemoryLimitInBytes() != 1<<20 {
		t.Errorf("got %v", res)
	}
}
