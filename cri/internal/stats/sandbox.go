package stats

import (
	"context"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri/internal/state"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// PodSandboxStats asks the author for one sandbox's usage. The sandbox must be ready.
func (s *Reporter) PodSandboxStats(ctx context.Context, req *runtimeapi.PodSandboxStatsRequest) (*runtimeapi.PodSandboxStatsResponse, error) {
	if s.ask.Sandbox == nil {
		return nil, unsupported("PodSandboxStats")
	}
	sb, err := s.table.Sandbox(req.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	if !sb.Now().Ready {
		return nil, fault.FailedPrecondition.Errorf("sandbox %q: it is stopped", sb.Now().ID)
	}
	st, err := s.sandboxStats(ctx, sb)
	if err != nil {
		return nil, err
	}
	return &runtimeapi.PodSandboxStatsResponse{Stats: st}, nil
}

// ListPodSandboxStats returns the stats of every ready sandbox that the filter matches
// and that still exists when the author is asked, in no order.
func (s *Reporter) ListPodSandboxStats(ctx context.Context, req *runtimeapi.ListPodSandboxStatsRequest) (*runtimeapi.ListPodSandboxStatsResponse, error) {
	all, err := s.listSandboxes(ctx, req.GetFilter())
	if err != nil {
		return nil, err
	}
	return &runtimeapi.ListPodSandboxStatsResponse{Stats: all}, nil
}

// StreamPodSandboxStats sends the result of ListPodSandboxStats in pieces.
func (s *Reporter) StreamPodSandboxStats(
	req *runtimeapi.StreamPodSandboxStatsRequest, stream grpc.ServerStreamingServer[runtimeapi.StreamPodSandboxStatsResponse],
) error {
	all, err := s.listSandboxes(stream.Context(), req.GetFilter())
	if err != nil {
		return err
	}
	return state.InChunks(all, func(part []*runtimeapi.PodSandboxStats) error {
		return stream.Send(&runtimeapi.StreamPodSandboxStatsResponse{PodSandboxStats: part})
	})
}

func (s *Reporter) listSandboxes(ctx context.Context, f *runtimeapi.PodSandboxStatsFilter) ([]*runtimeapi.PodSandboxStats, error) {
	if s.ask.Sandbox == nil {
		return nil, unsupported("ListPodSandboxStats")
	}
	return each(ctx, s.log, s.table.Ready(f), s.sandboxStats), nil
}

func (s *Reporter) sandboxStats(ctx context.Context, sb *state.Sandbox) (*runtimeapi.PodSandboxStats, error) {
	now := sb.Now()
	st, err := s.ask.Sandbox(ctx, sb)
	if err == nil && st == nil {
		err = fault.NotFound.Errorf("the runtime has none")
	}
	if err != nil {
		return nil, fmt.Errorf("stats of sandbox %q: %w", now.ID, err)
	}
	if s.ask.Container != nil {
		st = proto.CloneOf(st) // as above
		running := s.table.Running(&runtimeapi.ContainerStatsFilter{PodSandboxId: now.ID})
		st.Containers = each(ctx, s.log, running, s.stats)
	}
	return &runtimeapi.PodSandboxStats{
		Attributes: &runtimeapi.PodSandboxAttributes{
			Id: now.ID, Metadata: now.Config.GetMetadata(),
			Labels: now.Config.GetLabels(), Annotations: now.Config.GetAnnotations(),
		},
		Linux: st,
	}, nil
}
