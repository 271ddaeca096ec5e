package stats_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri/internal/event"
	"github.com/nodekit-project/nodekit/cri/internal/record"
	"github.com/nodekit-project/nodekit/cri/internal/state"
	"github.com/nodekit-project/nodekit/cri/internal/stats"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// table has a sandbox with the running containers.
func table(t *testing.T, ids ...string) *state.Table {
	t.Helper()
	d, err := record.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	tab := state.NewTable(d, event.NewHub(), slog.New(slog.DiscardHandler))
	if err := tab.AddSandbox(&record.Sandbox{ID: "sandbox", Ready: true}); err != nil {
		t.Fatal(err)
	}
	s, err := tab.Sandbox("sandbox")
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		r := &record.Container{
			ID: id, Sandbox: s.Copy(), StartedAt: time.Now(),
			Config: &runtimeapi.ContainerConfig{Metadata: &runtimeapi.ContainerMetadata{Name: id}, Labels: map[string]string{"id": id}},
		}
		if err := tab.AddContainer(s, r); err != nil {
			t.Fatal(err)
		}
	}
	return tab
}

func TestStats(t *testing.T) {
	tab := table(t, "good", "none", "bad-container", "ended")
	ended, _ := tab.Container("ended")
	tab.Exit(ended, record.Exit{})
	r := stats.NewReporter(func(_ context.Context, c *state.Container) (*runtimeapi.ContainerStats, error) {
		switch c.Now().ID {
		case "good":
			return &runtimeapi.ContainerStats{Cpu: &runtimeapi.CpuUsage{}}, nil
		case "none":
			return nil, nil
		}
		return nil, errors.New("it is gone")
	}, tab, slog.New(slog.DiscardHandler))

	one, err := r.ContainerStats(t.Context(), &runtimeapi.ContainerStatsRequest{ContainerId: "good"})
	if err != nil || one.Stats.Attributes.GetId() != "good" || one.Stats.Attributes.GetLabels()["id"] != "good" {
		t.Errorf("got %v, %v", one, err)
	}
	if _, err := r.ContainerStats(t.Context(), &runtimeapi.ContainerStatsRequest{ContainerId: "none"}); !errors.Is(err, fault.NotFound) {
		t.Errorf("without an answer: %v", err)
	}
	for filter, want := range map[*runtimeapi.ContainerStatsFilter]int{
		nil: 1, {Id: "good"}: 1, {Id: "none"}: 0, {LabelSelector: map[string]string{"id": "x"}}: 0, {PodSandboxId: "sandbox"}: 1,
	} {
		all, err := r.ListContainerStats(t.Context(), &runtimeapi.ListContainerStatsRequest{Filter: filter})
		if err != nil || len(all.Stats) != want {
			t.Errorf("filter %v: %v, %v", filter, all, err)
		}
	}
	none := stats.NewReporter(nil, tab, nil)
	if _, err := none.ListContainerStats(t.Context(), nil); !errors.Is(err, fault.Unimplemented) {
		t.Errorf("unsupported: %v", err)
	}
}
