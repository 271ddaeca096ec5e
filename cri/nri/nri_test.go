package nri_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/nri/pkg/api"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri"
	"github.com/nodekit-project/nodekit/cri/nri"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// TestLife is a Pod's whole life, with repeated calls.
func TestLife(t *testing.T) {
	a, socket := served(t)
	p := (&plugin{}).connect(t, socket)
	ctx, rt := t.Context(), a.rt
	s := newSandbox("pod")
	c := newContainer(s, "box")
	limits := &runtimeapi.LinuxContainerResources{CpuShares: 7}
	do(t, rt.RunSandbox(ctx, s), rt.UpdateSandbox(ctx, s, limits, nil), rt.CreateContainer(ctx, c), rt.StartContainer(ctx, c), rt.UpdateContainer(ctx, c, limits),
		rt.StopContainer(ctx, c, 0), rt.StopContainer(ctx, c, 0), rt.RemoveContainer(ctx, c), rt.RemoveContainer(ctx, c),
		rt.StopSandbox(ctx, s), rt.StopSandbox(ctx, s), rt.RemoveSandbox(ctx, s), rt.RemoveSandbox(ctx, s))
	wantEvents(t, p, "Synchronize ", "RunPodSandbox pod", "UpdatePodSandbox pod", "PostUpdatePodSandbox pod",
		"CreateContainer box", "PostCreateContainer box", "StartContainer box", "PostStartContainer box", "UpdateContainer box", "PostUpdateContainer box",
		"StopContainer box", "RemoveContainer box", "StopPodSandbox pod", "RemovePodSandbox pod")
	if got := a.limits["box"]; got.GetCpuShares() != 7 || got.GetMemoryLimitInBytes() != 0 {
		t.Errorf("the author was told of the limits %v", got)
	}
}

// TestOwnEnd: a container that ends by itself is told of once, and before its
// removal.
func TestOwnEnd(t *testing.T) {
	a, socket := served(t)
	p := (&plugin{}).connect(t, socket)
	ctx, stop := context.WithCancel(t.Context())
	s := newSandbox("pod")
	c := newContainer(s, "box")
	reported := make(chan string, 1)
	watched := make(chan error, 1)
	go func() { watched <- a.rt.Watch(ctx, func(id string, e cri.Exit) { reported <- id }) }()
	do(t, a.rt.RunSandbox(ctx, s), a.rt.CreateContainer(ctx, c), a.rt.StartContainer(ctx, c))
	a.exits <- "box"
	if id := <-reported; id != "box" {
		t.Errorf("the end of %q was reported", id)
	}
	stop()
	do(t, <-watched, a.rt.RemoveContainer(t.Context(), c))
	wantEvents(t, p, "Synchronize ", "RunPodSandbox pod", "CreateContainer box", "PostCreateContainer box", "StartContainer box", "PostStartContainer box",
		"StopContainer box", "RemoveContainer box")
}

// TestEndsAtOnce: of a container that has ended before StartContainer returns plugins
// are told first that it ran.
func TestEndsAtOnce(t *testing.T) {
	a, socket := served(t)
	p := (&plugin{}).connect(t, socket)
	ctx, stop := context.WithCancel(t.Context())
	reported := make(chan string)
	a.ran = func(id string) {
		a.exits <- id
		<-reported
	}
	watched := make(chan error, 1)
	go func() { watched <- a.rt.Watch(ctx, func(id string, e cri.Exit) { reported <- id }) }()
	s := newSandbox("pod")
	c := newContainer(s, "box")
	do(t, a.rt.RunSandbox(ctx, s), a.rt.CreateContainer(ctx, c), a.rt.StartContainer(ctx, c))
	stop()
	do(t, <-watched)
	wantEvents(t, p, "Synchronize ", "RunPodSandbox pod", "CreateContainer box", "PostCreateContainer box", "StartContainer box", "PostStartContainer box", "StopContainer box")
	u := &api.ContainerUpdate{}
	u.SetContainerId("box")
	u.SetLinuxCPUSetCPUs("1")
	if failed, err := p.stub.UpdateContainers([]*api.ContainerUpdate{u}); err != nil || len(failed) != 1 {
		t.Errorf("UpdateContainers of a container that has ended: %v, %v", failed, err)
	}
}

