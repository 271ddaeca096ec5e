package state_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri/internal/event"
	"github.com/nodekit-project/nodekit/cri/internal/record"
	"github.com/nodekit-project/nodekit/cri/internal/state"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// disk is a directory of records and the tables of the servers that had it.
type disk struct {
	*record.Dir
	t *testing.T
}

func newDisk(t *testing.T) disk {
	t.Helper()
	d, err := record.Open(t.TempDir(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return disk{d, t}
}

// next returns the table of the next server.
func (d disk) next(hub *event.Hub) *state.Table {
	d.t.Helper()
	table := state.NewTable(d.Dir, hub, slog.New(slog.DiscardHandler))
	if err := table.Load(); err != nil {
		d.t.Fatal(err)
	}
	return table
}

func sandboxRecord(d disk, id string) *record.Sandbox {
	return &record.Sandbox{
		ID: id, Dir: d.Home(id), CreatedAt: time.Now(), Ready: true,
		Config: &runtimeapi.PodSandboxConfig{Metadata: &runtimeapi.PodSandboxMetadata{Name: id, Uid: id}},
	}
}

func containerRecord(d disk, s *state.Sandbox, id string) *record.Container {
	return &record.Container{
		ID: id, Sandbox: s.Copy(), Dir: d.Home(id), CreatedAt: time.Now(),
		Config: &runtimeapi.ContainerConfig{Metadata: &runtimeapi.ContainerMetadata{Name: id}},
	}
}

// pod adds a sandbox with a container.
func pod(t *testing.T, d disk, table *state.Table) (*state.Sandbox, *state.Container) {
	t.Helper()
	r := sandboxRecord(d, "sandbox")
	if err := errors.Join(table.IntendSandbox(r), table.AddSandbox(r)); err != nil {
		t.Fatal(err)
	}
	s, err := table.Sandbox("sandbox")
	if err != nil {
		t.Fatal(err)
	}
	cr := containerRecord(d, s, "container")
	if err := errors.Join(table.IntendContainer(cr), table.AddContainer(s, cr)); err != nil {
		t.Fatal(err)
	}
	c, err := table.Container("container")
	if err != nil {
		t.Fatal(err)
	}
	return s, c
}

// stream is a subscriber.
type stream struct {
	grpc.ServerStream
	ctx   context.Context
	ready chan struct{}
	got   chan *event.Event
}

func (s *stream) Context() context.Context       { return s.ctx }
func (s *stream) SendHeader(_ metadata.MD) error { close(s.ready); return nil }
func (s *stream) Send(e *event.Event) error      { s.got <- e; return nil }

// An exit that is reported while the container starts waits for the start, and
// whoever is told of it finds it on disk.
func TestAnEarlyExitComesAfterTheStart(t *testing.T) {
	d, hub := newDisk(t), event.NewHub()
	table := d.next(hub)
	_, c := pod(t, d, table)
	sub := &stream{ctx: t.Context(), ready: make(chan struct{}), got: make(chan *event.Event, 10)}
	go func() { _ = state.NewReader(table, state.Infos{}).GetContainerEvents(nil, sub) }()
	<-sub.ready

	if err := table.IntendStart(c, time.Now()); err != nil {
		t.Fatal(err)
	}
	if later, _ := d.next(event.NewHub()).Container("container"); !later.Now().Running() {
		t.Error("a server that is killed while it starts a container leaves it as not running")
	}
	table.Report("container", record.Exit{Code: 4})
	if c.Now().Exit != nil {
		t.Error("it ended before it started")
	}
	next := c.Copy()
	next.StartedAt = time.Now()
	table.Start(c, next)
	for _, want := range []runtimeapi.ContainerEventType{
		runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT, runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT,
	} {
		if e := <-sub.got; e.ContainerEventType != want || e.PodSandboxStatus.GetId() != "sandbox" || len(e.ContainersStatuses) != 1 {
			t.Errorf("got %v, want %v", e, want)
		}
	}
	<-c.Ended()
	table.Report("container", record.Exit{Code: 5})
	table.Report("unknown", record.Exit{})
	later, _ := d.next(event.NewHub()).Container("container")
	if now := later.Now(); now.Exit == nil || now.Exit.Code != 4 {
		t.Errorf("on disk: %+v", now.Exit)
	}
}

// What is half made or half removed stays so on record, whatever else changes,
// until it is gone.
func TestHalvesStayHalves(t *testing.T) {
	d := newDisk(t)
	table := d.next(event.NewHub())
	s, c := pod(t, d, table)
	half := sandboxRecord(d, "half")
	if err := table.IntendSandbox(half); err != nil {
		t.Fatal(err)
	}
	table.KeepSandbox(half)
	kept, err := table.Sandbox("half")
	if err != nil || kept.Whole() || kept.Now().Ready {
		t.Fatalf("kept: %+v, %v", kept, err)
	}
	changed := kept.Copy()
	changed.State = []byte(`{}`)
	if ok, err := table.StopSandbox(kept, changed); !ok || err != nil {
		t.Fatal(ok, err)
	}
	table.Exit(c, record.Exit{Code: 1})
	if err := errors.Join(table.IntendContainerRemoval(c), table.IntendSandboxRemoval(s)); err != nil {
		t.Fatal(err)
	}
	next := s.Copy()
	next.Ready = false
	if _, err := table.StopSandbox(s, next); err != nil {
		t.Fatal(err)
	}
	later := d.next(event.NewHub())
	for _, s := range later.Sandboxes() {
		if s.Whole() || s.Now().Ready {
			t.Errorf("sandbox %q is whole again: %+v", s.Now().ID, s.Now())
		}
	}
	if err := errors.Join(table.RemoveContainer(c), table.RemoveSandbox(s), table.RemoveSandbox(kept)); err != nil {
		t.Fatal(err)
	}
	if later = d.next(event.NewHub()); len(later.Sandboxes())+len(later.Containers()) > 0 {
		t.Error("what was removed is on record")
	}
}

func TestFinding(t *testing.T) {
	d := newDisk(t)
	table := d.next(event.NewHub())
	for _, id := range []string{"abcdef", "abcxyz"} {
		if err := table.AddSandbox(sandboxRecord(d, id)); err != nil {
			t.Fatal(err)
		}
	}
	for id, want := range map[string]error{"abcdef": nil, "abcd": nil, "abc": fault.NotFound, "": fault.Invalid, "xyzxyz": fault.NotFound} {
		if _, err := table.Sandbox(id); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", id, err, want)
		}
	}
	if err := table.AddSandbox(sandboxRecord(d, "abcdxx")); err != nil {
		t.Fatal(err)
	}
	if _, err := table.Sandbox("abcd"); !errors.Is(err, fault.Invalid) {
		t.Errorf("a prefix of two: %v", err)
	}
}

func TestLimitLaysOver(t *testing.T) {
	d := newDisk(t)
	table := d.next(event.NewHub())
	_, c := pod(t, d, table)
	before := c.Now().Config
	table.Limit(c, &runtimeapi.LinuxContainerResources{CpuShares: 5, HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB"}}})
	table.Limit(c, &runtimeapi.LinuxContainerResources{OomScoreAdj: 7, HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "1GB"}}})
	got := c.Now().Config.GetLinux().GetResources()
	if got.GetCpuShares() != 5 || got.GetOomScoreAdj() != 7 || len(got.GetHugepageLimits()) != 1 {
		t.Errorf("got %v", got)
	}
	if before.GetLinux() != nil {
		t.Error("a state that a reader may hold was modified")
	}
}

// A change that cannot be written is not shown, except an exit, which has
// happened.
func TestAFailedWrite(t *testing.T) {
	d := newDisk(t)
	table := d.next(event.NewHub())
	s, c := pod(t, d, table)
	broken := t.TempDir() + "/gone"
	lost, err := record.Open(broken, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer lost.Close()
	if err := os.RemoveAll(broken); err != nil {
		t.Fatal(err)
	}
	bad := state.NewTable(lost, event.NewHub(), slog.New(slog.DiscardHandler))
	if err := bad.AddSandbox(s.Copy()); err == nil || len(bad.Sandboxes()) > 0 {
		t.Errorf("an unwritten sandbox: %v", err)
	}
	bad.Exit(c, record.Exit{Code: 1})
	if c.Now().Exit == nil {
		t.Error("the exit is lost")
	}
}

func TestChunks(t *testing.T) {
	large := &runtimeapi.Container{Annotations: map[string]string{"a": strings.Repeat("x", 300<<10)}}
	huge := &runtimeapi.Container{Annotations: map[string]string{"a": strings.Repeat("x", 2<<20)}}
	for _, c := range []struct {
		items []*runtimeapi.Container
		want  []int
	}{
		{nil, nil},
		{slices.Repeat([]*runtimeapi.Container{{Id: "small"}}, 450), []int{200, 200, 50}},
		{slices.Repeat([]*runtimeapi.Container{large}, 7), []int{3, 3, 1}},
		{[]*runtimeapi.Container{{Id: "small"}, huge, huge, {Id: "small"}}, []int{1, 1, 1, 1}},
	} {
		var sizes []int
		err := state.InChunks(c.items, func(part []*runtimeapi.Container) error { sizes = append(sizes, len(part)); return nil })
		if err != nil || !slices.Equal(sizes, c.want) {
			t.Errorf("%d items came in messages of %v (%v), want %v", len(c.items), sizes, err, c.want)
		}
	}
}
