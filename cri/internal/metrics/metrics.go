// Package metrics serves the CRI calls about time series of Pods and containers (cri-api
// v0.37). The runtime's author has the values; the package asks for them, with limited
// concurrency, and checks them against the descriptors, because a kubelet fails a whole
// scrape over one bad sample.
//
// A Collector is safe for concurrent use.
package metrics

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri/internal/state"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// atOnce bounds the concurrent calls to the author in one scrape.
const atOnce = 16

// Sample is a cri.Sample, which documents it.
type Sample struct {
	Name   string
	Labels map[string]string
	Value  uint64
	Gauge  bool
	At     time.Time
}

// Functions ask the author for the samples of one sandbox or container. Either
// may be nil.
type Functions struct {
	Sandbox   func(context.Context, *state.Sandbox) ([]Sample, error)
	Container func(context.Context, *state.Container) ([]Sample, error)
}

// Collector serves the RuntimeService calls about metrics. New creates it.
type Collector struct {
	descriptors []*runtimeapi.MetricDescriptor
	keys        map[string][]string // label keys of a name
	ask         Functions
	table       *state.Table
	log         *slog.Logger

	mu     sync.Mutex
	warned map[string]bool // names of samples that were left out and logged
}

// New returns a collector of the table's sandboxes. The descriptors must have passed
// Check. If they are nil, every call is Unimplemented.
func New(descriptors []*runtimeapi.MetricDescriptor, ask Functions, table *state.Table, log *slog.Logger) *Collector {
	c := &Collector{descriptors: descriptors, keys: map[string][]string{}, ask: ask, table: table, log: log, warned: map[string]bool{}}
	for _, d := range descriptors {
		c.keys[d.GetName()] = d.GetLabelKeys()
	}
	return c
}

// ListMetricDescriptors returns all descriptors, always the same.
func (c *Collector) ListMetricDescriptors(context.Context, *runtimeapi.ListMetricDescriptorsRequest) (*runtimeapi.ListMetricDescriptorsResponse, error) {
	if c.descriptors == nil {
		return nil, unsupported("ListMetricDescriptors")
	}
	return &runtimeapi.ListMetricDescriptorsResponse{Descriptors: c.descriptors}, nil
}

// ListPodSandboxMetrics returns the metrics of every ready sandbox, in no order.
func (c *Collector) ListPodSandboxMetrics(ctx context.Context, _ *runtimeapi.ListPodSandboxMetricsRequest) (*runtimeapi.ListPodSandboxMetricsResponse, error) {
	if c.descriptors == nil {
		return nil, unsupported("ListPodSandboxMetrics")
	}
	return &runtimeapi.ListPodSandboxMetricsResponse{PodMetrics: c.collect(ctx)}, nil
}

// StreamPodSandboxMetrics sends the result of ListPodSandboxMetrics in pieces.
func (c *Collector) StreamPodSandboxMetrics(
	_ *runtimeapi.StreamPodSandboxMetricsRequest, stream grpc.ServerStreamingServer[runtimeapi.StreamPodSandboxMetricsResponse],
) error {
	if c.descriptors == nil {
		return unsupported("StreamPodSandboxMetrics")
	}
	return state.InChunks(c.collect(stream.Context()), func(part []*runtimeapi.PodSandboxMetrics) error {
		return stream.Send(&runtimeapi.StreamPodSandboxMetricsResponse{PodSandboxMetrics: part})
	})
}

func (c *Collector) collect(ctx context.Context) []*runtimeapi.PodSandboxMetrics {
	ready := c.table.Ready(nil)
	all := make([]*runtimeapi.PodSandboxMetrics, len(ready))
	var g errgroup.Group
	g.SetLimit(atOnce)
	for i, s := range ready {
		g.Go(func() error {
			all[i] = c.pod(ctx, s)
			return nil
		})
	}
	_ = g.Wait() // the functions return nil
	return all
}

func (c *Collector) pod(ctx context.Context, s *state.Sandbox) *runtimeapi.PodSandboxMetrics {
	id := s.Now().ID
	pod := &runtimeapi.PodSandboxMetrics{PodSandboxId: id}
	pod.Metrics = c.samples(ctx, "sandbox "+id, func() ([]Sample, error) {
		if c.ask.Sandbox == nil {
			return nil, nil
		}
		return c.ask.Sandbox(ctx, s)
	})
	for _, one := range c.table.Running(&runtimeapi.ContainerStatsFilter{PodSandboxId: id}) {
		if c.ask.Container == nil {
			break
		}
		pod.ContainerMetrics = append(pod.ContainerMetrics, &runtimeapi.ContainerMetrics{
			ContainerId: one.Now().ID,
			Metrics: c.samples(ctx, "container "+one.Now().ID, func() ([]Sample, error) {
				return c.ask.Container(ctx, one)
			}),
		})
	}
	return pod
}

// samples returns the valid samples that ask returns.
func (c *Collector) samples(ctx context.Context, of string, ask func() ([]Sample, error)) []*runtimeapi.Metric {
	all, err := ask()
	if err != nil {
		c.log.DebugContext(ctx, "left out of the metrics", "of", of, "err", err)
		return nil
	}
	seen := map[string]bool{}
	var good []*runtimeapi.Metric
	for _, s := range all {
		values, err := c.values(s, seen)
		if err != nil {
			c.warn(ctx, s.Name, of, err)
			continue
		}
		m := &runtimeapi.Metric{Name: s.Name, LabelValues: values, Value: &runtimeapi.UInt64Value{Value: s.Value}}
		if s.Gauge {
			m.MetricType = runtimeapi.MetricType_GAUGE
		}
		if !s.At.IsZero() {
			m.Timestamp = s.At.UnixNano()
		}
		good = append(good, m)
	}
	return good
}

func unsupported(what string) error {
	return fault.Unimplemented.Errorf("%s: this runtime does not support it", what)
}
