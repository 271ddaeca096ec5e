// Package stats serves the CRI calls about the usage of containers and sandboxes (cri-api
// v0.37): of one, or of all that a filter matches. The values come from the runtime's
// author; the package asks for them, with limited concurrency, adds the attributes of
// their objects, and includes those of containers in their sandbox's.
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
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri/internal/state"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// atOnce bounds the concurrent calls to the author for one list.
const atOnce = 16

// Functions ask the author for the usage of one container or sandbox. Calls that need a
// nil function are Unimplemented.
type Functions struct {
	Container func(context.Context, *state.Container) (*runtimeapi.ContainerStats, error)
	// Sandbox does not include the containers.
	Sandbox func(context.Context, *state.Sandbox) (*runtimeapi.LinuxPodSandboxStats, error)
}

// Reporter serves the RuntimeService calls about usage. NewReporter creates it.
type Reporter struct {
	ask   Functions
	table *state.Table
	log   *slog.Logger
}

// NewReporter returns a reporter for the objects in the table.
func NewReporter(ask Functions, table *state.Table, log *slog.Logger) *Reporter {
	return &Reporter{ask: ask, table: table, log: log}
}

// ContainerStats asks the author for one container's usage.
func (s *Reporter) ContainerStats(ctx context.Context, req *runtimeapi.ContainerStatsRequest) (*runtimeapi.ContainerStatsResponse, error) {
	if s.ask.Container == nil {
		return nil, unsupported("ContainerStats")
	}
	c, err := s.table.Container(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	if !c.Now().Running() {
		return nil, fault.FailedPrecondition.Errorf("container %q: it is not running", c.Now().ID)
	}
	st, err := s.stats(ctx, c)
	if err != nil {
		return nil, err
	}
	return &runtimeapi.ContainerStatsResponse{Stats: st}, nil
}

func (s *Reporter) stats(ctx context.Context, c *state.Container) (*runtimeapi.ContainerStats, error) {
	now := c.Now()
	st, err := s.ask.Container(ctx, c)
	if err == nil && st == nil {
		err = fault.NotFound.Errorf("the runtime has none")
	}
	if err != nil {
		return nil, fmt.Errorf("stats of container %q: %w", now.ID, err)
	}
	if st.Attributes == nil {
		st = proto.CloneOf(st) // it belongs to the author, who may return it again
		st.Attributes = &runtimeapi.ContainerAttributes{
			Id: now.ID, Metadata: now.Config.GetMetadata(),
			Labels: now.Config.GetLabels(), Annotations: now.Config.GetAnnotations(),
		}
	}
	return st, nil
}

// ListContainerStats returns the stats of every running container that the filter matches
// and that still exists when the author is asked, in no order.
func (s *Reporter) ListContainerStats(ctx context.Context, req *runtimeapi.ListContainerStatsRequest) (*runtimeapi.ListContainerStatsResponse, error) {
	all, err := s.list(ctx, req.GetFilter())
	if err != nil {
		return nil, err
	}
	return &runtimeapi.ListContainerStatsResponse{Stats: all}, nil
}

// StreamContainerStats sends the result of ListContainerStats in pieces.
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
	if s.ask.Container == nil {
		return nil, unsupported("ListContainerStats")
	}
	return each(ctx, s.log, s.table.Running(f), s.stats), nil
}

// each asks about all of them, some concurrently. What fails is left out: it was removed
// meanwhile, or the error is logged.
func each[Of, Answer any](ctx context.Context, log *slog.Logger, about []Of, ask func(context.Context, Of) (Answer, error)) []Answer {
	var mu sync.Mutex
	var all []Answer
	var g errgroup.Group
	g.SetLimit(atOnce)
	for _, one := range about {
		g.Go(func() error {
			st, err := ask(ctx, one)
			if err != nil {
				log.DebugContext(ctx, "left out of the stats", "err", err)
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, st)
			return nil
		})
	}
	_ = g.Wait() // the functions log, and return nil
	return all
}

func unsupported(what string) error {
	return fault.Unimplemented.Errorf("%s: this runtime does not support it", what)
}
