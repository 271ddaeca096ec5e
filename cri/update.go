package cri

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri/internal/validate"
)

// UpdateContainerResources applies new limits and records them.
func (s *server) UpdateContainerResources(ctx context.Context, req *runtimeapi.UpdateContainerResourcesRequest) (*runtimeapi.UpdateContainerResourcesResponse, error) {
	if s.rt.UpdateContainer == nil {
		return nil, unimplemented("UpdateContainerResources")
	}
	if req.GetLinux() == nil {
		return nil, ErrInvalid.Errorf("the request has no linux resources")
	}
	c, err := s.table.Container(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	if err := validate.Resources("linux", req.GetLinux()); err != nil {
		return nil, err
	}
	limits := proto.Clone(req.GetLinux()).(*runtimeapi.LinuxContainerResources) // the author may change it
	err = s.alone(ctx, c.Sandbox, func(ctx context.Context) error {
		return s.limit(ctx, c, limits, func(ctx context.Context, c *Container) error { return s.rt.UpdateContainer(ctx, c, limits) })
	})
	if err != nil {
		return nil, err
	}
	return &runtimeapi.UpdateContainerResourcesResponse{}, nil
}

// UpdatePodSandboxResources passes the Pod's new limits to the author and records them in
// its config.
func (s *server) UpdatePodSandboxResources(ctx context.Context, req *runtimeapi.UpdatePodSandboxResourcesRequest) (*runtimeapi.UpdatePodSandboxResourcesResponse, error) {
	if s.rt.UpdateSandbox == nil {
		return nil, unimplemented("UpdatePodSandboxResources")
	}
	sb, err := s.table.Sandbox(req.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	if err := errors.Join(validate.Resources("overhead", req.GetOverhead()), validate.Resources("resources", req.GetResources())); err != nil {
		return nil, err
	}
	err = s.alone(ctx, sb, func(ctx context.Context) error {
		next, err := s.ready(sb.Now().ID)
		if err != nil {
			return err
		}
		err = s.guard("UpdateSandbox", func() error {
			return s.rt.UpdateSandbox(ctx, next, req.GetOverhead(), req.GetResources())
		})
		if err != nil {
			return fmt.Errorf("updating sandbox %q: %w", next.ID, err)
		}
		s.table.LimitSandbox(sb, req.GetOverhead(), req.GetResources())
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &runtimeapi.UpdatePodSandboxResourcesResponse{}, nil
}

// ReopenContainerLog tells the author that the log file has been rotated.
func (s *server) ReopenContainerLog(ctx context.Context, req *runtimeapi.ReopenContainerLogRequest) (*runtimeapi.ReopenContainerLogResponse, error) {
	if s.rt.ReopenLog == nil {
		return nil, unimplemented("ReopenContainerLog")
	}
	c, err := s.table.Container(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	err = s.alone(ctx, c.Sandbox, func(ctx context.Context) error {
		next, err := s.running(c.Now().ID)
		if err != nil {
			return err
		}
		return s.guard("ReopenLog", func() error { return s.rt.ReopenLog(ctx, next) })
	})
	if err != nil {
		return nil, err
	}
	return &runtimeapi.ReopenContainerLogResponse{}, nil
}