// TestRemovedAtOnce: a container that has ended by itself and is removed while plugins
// are told of that is told of in this order.
func TestRemovedAtOnce(t *testing.T) {
	a, socket := served(t)
	p := (&plugin{}).connect(t, socket)
	ctx, stop := context.WithCancel(t.Context())
	watched := make(chan error, 1)
	go func() { watched <- a.rt.Watch(ctx, func(string, cri.Exit) {}) }()
	s := newSandbox("pod")
	c := newContainer(s, "box")
	do(t, a.rt.RunSandbox(ctx, s), a.rt.CreateContainer(ctx, c), a.rt.StartContainer(ctx, c))
	telling, goOn := make(chan struct{}), make(chan struct{})
	var again atomic.Bool
	a.locked(func() {
		a.looked = func() {
			if !again.Swap(true) {
				close(telling)
				<-goOn
			}
		}
	})
	a.exits <- "box"
	<-telling
	removed := make(chan error, 1)
	go func() { removed <- a.rt.RemoveContainer(t.Context(), c) }()
	select {
	case err := <-removed:
		t.Errorf("RemoveContainer did not wait: %v", err)
		removed <- err
	case <-time.After(50 * time.Millisecond): // it waits, or is slow
	}
	close(goOn)
	do(t, <-removed)
	stop()
	do(t, <-watched)
	if all := p.heard(); !slices.Equal(all[len(all)-2:], []string{"StopContainer box", "RemoveContainer box"}) {
		t.Errorf("events: %q", all)
	}
}

// TestAdjust: what the plugin wants is in the spec, and what it must not have
// fails the creation.
func TestAdjust(t *testing.T) {
	a, socket := served(t)
	p := (&plugin{}).connect(t, socket)
	s := newSandbox("pod")
	do(t, a.rt.RunSandbox(t.Context(), s))
	p.adjust = &api.ContainerAdjustment{}
	p.adjust.AddEnv("B", "2")
	p.adjust.AddAnnotation("note", "x")
	p.adjust.AddMount(&api.Mount{Destination: "/m", Source: "/tmp", Type: "bind", Options: []string{"rbind"}})
	p.adjust.SetLinuxCPUShares(99)
	p.adjust.SetLinuxMemoryLimit(1 << 20)
	p.adjust.AddCDIDevice(&api.CDIDevice{Name: "vendor.example/class=one"})
	do(t, a.rt.CreateContainer(t.Context(), newContainer(s, "box")))
	doc := a.specs["box"]
	text, err := json.Marshal(doc)
	do(t, err)
	for _, want := range []string{`"A=1"`, `"B=2"`, `"note":"x"`, `"destination":"/m"`, `"shares":99`, `CDI=vendor.example/class=one`} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the spec is without %s: %s", want, text)
		}
	}
	if m := doc.Linux.Resources.Memory; m.Swap != nil || *m.Limit != 1<<20 {
		t.Errorf("the limits of memory and swap are %v and %v, want one of memory", m.Limit, m.Swap)
	}
	for what, change := range map[string]func(*api.ContainerAdjustment){
		"cgroup": func(c *api.ContainerAdjustment) { c.SetLinuxCgroupsPath("/another") },
		"PID namespace": func(c *api.ContainerAdjustment) {
			c.AddOrReplaceNamespace(&api.LinuxNamespace{Type: "pid", Path: "/proc/1/ns/pid"})
		},
		"PID namespace ": func(c *api.ContainerAdjustment) { c.RemoveNamespace(&api.LinuxNamespace{Type: "pid"}) },
		"block I/O":      func(c *api.ContainerAdjustment) { c.SetLinuxBlockIOClass("slow") },
		"RDT":            func(c *api.ContainerAdjustment) { c.SetLinuxRDTClass("gold") },
		"rdt.clos_id":    func(c *api.ContainerAdjustment) { c.SetLinuxRDTClosID("gold") },
		"memory.kernel":  func(c *api.ContainerAdjustment) { c.SetLinuxMemoryKernel(1 << 20) },
		"kernel_tcp":     func(c *api.ContainerAdjustment) { c.SetLinuxMemoryKernelTCP(1 << 20) },
		"use_hierarchy": func(c *api.ContainerAdjustment) {
			c.SetLinuxMemoryLimit(1 << 20)
			c.Linux.Resources.Memory.UseHierarchy = api.Bool(false)
		},
	} {
		p.adjust = &api.ContainerAdjustment{}
		change(p.adjust)
		err := a.rt.CreateContainer(t.Context(), newContainer(s, "other"))
		if err == nil || !strings.Contains(err.Error(), strings.TrimSpace(what)) {
			t.Errorf("%s: %v", what, err)
		}
		do(t, a.rt.RemoveContainer(t.Context(), newContainer(s, "other"))) // as the SDK does
	}
}

