package cri

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri/internal/record"
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
func left(t *testing.T) remains {
	t.Helper()
	dir := t.TempDir()
	r, err := record.Open(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return remains{r, dir}
}

type remains struct {
	*record.Dir
	path string
}

func (r remains) leaveSandbox(t *testing.T, id string, p record.Phase) *record.Sandbox {
	t.Helper()
	s := &record.Sandbox{
		ID: id, Dir: r.Home(id), CreatedAt: time.Now().Round(0), Ready: p == record.Live, IPs: []string{"10.0.0.1"},
		Config: &runtimeapi.PodSandboxConfig{Metadata: &runtimeapi.PodSandboxMetadata{Name: id, Namespace: "n", Uid: id}},
		State:  []byte(`{"a":1}`),
	}
	if err := errors.Join(os.Mkdir(s.Dir, 0o700), r.PutSandbox(s, p)); err != nil {
		t.Fatal(err)
	}
	return s
}

func (r remains) leaveContainer(t *testing.T, s *record.Sandbox, id string, p record.Phase, started bool) {
	t.Helper()
	c := &record.Container{
		ID: id, Sandbox: s, Dir: r.Home(id), CreatedAt: time.Now().Round(0), ImageRef: "i",
		Config: &runtimeapi.ContainerConfig{Metadata: &runtimeapi.ContainerMetadata{Name: id}},
	}
	if started {
		c.StartedAt = c.CreatedAt
	}
	if err := errors.Join(os.Mkdir(c.Dir, 0o700), r.PutContainer(c, p)); err != nil {
		t.Fatal(err)
	}
}

func recovered(t *testing.T, r remains, rt *Runtime) *server {
	t.Helper()
	s := newServer(t.Context(), rt, r.Dir, slog.New(slog.DiscardHandler))
	if err := s.recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestRecoverClearsHalves(t *testing.T) {
	r := left(t)
	r.leaveSandbox(t, "half", record.Creating)
	r.leaveSandbox(t, "going", record.Removing)
	ok := r.leaveSandbox(t, "whole", record.Live)
	r.leaveContainer(t, ok, "c-half", record.Creating, false)
	r.leaveContainer(t, ok, "c-going", record.Removing, true)
	r.leaveContainer(t, ok, "c-whole", record.Live, true)

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
	if sandboxes, containers := s.table.Sandboxes(), s.table.Containers(); len(sandboxes) != 1 || len(containers) != 1 {
		t.Errorf("left: %d sandboxes, %d containers", len(sandboxes), len(containers))
	}
	dirs, err := os.ReadDir(r.path + "/dirs")
	if err != nil || len(dirs) != 2 {
		t.Errorf("directories left: %v, %v", dirs, err)
	}
}

// What Recover corrects is on disk when it returns: the next start, without a
// Recover, sees it.
func TestRecoverPersistsCorrections(t *testing.T) {
	r := left(t)
	sb := r.leaveSandbox(t, "sandbox", record.Live)
	r.leaveContainer(t, sb, "ended", record.Live, true)
	r.leaveContainer(t, sb, "runs", record.Live, true)
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
	if sb := sandboxOf(t, s, "sandbox"); sb.Ready || string(sb.State) != `{"a":2}` || len(sb.IPs) != 1 {
		t.Errorf("sandbox: %+v", sb)
	}
	if c := containerOf(t, s, "ended"); c.Exit == nil || c.Exit.Code != 5 || c.Exit.Reason != "Error" || c.Exit.At.IsZero() {
		t.Errorf("ended container: %+v", c.Exit)
	}
	if c := containerOf(t, s, "runs"); !c.Running() {
		t.Errorf("running container: %+v", c)
	}
}

// A sandbox whose creation cannot be undone now is shown, so that the kubelet
// removes it, and is undone at the next start at the latest.
func TestRecoverKeepsWhatItCannotClear(t *testing.T) {
	r := left(t)
	r.leaveSandbox(t, "half", record.Creating)
	var calls []string
	rt := author(&calls)
	rt.StopSandbox = func(context.Context, *Sandbox) error { return errors.New("not yet") }
	s := recovered(t, r, rt)
	if sb := sandboxOf(t, s, "half"); sb.Ready {
		t.Errorf("got %+v", sb)
	}
	if s = recovered(t, r, author(&calls)); len(s.table.Sandboxes()) != 0 {
		t.Error("it is still there")
	}
}

func sandboxOf(t *testing.T, s *server, id string) *record.Sandbox {
	t.Helper()
	sb, err := s.table.Sandbox(id)
	if err != nil {
		t.Fatal(err)
	}
	return sb.Now()
}

func containerOf(t *testing.T, s *server, id string) *record.Container {
	t.Helper()
	c, err := s.table.Container(id)
	if err != nil {
		t.Fatal(err)
	}
	return c.Now()
}

// Every write of a start or an exit that a kill could come between leaves a
// record from which the next server goes on.
func TestStartIsOnRecordBeforeItHappens(t *testing.T) {
	r := left(t)
	var calls []string
	rt := author(&calls)
	sb := r.leaveSandbox(t, "sandbox", record.Live)
	r.leaveContainer(t, sb, "c", record.Live, false)
	rt.StartContainer = func(context.Context, *Container) error {
		later := recovered(t, r, author(&calls)) // as if killed here
		if c := containerOf(t, later, "c"); !c.Running() {
			t.Errorf("on record while it starts: %+v", c)
		}
		return nil
	}
	s := recovered(t, r, rt)
	if _, err := s.StartContainer(t.Context(), &runtimeapi.StartContainerRequest{ContainerId: "c"}); err != nil {
		t.Fatal(err)
	}
	s.table.Report("c", record.Exit{Code: 9})
	if c := containerOf(t, recovered(t, r, author(&calls)), "c"); c.Exit == nil || c.Exit.Code != 9 {
		t.Errorf("after its end: %+v", c)
	}
}

// A container that never ran is not seen to have ended, whenever the server is
// killed while it is removed.
func TestRemovalOfWhatNeverRanIsOnRecordFirst(t *testing.T) {
	r := left(t)
	var calls []string
	rt := author(&calls)
	sb := r.leaveSandbox(t, "sandbox", record.Live)
	r.leaveContainer(t, sb, "c", record.Live, false)
	rt.StopContainer = func(context.Context, *Container, time.Duration) error {
		later := recovered(t, r, author(&calls)) // as if killed here
		if c, err := later.table.Container("c"); err == nil {
			t.Errorf("on record while it is removed: %+v", c.Now())
		}
		return nil
	}
	s := recovered(t, r, rt)
	if _, err := s.RemoveContainer(t.Context(), &runtimeapi.RemoveContainerRequest{ContainerId: "c"}); err != nil {
		t.Fatal(err)
	}
}
