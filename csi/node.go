package csi

import (
	"context"

	spec "github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/nodekit-project/nodekit/internal/fault"
)

type nodeServer struct {
	spec.UnimplementedNodeServer
	*core
}

func (s *nodeServer) NodeGetInfo(context.Context, *spec.NodeGetInfoRequest) (*spec.NodeGetInfoResponse, error) {
	return &spec.NodeGetInfoResponse{NodeId: s.driver.NodeID}, nil
}

func (s *nodeServer) NodeGetCapabilities(context.Context, *spec.NodeGetCapabilitiesRequest) (*spec.NodeGetCapabilitiesResponse, error) {
	resp := &spec.NodeGetCapabilitiesResponse{}
	for _, t := range s.driver.nodeTypes() {
		resp.Capabilities = append(resp.Capabilities, &spec.NodeServiceCapability{Type: &spec.NodeServiceCapability_Rpc{
			Rpc: &spec.NodeServiceCapability_RPC{Type: t},
		}})
	}
	return resp, nil
}

func (s *nodeServer) NodeStageVolume(ctx context.Context, in *spec.NodeStageVolumeRequest) (*spec.NodeStageVolumeResponse, error) {
	if s.driver.StageVolume == nil {
		return s.UnimplementedNodeServer.NodeStageVolume(ctx, in)
	}
	var c checks
	c.field("volume_id", in.GetVolumeId(), maxString)
	c.path("staging_target_path", in.GetStagingTargetPath())
	req := &StageRequest{
		VolumeID: in.GetVolumeId(), StagingPath: in.GetStagingTargetPath(), Capability: c.capability(in.GetVolumeCapability()),
		Context: in.GetVolumeContext(), Secrets: in.GetSecrets(),
	}
	c.dict("volume_context", req.Context)
	c.dict("secrets", req.Secrets)
	if c.err != nil {
		return nil, c.err
	}
	if err := s.driver.supports(req.Capability); err != nil {
		return nil, fault.FailedPrecondition.Errorf("volume_capability: %w", err)
	}
	err := s.change(ctx, func(ctx context.Context) error {
		if err := s.uses.stage(req); err != nil {
			return err
		}
		return s.driver.StageVolume(ctx, req)
	}, onVolume(req.VolumeID))
	if err != nil {
		return nil, err
	}
	return &spec.NodeStageVolumeResponse{}, nil
}

func (s *nodeServer) NodeUnstageVolume(ctx context.Context, in *spec.NodeUnstageVolumeRequest) (*spec.NodeUnstageVolumeResponse, error) {
	if s.driver.UnstageVolume == nil {
		return s.UnimplementedNodeServer.NodeUnstageVolume(ctx, in)
	}
	var c checks
	c.field("volume_id", in.GetVolumeId(), maxString)
	c.path("staging_target_path", in.GetStagingTargetPath())
	if c.err != nil {
		return nil, c.err
	}
	req := &UnstageRequest{VolumeID: in.GetVolumeId(), StagingPath: in.GetStagingTargetPath()}
	err := s.change(ctx, func(ctx context.Context) error {
		if err := s.driver.UnstageVolume(ctx, req); err != nil {
			return err
		}
		return s.uses.unstaged(req.VolumeID, req.StagingPath)
	}, onVolume(req.VolumeID))
	if err != nil {
		return nil, err
	}
	return &spec.NodeUnstageVolumeResponse{}, nil
}

func (s *nodeServer) NodePublishVolume(ctx context.Context, in *spec.NodePublishVolumeRequest) (*spec.NodePublishVolumeResponse, error) {
	var c checks
	c.field("volume_id", in.GetVolumeId(), maxString)
	c.path("target_path", in.GetTargetPath())
	req := &PublishRequest{
		VolumeID: in.GetVolumeId(), StagingPath: in.GetStagingTargetPath(), TargetPath: in.GetTargetPath(),
		ReadOnly: in.GetReadonly(), Capability: c.capability(in.GetVolumeCapability()),
		Context: in.GetVolumeContext(), Secrets: in.GetSecrets(),
	}
	if req.StagingPath != "" {
		c.path("staging_target_path", req.StagingPath)
	}
	c.dict("volume_context", req.Context)
	c.dict("secrets", req.Secrets)
	if c.err != nil {
		return nil, c.err
	}
	if s.driver.StageVolume != nil && req.StagingPath == "" && !req.Ephemeral() {
		return nil, fault.FailedPrecondition.Errorf("staging_target_path is not set, and the driver has STAGE_UNSTAGE_VOLUME")
	}
	if err := s.driver.supports(req.Capability); err != nil {
		return nil, fault.FailedPrecondition.Errorf("volume_capability: %w", err)
	}
	err := s.change(ctx, func(ctx context.Context) error {
		if err := s.uses.publish(req); err != nil {
			return err
		}
		return s.driver.PublishVolume(ctx, req)
	}, withinVolume(req.VolumeID), onTarget(req.TargetPath))
	if err != nil {
		return nil, err
	}
	return &spec.NodePublishVolumeResponse{}, nil
}

func (s *nodeServer) NodeUnpublishVolume(ctx context.Context, in *spec.NodeUnpublishVolumeRequest) (*spec.NodeUnpublishVolumeResponse, error) {
	var c checks
	c.field("volume_id", in.GetVolumeId(), maxString)
	c.path("target_path", in.GetTargetPath())
	if c.err != nil {
		return nil, c.err
	}
	req := &UnpublishRequest{VolumeID: in.GetVolumeId(), TargetPath: in.GetTargetPath()}
	err := s.change(ctx, func(ctx context.Context) error {
		if err := s.driver.UnpublishVolume(ctx, req); err != nil {
			return err
		}
		return s.uses.unpublished(req.VolumeID, req.TargetPath)
	}, withinVolume(req.VolumeID), onTarget(req.TargetPath))
	if err != nil {
		return nil, err
	}
	return &spec.NodeUnpublishVolumeResponse{}, nil
}

// NodeGetVolumeStats accepts any path. The volume cannot be at one that is not
// absolute, and the driver answers NOT_FOUND.
func (s *nodeServer) NodeGetVolumeStats(ctx context.Context, in *spec.NodeGetVolumeStatsRequest) (*spec.NodeGetVolumeStatsResponse, error) {
	if s.driver.GetVolumeStats == nil {
		return s.UnimplementedNodeServer.NodeGetVolumeStats(ctx, in)
	}
	var c checks
	c.field("volume_id", in.GetVolumeId(), 0)
	c.field("volume_path", in.GetVolumePath(), 0)
	if c.err != nil {
		return nil, c.err
	}
	st, err := s.driver.GetVolumeStats(ctx, &StatsRequest{
		VolumeID: in.GetVolumeId(), VolumePath: in.GetVolumePath(), StagingPath: in.GetStagingTargetPath(),
	})
	if err != nil {
		return nil, err
	}
	if st == nil {
		return nil, fault.Internal.Errorf("the driver returned no statistics of volume %q", in.GetVolumeId())
	}
	usage := []*spec.VolumeUsage{{Unit: spec.VolumeUsage_BYTES, Total: st.TotalBytes, Used: st.UsedBytes, Available: st.AvailableBytes}}
	if st.TotalInodes > 0 {
		usage = append(usage, &spec.VolumeUsage{Unit: spec.VolumeUsage_INODES, Total: st.TotalInodes, Used: st.UsedInodes, Available: st.AvailableInodes})
	}
	return &spec.NodeGetVolumeStatsResponse{Usage: usage}, nil
}