// TestAnnotations: plugins are told of an annotation that one of them has added,
// beside those that the container was asked for with.
func TestAnnotations(t *testing.T) {
	a, socket := served(t)
	p := &plugin{adjust: &api.ContainerAdjustment{}}
	p.adjust.AddAnnotation("added", "yes")
	p.connect(t, socket)
	s := newSandbox("pod")
	c := newContainer(s, "box")
	c.Config.Annotations = map[string]string{"own": "too"}
	do(t, a.rt.RunSandbox(t.Context(), s), a.rt.CreateContainer(t.Context(), c))
	if diff := cmp.Diff(map[string]string{"own": "too", "added": "yes"}, p.posted.GetAnnotations()); diff != "" {
		t.Errorf("annotations in PostCreateContainer (-want +got):\n%s", diff)
	}
	if len(c.Config.Annotations) != 1 {
		t.Errorf("the container's own annotations became %v", c.Config.Annotations)
	}
}

// TestRefusals: an event that stands before the work fails it, one after it does
// not.
func TestRefusals(t *testing.T) {
	for event, fails := range map[string]bool{
		"RunPodSandbox": true, "CreateContainer": true, "StartContainer": true, "UpdateContainer": true, "UpdatePodSandbox": true,
		"PostUpdatePodSandbox": false, "PostCreateContainer": false, "PostStartContainer": false, "PostUpdateContainer": false, "StopContainer": false, "RemoveContainer": false, "StopPodSandbox": false, "RemovePodSandbox": false,
	} {
		t.Run(event, func(t *testing.T) {
			a, socket := served(t)
			p := (&plugin{refuse: event}).connect(t, socket)
			ctx, rt := t.Context(), a.rt
			s := newSandbox("pod")
			c := newContainer(s, "box")
			var err error
			for _, call := range []func() error{
				func() error { return rt.RunSandbox(ctx, s) },
				func() error { return rt.UpdateSandbox(ctx, s, nil, nil) },
				func() error { return rt.CreateContainer(ctx, c) },
				func() error { return rt.StartContainer(ctx, c) },
				func() error { return rt.UpdateContainer(ctx, c, &runtimeapi.LinuxContainerResources{CpuShares: 5}) },
			} {
				if err = call(); err != nil {
					break
				}
			}
			if fails != (err != nil) || fails && (!errors.Is(err, fault.FailedPrecondition) || !strings.Contains(err.Error(), "not with me")) {
				t.Errorf("the calls failed with %v", err)
			}
			if event == "UpdateContainer" && a.limits["box"] != nil {
				t.Error("limits that a plugin refused were applied")
			}
			do(t, rt.StopContainer(ctx, c, 0), rt.RemoveContainer(ctx, c), rt.StopSandbox(ctx, s), rt.RemoveSandbox(ctx, s))
			if all := p.heard(); all[len(all)-1] != "RemovePodSandbox pod" {
				t.Errorf("the last event is %q", all[len(all)-1])
			}
		})
	}
}

