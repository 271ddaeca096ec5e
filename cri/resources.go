package cri

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// statsAtOnce bounds the Runtime.Stats calls of one list.
const statsAtOnce = 16

// UpdateContainerResources applies new limits and records them.
func (s *server) UpdateContainerResources(ctx context.Context, req *runtimeapi.UpdateContainerResourcesRequest) (*runtimeapi.UpdateContainerResourcesResponse, error) {
	if s.rt.UpdateContainer == nil {
		return nil, unimplemented("UpdateContainerResources")
	}
	if req.GetLinux() == nil {
		return nil, ErrInvalid.Errorf("the request has no linux resources")
	}
	c, err := s.mustContainer(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	err = s.exclusive(ctx, c.sandbox, func(ctx context.Context) error { return s.updateContainer(ctx, c, req.GetLinux()) })
	if err != nil {
		return nil, err
	}
	return &runtimeapi.UpdateContainerResourcesResponse{}, nil
}

func (s *server) updateContainer(ctx context.Context, c *container, res *runtimeapi.LinuxContainerResources) error {
	next := c.copy()
	if next.Exit != nil {
		return ErrFailedPrecondition.Errorf("container %q: it has ended", next.ID)
	}
	if err := s.guard("UpdateContainer", func() error { return s.rt.UpdateContainer(ctx, next, res) }); err != nil {
		return fmt.Errorf("updating container %q: %w", next.ID, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	changed := *c.cur.Load() // it may have ended meanwhile
	changed.Config = updated(changed.Config, res)
	s.logged(ctx, "writing the record of an updated container", s.records.putContainer(&changed, live), "container", changed.ID)
	c.cur.Store(&changed)
	return nil
}

// ReopenContainerLog tells the author that the log file was rotated away.
func (s *server) ReopenContainerLog(ctx context.Context, req *runtimeapi.ReopenContainerLogRequest) (*runtimeapi.ReopenContainerLogResponse, error) {
	if s.rt.ReopenLog == nil {
		return nil, unimplemented("ReopenContainerLog")
	}
	c, err := s.mustContainer(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	err = s.exclusive(ctx, c.sandbox, func(ctx context.Context) error {
		next := c.copy()
		if !next.Running() {
			return ErrFailedPrecondition.Errorf("container %q: it is not running", next.ID)
		}
		return s.guard("ReopenLog", func() error { return s.rt.ReopenLog(ctx, next) })
	})
	if err != nil {
		return nil, err
	}
	return &runtimeapi.ReopenContainerLogResponse{}, nil
}

// ContainerStats asks the author for one container's usage.
func (s *server) ContainerStats(ctx context.Context, req *runtimeapi.ContainerStatsRequest) (*runtimeapi.ContainerStatsResponse, error) {
	if s.rt.Stats == nil {
		return nil, unimplemented("ContainerStats")
	}
	c, err := s.mustContainer(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	st, err := s.stats(ctx, c.copy())
	if err != nil {
		return nil, err
	}
	return &runtimeapi.ContainerStatsResponse{Stats: st}, nil
}

func (s *server) stats(ctx context.Context, c *Container) (st *runtimeapi.ContainerStats, err error) {
	err = s.guard("Stats", func() (err error) {
		st, err = s.rt.Stats(podContext(ctx, c.Sandbox), c)
		return err
	})
	if err == nil && st == nil {
		err = ErrNotFound.Errorf("the runtime has none")
	}
	if err != nil {
		return nil, fmt.Errorf("stats of container %q: %w", c.ID, err)
	}
	if st.Attributes == nil {
		st.Attributes = &runtimeapi.ContainerAttributes{
			Id: c.ID, Metadata: c.Config.GetMetadata(),
			Labels: c.Config.GetLabels(), Annotations: c.Config.GetAnnotations(),
		}
	}
	return st, nil
}

// ListContainerStats answers for every running container that the filter
// matches and that is still there when it is asked.
func (s *server) ListContainerStats(ctx context.Context, req *runtimeapi.ListContainerStatsRequest) (*runtimeapi.ListContainerStatsResponse, error) {
	all, err := s.listStats(ctx, req.GetFilter())
	if err != nil {
		return nil, err
	}
	return &runtimeapi.ListContainerStatsResponse{Stats: all}, nil
}

// StreamContainerStats sends what ListContainerStats answers, in pieces.
func (s *server) StreamContainerStats(req *runtimeapi.StreamContainerStatsRequest, stream grpc.ServerStreamingServer[runtimeapi.StreamContainerStatsResponse]) error {
	all, err := s.listStats(stream.Context(), req.GetFilter())
	if err != nil {
		return err
	}
	return inChunks(all, func(part []*runtimeapi.ContainerStats) error {
		return stream.Send(&runtimeapi.StreamContainerStatsResponse{ContainerStats: part})
	})
}

func (s *server) listStats(ctx context.Context, f *runtimeapi.ContainerStatsFilter) ([]*runtimeapi.ContainerStats, error) {
	if s.rt.Stats == nil {
		return nil, unimplemented("ListContainerStats")
	}
	var mu sync.Mutex
	var all []*runtimeapi.ContainerStats
	var g errgroup.Group
	g.SetLimit(statsAtOnce)
	for _, c := range s.index.allContainers() {
		if !c.Running() || !wantStats(f, c) {
			continue
		}
		g.Go(func() error {
			st, err := s.stats(ctx, c)
			if err != nil {
				s.log.DebugContext(ctx, "container left out of the stats", "container", c.ID, "err", err)
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

func wantStats(f *runtimeapi.ContainerStatsFilter, c *Container) bool {
	return strings.HasPrefix(c.ID, f.GetId()) && strings.HasPrefix(c.Sandbox.ID, f.GetPodSandboxId()) &&
		matches(c.Config.GetLabels(), f.GetLabelSelector())
}
