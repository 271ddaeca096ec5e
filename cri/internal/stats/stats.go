// Package stats answers the CRI's questions about the usage of containers
// (cri-api v0.37): of one, or of all that a filter matches. Figures come from
// the runtime's author; the package asks for them, not too many at once, and
// says whose they are.
//
// A Reporter is safe for concurrent use.
package stats

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri/internal/state"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// atOnce bounds the author's calls of one list.
const atOnce = 16

// Function asks the author for one container's usage.
type Function func(context.Context, *state.Container) (*runtimeapi.ContainerStats, error)

// Reporter answers the calls of the RuntimeService about usage. NewReporter makes
// it.
type Reporter struct {
	ask   Function
	table *state.Table
	log   *slog.Logger
}

// NewReporter returns a reporter of the table's containers. With a nil function
// every call is Unimplemented.
func NewReporter(ask Function, table *state.Table, log *slog.Logger) *Reporter {
	return &Reporter{ask: ask, table: table, log: log}
}

// ContainerStats asks the author for one container's usage.
func (s *Reporter) ContainerStats(ctx context.Context, req *runtimeapi.ContainerStatsRequest) (*runtimeapi.ContainerStatsResponse, error) {
	if s.ask == nil {
		return nil, unsupported("ContainerStats")
	}
	c, err := s.table.Container(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	st, err := s.stats(ctx, c)
	if err != nil {
		return nil, err
	}
	return &runtimeapi.ContainerStatsResponse{Stats: st}, nil
}

func (s *Reporter) stats(ctx context.Context, c *state.Container) (*runtimeapi.ContainerStats, error) {
	now := c.Now()
	st, err := s.ask(ctx, c)
	if err == nil && st == nil {
		err = fault.NotFound.Errorf("the runtime has none")
	}
	if err != nil {
		return nil, fmt.Errorf("stats of container %q: %w", now.ID, err)
	}
	if st.Attributes == nil {
		st.Attributes = &runtimeapi.ContainerAttributes{
			Id: now.ID, Metadata: now.Config.GetMetadata(),
			Labels: now.Config.GetLabels(), Annotations: now.Config.GetAnnotations(),
		}
	}
	return st, nil
}

// ListContainerStats answers for every running container that the filter
// matches and that is still there when it is asked, in no order.
func (s *Reporter) ListContainerStats(ctx context.Context, req *runtimeapi.ListContainerStatsRequest) (*runtimeapi.ListContainerStatsResponse, error) {
	all, err := s.list(ctx, req.GetFilter())
	if err != nil {
		return nil, err
	}
	return &runtimeapi.ListContainerStatsResponse{Stats: all}, nil
}

// StreamContainerStats sends what ListContainerStats answers, in pieces.
func (s *Reporter) StreamContainerStats(req *runtimeapi.StreamContainerStatsRequest, stream grpc.ServerStreamingServer[runtimeapi.StreamContainerStatsResponse]) error {
	all, err := s.list(stream.Context(), req.GetFilter())
	if err != nil {
		return err
	}
	return state.InChunks(all, func(part []*runtimeapi.ContainerStats) error {
		return stream.Send(&runtimeapi.StreamContainerStatsResponse{ContainerStats: part})
	})
}

func (s *Reporter) list(ctx context.Context, f *runtimeapi.ContainerStatsFilter) ([]*runtimeapi.ContainerStats, error) {
	if s.ask == nil {
		return nil, unsupported("ListContainerStats")
	}
	var mu sync.Mutex
	var all []*runtimeapi.ContainerStats
	var g errgroup.Group
	g.SetLimit(atOnce)
	for _, c := range s.table.Running(f) {
		g.Go(func() error {
			st, err := s.stats(ctx, c)
			if err != nil {
				s.log.DebugContext(ctx, "container left out of the stats", "err", err)
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, st)
			return nil
		})
	}
	return all, g.Wait()
}

func unsupported(what string) error {
	return fault.Unimplemented.Errorf("%s: this runtime does not support it", what)
}