// TestUpdates: a plugin changes the limits of others in its answers, those of the
// container in question, and any when it likes.
func TestUpdates(t *testing.T) {
	a, socket := served(t)
	p := (&plugin{}).connect(t, socket)
	ctx := t.Context()
	s := newSandbox("pod")
	first, second := newContainer(s, "first"), newContainer(s, "second")
	do(t, a.rt.RunSandbox(ctx, s), a.rt.CreateContainer(ctx, first), a.rt.StartContainer(ctx, first))
	update := func(id, cpus string) *api.ContainerUpdate {
		u := &api.ContainerUpdate{}
		u.SetContainerId(id)
		u.SetLinuxCPUSetCPUs(cpus)
		return u
	}
	cpus := func(id, want string) {
		t.Helper()
		a.mu.Lock()
		defer a.mu.Unlock()
		if got := a.limits[id].GetCpusetCpus(); got != want {
			t.Errorf("%s has the cpus %q, want %q", id, got, want)
		}
	}
	p.update = []*api.ContainerUpdate{update("first", "1")}
	do(t, a.rt.CreateContainer(ctx, second))
	cpus("first", "1")
	p.update = []*api.ContainerUpdate{update("second", "3"), update("first", "2")}
	do(t, a.rt.UpdateContainer(ctx, second, &runtimeapi.LinuxContainerResources{CpusetCpus: "0"}))
	cpus("first", "2")
	cpus("second", "3")
	failed, err := p.stub.UpdateContainers([]*api.ContainerUpdate{update("nobody", "1"), update("second", "4")})
	if err != nil || len(failed) != 1 || failed[0].GetContainerId() != "nobody" {
		t.Errorf("UpdateContainers: %v, %v", failed, err)
	}
	cpus("second", "4")
	a.locked(func() { a.refuse = errors.New("no such cpu") })
	p.update = []*api.ContainerUpdate{update("first", "9")}
	if err := a.rt.CreateContainer(ctx, newContainer(s, "third")); err == nil || !strings.Contains(err.Error(), "no such cpu") {
		t.Errorf("an update of another that fails: %v", err)
	}
	p.update[0].IgnoreFailure = true
	do(t, a.rt.CreateContainer(ctx, newContainer(s, "fourth")))
	a.locked(func() { a.refuse = nil })
	p.update = nil
	watching, stop := context.WithCancel(ctx)
	watched := make(chan error, 1)
	go func() { watched <- a.rt.Watch(watching, func(string, cri.Exit) {}) }()
	a.exits <- "first"
	stop()
	do(t, <-watched)
	p.update = []*api.ContainerUpdate{update("first", "1")}
	do(t, a.rt.CreateContainer(ctx, newContainer(s, "beside an ended one")))
	p.update = []*api.ContainerUpdate{update("nobody", "1")}
	do(t, a.rt.CreateContainer(ctx, newContainer(s, "beside one that is gone")))
}

// TestLate: a plugin that connects is told what runs, also after a restart, and of
// nothing that has ended.
func TestLate(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "nri.sock")
	a := newAuthor(t, nri.Config{Socket: socket})
	s, gone := newSandbox("pod"), newSandbox("gone")
	gone.Ready = false
	runs, ended, waits := newContainer(s, "runs"), newContainer(s, "ended"), newContainer(s, "waits")
	runs.StartedAt, ended.StartedAt, ended.Exit = time.Now(), time.Now(), &cri.Exit{}
	a.specs["runs"] = &specs.Spec{Process: &specs.Process{Args: []string{"forever"}}}
	do(t, a.rt.Recover(t.Context(), []*cri.Sandbox{s, gone}, []*cri.Container{runs, ended, waits}))
	halted := newContainer(s, "halted before it ran")
	do(t, a.rt.CreateContainer(t.Context(), halted), a.rt.StopContainer(t.Context(), halted, 0))
	p := (&plugin{}).connect(t, socket)
	do(t, a.rt.StopContainer(t.Context(), ended, 0), a.rt.StopContainer(t.Context(), runs, 0), a.rt.StopSandbox(t.Context(), gone))
	wantEvents(t, p, "Synchronize pod, runs CONTAINER_RUNNING forever, waits CONTAINER_CREATED ", "StopContainer runs")
}

