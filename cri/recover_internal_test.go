package cri

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// author notes its calls and succeeds.
func author(calls *[]string) *Runtime {
	var mu sync.Mutex
	note := func(what, id string) error {
		mu.Lock()
		defer mu.Unlock()
		*calls = append(*calls, what+" "+id)
		return nil
	}
	return &Runtime{
		Name: "fake", Version: "1",
		RunSandbox:      func(_ context.Context, s *Sandbox) error { return note("run", s.ID) },
		StopSandbox:     func(_ context.Context, s *Sandbox) error { return note("stop", s.ID) },
		RemoveSandbox:   func(_ context.Context, s *Sandbox) error { return note("remove", s.ID) },
		CreateContainer: func(_ context.Context, c *Container) error { return note("create", c.ID) },
		StartContainer:  func(_ context.Context, c *Container) error { return note("start", c.ID) },
		StopContainer:   func(_ context.Context, c *Container, _ time.Duration) error { return note("kill", c.ID) },
		RemoveContainer: func(_ context.Context, c *Container) error { return note("delete", c.ID) },
	}
}

// left writes the records of a server that was killed.
func left(t *testing.T) records {
	t.Helper()
	r, err := openRecords(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (r records) leaveSandbox(t *testing.T, id string, p phase) *Sandbox {
	t.Helper()
	s := &Sandbox{
		ID: id, Dir: r.home(id), CreatedAt: time.Now().Round(0), Ready: p == live, IPs: []string{"10.0.0.1"},
		Config: &runtimeapi.PodSandboxConfig{Metadata: &runtimeapi.PodSandboxMetadata{Name: id, Namespace: "n", Uid: id}},
		State:  []byte(`{"a":1}`),
	}
	if err := errors.Join(os.Mkdir(s.Dir, 0o700), r.putSandbox(s, p)); err != nil {
		t.Fatal(err)
	}
	return s
}

func (r records) leaveContainer(t *testing.T, s *Sandbox, id string, p phase, started bool) {
	t.Helper()
	c := &Container{
		ID: id, Sandbox: s, Dir: r.home(id), CreatedAt: time.Now().Round(0), ImageRef: "i",
		Config: &runtimeapi.ContainerConfig{Metadata: &runtimeapi.ContainerMetadata{Name: id}},
	}
	if started {
		c.StartedAt = c.CreatedAt
	}
	if err := errors.Join(os.Mkdir(c.Dir, 0o700), r.putContainer(c, p)); err != nil {
		t.Fatal(err)
	}
}

func recovered(t *testing.T, r records, rt *Runtime) *server {
	t.Helper()
	s := newServer(t.Context(), rt, r, slog.New(slog.DiscardHandler))
	if err := s.recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestRecoverClearsHalves(t *testing.T) {
	r := left(t)
	r.leaveSandbox(t, "half", creating)
	r.leaveSandbox(t, "going", removing)
	ok := r.leaveSandbox(t, "whole", live)
	r.leaveContainer(t, ok, "c-half", creating, false)
	r.leaveContainer(t, ok, "c-going", removing, true)
	r.leaveContainer(t, ok, "c-whole", live, true)

	var calls, shown []string
	rt := author(&calls)
	rt.Recover = func(_ context.Context, sandboxes []*Sandbox, containers []*Container) error {
		for _, s := range sandboxes {
			shown = append(shown, s.ID)
		}
		for _, c := range containers {
			shown = append(shown, c.ID+" in "+c.Sandbox.ID)
		}
		if len(calls) > 0 {
			t.Errorf("called before Recover: %q", calls)
		}
		return nil
	}
	s := recovered(t, r, rt)
	if diff := cmp.Diff([]string{"whole", "c-whole in whole"}, shown); diff != "" {
		t.Errorf("Recover was shown (-want +got):\n%s", diff)
	}
	slices.Sort(calls)
	want := []string{"delete c-going", "delete c-half", "remove going", "remove half", "stop going", "stop half"}
	if diff := cmp.Diff(want, calls); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
	if len(s.index.sandboxes) != 1 || len(s.index.containers) != 1 {
		t.Errorf("index: %d sandboxes, %d containers", len(s.index.sandboxes), len(s.index.containers))
	}
	dirs, err := os.ReadDir(r.dir + "/dirs")
	if err != nil || len(dirs) != 2 {
		t.Errorf("directories left: %v, %v", dirs, err)
	}
}

// What Recover corrects is on disk when it returns: the next start, without a
// Recover, sees it.
func TestRecoverPersistsCorrections(t *testing.T) {
	r := left(t)
	sb := r.leaveSandbox(t, "sandbox", live)
	r.leaveContainer(t, sb, "ended", live, true)
	r.leaveContainer(t, sb, "runs", live, true)
	var calls []string
	rt := author(&calls)
	rt.Recover = func(_ context.Context, sandboxes []*Sandbox, containers []*Container) error {
		sandboxes[0].Ready, sandboxes[0].State = false, []byte(`{"a":2}`)
		for _, c := range containers {
			if c.ID == "ended" {
				c.Exit = &Exit{Code: 5}
			}
		}
		return nil
	}
	recovered(t, r, rt)
	rt.Recover = nil
	s := recovered(t, r, rt)
	if sb := s.index.sandboxes["sandbox"].cur.Load(); sb.Ready || string(sb.State) != `{"a":2}` || len(sb.IPs) != 1 {
		t.Errorf("sandbox: %+v", sb)
	}
	if c := s.index.containers["ended"].cur.Load(); c.Exit == nil || c.Exit.Code != 5 || c.Exit.Reason != "Error" || c.Exit.At.IsZero() {
		t.Errorf("ended container: %+v", c.Exit)
	}
	if c := s.index.containers["runs"].cur.Load(); !c.Running() {
		t.Errorf("running container: %+v", c)
	}
}

// A sandbox whose creation cannot be undone now is shown, so that the kubelet
// removes it, and is undone at the next start at the latest.
func TestRecoverKeepsWhatItCannotClear(t *testing.T) {
	r := left(t)
	r.leaveSandbox(t, "half", creating)
	var calls []string
	rt := author(&calls)
	rt.StopSandbox = func(context.Context, *Sandbox) error { return errors.New("not yet") }
	s := recovered(t, r, rt)
	if sb := s.index.sandboxes["half"]; sb == nil || sb.cur.Load().Ready {
		t.Errorf("got %+v", sb)
	}
	if s = recovered(t, r, author(&calls)); len(s.index.sandboxes) != 0 {
		t.Error("it is still there")
	}
}

func TestRecoverRefusesWhatItDoesNotKnow(t *testing.T) {
	for name, content := range map[string]string{
		"newer version": `{"version":2,"id":"x"}`,
		"no json":       `{"version"`,
		"bad config":    `{"version":1,"id":"x","config":"////"}`,
	} {
		t.Run(name, func(t *testing.T) {
			r := left(t)
			if err := os.WriteFile(r.sandboxFile("x"), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			s := newServer(t.Context(), author(new([]string)), r, slog.New(slog.DiscardHandler))
			err := s.recover(t.Context())
			if err == nil || !strings.Contains(err.Error(), r.sandboxFile("x")) {
				t.Errorf("got %v, want an error that names the file", err)
			}
		})
	}
}

// Every write of a start or an exit that a kill could come between leaves a
// record from which the next server goes on.
func TestStartIsOnRecordBeforeItHappens(t *testing.T) {
	r := left(t)
	var calls []string
	rt := author(&calls)
	sb := r.leaveSandbox(t, "sandbox", live)
	r.leaveContainer(t, sb, "c", live, false)
	rt.StartContainer = func(context.Context, *Container) error {
		later := recovered(t, r, author(&calls)) // as if killed here
		if c := later.index.containers["c"].cur.Load(); !c.Running() {
			t.Errorf("on record while it starts: %+v", c)
		}
		return nil
	}
	s := recovered(t, r, rt)
	if _, err := s.StartContainer(t.Context(), &runtimeapi.StartContainerRequest{ContainerId: "c"}); err != nil {
		t.Fatal(err)
	}
	s.ended("c", Exit{Code: 9})
	if c := recovered(t, r, author(&calls)).index.containers["c"].cur.Load(); c.Exit == nil || c.Exit.Code != 9 {
		t.Errorf("after its end: %+v", c)
	}
}
