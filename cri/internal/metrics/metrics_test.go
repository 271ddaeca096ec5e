package metrics_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri/internal/event"
	"github.com/nodekit-project/nodekit/cri/internal/metrics"
	"github.com/nodekit-project/nodekit/cri/internal/record"
	"github.com/nodekit-project/nodekit/cri/internal/state"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// table has the ready sandbox "pod" with the running container "main", and what
// nobody has metrics of.
func table(t *testing.T) *state.Table {
	t.Helper()
	d, err := record.Open(t.TempDir(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	tab := state.NewTable(d, event.NewHub(), slog.New(slog.DiscardHandler))
	err = errors.Join(tab.AddSandbox(&record.Sandbox{ID: "pod", Ready: true}), tab.AddSandbox(&record.Sandbox{ID: "stopped"}))
	if err != nil {
		t.Fatal(err)
	}
	s, err := tab.Sandbox("pod")
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(
		tab.AddContainer(s, &record.Container{ID: "main", Sandbox: s.Copy(), StartedAt: time.Now()}),
		tab.AddContainer(s, &record.Container{ID: "created", Sandbox: s.Copy()}))
	if err != nil {
		t.Fatal(err)
	}
	return tab
}

func TestCollect(t *testing.T) {
	var log bytes.Buffer
	at := time.Unix(7, 0)
	labels := map[string]string{"a": "1", "b": "2"}
	c := metrics.New([]*runtimeapi.MetricDescriptor{{Name: "net", LabelKeys: []string{"b", "a"}}, {Name: "cpu"}}, metrics.Functions{
		Sandbox: func(context.Context, *state.Sandbox) ([]metrics.Sample, error) {
			return []metrics.Sample{
				{Name: "net", Labels: labels, Value: 3, Gauge: true, At: at},
				{Name: "net", Labels: labels, Value: 4},
				{Name: "net", Labels: map[string]string{"a": "1"}, Value: 5},
				{Name: "net", Labels: map[string]string{"c": "1"}, Value: 6},
				{Name: "net", Labels: map[string]string{"a": "\xff"}, Value: 7},
				{Name: "unknown"},
				{Name: "unknown"},
			}, nil
		},
		Container: func(_ context.Context, c *state.Container) ([]metrics.Sample, error) {
			if c.Now().ID != "main" {
				t.Errorf("asked for %q", c.Now().ID)
			}
			return nil, errors.New("it is gone")
		},
	}, table(t), slog.New(slog.NewTextHandler(&log, nil)))
	var got *runtimeapi.ListPodSandboxMetricsResponse
	for range 2 {
		var err error
		if got, err = c.ListPodSandboxMetrics(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
	}
	want := &runtimeapi.ListPodSandboxMetricsResponse{PodMetrics: []*runtimeapi.PodSandboxMetrics{{
		PodSandboxId: "pod",
		Metrics: []*runtimeapi.Metric{
			{Name: "net", LabelValues: []string{"2", "1"}, Value: &runtimeapi.UInt64Value{Value: 3}, MetricType: runtimeapi.MetricType_GAUGE, Timestamp: at.UnixNano()},
			{Name: "net", LabelValues: []string{"", "1"}, Value: &runtimeapi.UInt64Value{Value: 5}},
		},
		ContainerMetrics: []*runtimeapi.ContainerMetrics{{ContainerId: "main"}},
	}}}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if n := strings.Count(log.String(), "left out"); n != 2 {
		t.Errorf("%d lines in the log, want one for each name:\n%s", n, &log)
	}
}

func TestUnsupported(t *testing.T) {
	none := metrics.New(nil, metrics.Functions{}, table(t), nil)
	_, descriptors := none.ListMetricDescriptors(t.Context(), nil)
	_, list := none.ListPodSandboxMetrics(t.Context(), nil)
	for _, err := range []error{descriptors, list} {
		if !errors.Is(err, fault.Unimplemented) {
			t.Errorf("got %v", err)
		}
	}
}

func TestCheck(t *testing.T) {
	good := &runtimeapi.MetricDescriptor{Name: "container_cpu:rate", LabelKeys: []string{"cpu", "_x"}}
	if err := metrics.Check([]*runtimeapi.MetricDescriptor{good}); err != nil {
		t.Error(err)
	}
	for text, bad := range map[string][]*runtimeapi.MetricDescriptor{
		"container_cpu:rate": {good, good},
		`""`:                 {nil},
		"1x":                 {{Name: "1x"}},
		"a-b":                {{Name: "x", LabelKeys: []string{"a-b"}}},
		"__name__":           {{Name: "x", LabelKeys: []string{"__name__"}}},
		`"twice"`:            {{Name: "x", LabelKeys: []string{"twice", "twice"}}},
	} {
		if err := metrics.Check(bad); !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v", text, err)
		}
	}
}