// TestNoneIsMissed: while a plugin is told what is there nothing is created, and
// what is created at the same time it hears of either way.
func TestNoneIsMissed(t *testing.T) {
	a, socket := served(t)
	ctx := t.Context()
	s := newSandbox("pod")
	do(t, a.rt.RunSandbox(ctx, s))
	p := &plugin{block: make(chan struct{})}
	p.connect(t, socket) // and is slow
	made := make(chan error, 1)
	go func() { made <- a.rt.CreateContainer(ctx, newContainer(s, "box")) }()
	close(p.block)
	do(t, <-made)
	wantEvents(t, p, "Synchronize pod", "CreateContainer box", "PostCreateContainer box")

	stop := make(chan struct{})
	var creating sync.WaitGroup
	for i := range 4 {
		creating.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				if err := a.rt.CreateContainer(ctx, newContainer(s, fmt.Sprintf("c-%d-%d", i, n))); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 5 {
		late := (&plugin{}).connect(t, socket)
		for len(late.heard()) < 10 {
			time.Sleep(time.Millisecond)
		}
		known := map[string]bool{}
		for _, c := range strings.Split(late.heard()[0], ", ") {
			known[strings.Fields(c)[0]] = true
		}
		for _, e := range late.heard()[1:] {
			event, id, _ := strings.Cut(e, " ")
			switch event {
			case "CreateContainer":
				known[id] = true
			case "PostCreateContainer":
				if !known[id] {
					t.Errorf("%s of a container that the plugin was never told of", e)
				}
			}
		}
	}
	close(stop)
	creating.Wait()
}

// TestAuthorFails: a container that the author could not make is taken away from
// the plugins' sight, too.
func TestAuthorFails(t *testing.T) {
	a, socket := served(t)
	p := (&plugin{}).connect(t, socket)
	ctx := t.Context()
	s := newSandbox("pod")
	do(t, a.rt.RunSandbox(ctx, s))
	c := newContainer(s, "box")
	a.fail = errors.New("no room")
	if err := a.rt.CreateContainer(ctx, c); err == nil || err.Error() != "no room" {
		t.Errorf("CreateContainer: %v", err)
	}
	do(t, a.rt.RemoveContainer(ctx, c)) // as the SDK does
	wantEvents(t, p, "Synchronize ", "RunPodSandbox pod", "CreateContainer box", "RemoveContainer box")
}

// TestSocket: it is for root alone, replaces what a killed runtime left, and is no
// other runtime's.
func TestSocket(t *testing.T) {
	dir := t.TempDir()
	left := filepath.Join(dir, "left.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: left})
	do(t, err)
	l.SetUnlinkOnClose(false)
	do(t, l.Close())
	a := newAuthor(t, nri.Config{Socket: left})
	do(t, a.rt.Recover(t.Context(), nil, nil))
	if fi, err := os.Stat(left); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("the socket is %v, %v", fi, err)
	}
	b := newAuthor(t, nri.Config{Socket: left})
	if err := b.rt.Recover(t.Context(), nil, nil); !errors.Is(err, fault.AlreadyExists) {
		t.Errorf("a second runtime: %v", err)
	}
	b.plugins.Close()
	(&plugin{}).connect(t, left) // it is still the first one's
	fresh := filepath.Join(dir, "run", "nri", "nri.sock")
	do(t, nri.CheckSocket(fresh))
	if _, err := os.Lstat(filepath.Dir(fresh)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the check made the directory: %v", err)
	}
	do(t, newAuthor(t, nri.Config{Socket: fresh}).rt.Recover(t.Context(), nil, nil))
	(&plugin{}).connect(t, fresh)
}

// TestImpossibleSocket: a socket that cannot be made is refused with the reason, before
// anything is made for it.
func TestImpossibleSocket(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	do(t, os.WriteFile(file, []byte("precious"), 0o600))
	for _, c := range []struct{ socket, want string }{
		{file, "is not a socket"},
		{dir, "is not a socket"},
		{"relative", "want an absolute path"},
		{filepath.Join(file, "nri.sock"), `"` + file + `" is not a directory`},
		{filepath.Join(file, "run", "nri.sock"), `"` + file + `" is not a directory`},
		{filepath.Join(dir, "run", strings.Repeat("x", 108)), "choose a shorter path"},
	} {
		for name, err := range map[string]error{
			"CheckSocket": nri.CheckSocket(c.socket),
			"Recover":     newAuthor(t, nri.Config{Socket: c.socket}).rt.Recover(t.Context(), nil, nil),
		} {
			if !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s of %q: %v, want %q with %s", name, c.socket, err, fault.Invalid, c.want)
			}
		}
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != "precious" {
		t.Errorf("the file has %q, %v", text, err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestRefusedStart: a start that a plugin refuses is refused again, and the
// container has no end.
func TestRefusedStart(t *testing.T) {
	a, socket := served(t)
	p := (&plugin{refuse: "StartContainer"}).connect(t, socket)
	ctx := t.Context()
	s := newSandbox("pod")
	c := newContainer(s, "box")
	do(t, a.rt.RunSandbox(ctx, s), a.rt.CreateContainer(ctx, c))
	for range 2 {
		if err := a.rt.StartContainer(ctx, c); !errors.Is(err, fault.FailedPrecondition) {
			t.Errorf("StartContainer: %v", err)
		}
	}
	do(t, a.rt.RemoveContainer(ctx, c))
	wantEvents(t, p, "Synchronize ", "RunPodSandbox pod", "CreateContainer box", "PostCreateContainer box", "StartContainer box", "StartContainer box", "RemoveContainer box")
}
