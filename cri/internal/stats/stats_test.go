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
	d, err := record.Open(t.TempDir(), slog.New(slog.DiscardHandler))
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
	r := stats.NewReporter(stats.Functions{Container: func(_ context.Context, c *state.Container) (*runtimeapi.ContainerStats, error) {
		switch c.Now().ID {
		case "good":
			return &runtimeapi.ContainerStats{Cpu: &runtimeapi.CpuUsage{}}, nil
		case "none":
			return nil, nil
		}
		return nil, errors.New("it is gone")
	}, Sandbox: func(_ context.Context, s *state.Sandbox) (*runtimeapi.LinuxPodSandboxStats, error) {
		return &runtimeapi.LinuxPodSandboxStats{Process: &runtimeapi.ProcessUsage{Timestamp: 1}}, nil
	}}, tab, slog.New(slog.DiscardHandler))

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
	if _, err := r.ContainerStats(t.Context(), &runtimeapi.ContainerStatsRequest{ContainerId: "ended"}); !errors.Is(err, fault.FailedPrecondition) {
		t.Errorf("of an ended container: %v", err)
	}
	pod, err := r.PodSandboxStats(t.Context(), &runtimeapi.PodSandboxStatsRequest{PodSandboxId: "sandbox"})
	if err != nil || pod.Stats.Attributes.GetId() != "sandbox" || pod.Stats.Linux.Process.GetTimestamp() != 1 ||
		len(pod.Stats.Linux.Containers) != 1 || pod.Stats.Linux.Containers[0].Attributes.GetId() != "good" {
		t.Errorf("of a pod: %v, %v", pod, err)
	}
	for filter, want := range map[*runtimeapi.PodSandboxStatsFilter]int{
		nil: 1, {Id: "sand"}: 1, {Id: "x"}: 0, {LabelSelector: map[string]string{"id": "x"}}: 0,
	} {
		all, err := r.ListPodSandboxStats(t.Context(), &runtimeapi.ListPodSandboxStatsRequest{Filter: filter})
		if err != nil || len(all.Stats) != want {
			t.Errorf("filter %v: %v, %v", filter, all, err)
		}
	}
	s, _ := tab.Sandbox("sandbox")
	if _, err := tab.StopSandbox(s, s.Copy()); err != nil {
		t.Fatal(err)
	}
	if _, err := r.PodSandboxStats(t.Context(), &runtimeapi.PodSandboxStatsRequest{PodSandboxId: "sandbox"}); !errors.Is(err, fault.FailedPrecondition) {
		t.Errorf("of a stopped sandbox: %v", err)
	}
}

func TestUnsupported(t *testing.T) {
	none := stats.NewReporter(stats.Functions{}, table(t), nil)
	_, one := none.ContainerStats(t.Context(), nil)
	_, list := none.ListContainerStats(t.Context(), nil)
	_, pod := none.PodSandboxStats(t.Context(), nil)
	_, pods := none.ListPodSandboxStats(t.Context(), nil)
	for _, err := range []error{one, list, pod, pods} {
		if !errors.Is(err, fault.Unimplemented) {
			t.Errorf("got %v", err)
		}
	}
}
