package csisuite_test

import (
	"context"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// behindProxy are the drivers, mutants and odd ones, that a proxy makes of the
// good one.
var behindProxy = map[string]func(*grpc.Server, *proxy){
	"ignores the arguments of a repeated publication": func(s *grpc.Server, p *proxy) {
		spec.RegisterControllerServer(s, &controllerProxy{proxy: p})
		spec.RegisterNodeServer(s, &forgetful{nodeProxy{proxy: p}})
	},
	"odd, attaches": func(s *grpc.Server, p *proxy) {
		spec.RegisterControllerServer(s, &attachingController{controllerProxy{proxy: p}})
		spec.RegisterNodeServer(s, &attachedNode{nodeProxy{proxy: p}})
	},
	"odd, its node has no id": func(s *grpc.Server, p *proxy) {
		spec.RegisterControllerServer(s, &controllerProxy{proxy: p})
		spec.RegisterNodeServer(s, &namelessNode{nodeProxy{proxy: p}})
	},
}

// forgetful answers OK to every repeated publication.
type forgetful struct{ nodeProxy }

func (p *forgetful) NodePublishVolume(ctx context.Context, r *spec.NodePublishVolumeRequest) (*spec.NodePublishVolumeResponse, error) {
	if p.seen[r.GetTargetPath()] {
		return &spec.NodePublishVolumeResponse{}, nil
	}
	p.seen[r.GetTargetPath()] = true
	return p.nodeProxy.NodePublishVolume(ctx, r)
}

func (p *forgetful) NodeUnpublishVolume(ctx context.Context, r *spec.NodeUnpublishVolumeRequest) (*spec.NodeUnpublishVolumeResponse, error) {
	delete(p.seen, r.GetTargetPath())
	return p.nodeProxy.NodeUnpublishVolume(ctx, r)
}

// attachingController has PUBLISH_UNPUBLISH_VOLUME, and keeps a volume of
// somebody else's.
type attachingController struct{ controllerProxy }

func (p *attachingController) ControllerGetCapabilities(ctx context.Context, r *spec.ControllerGetCapabilitiesRequest) (*spec.ControllerGetCapabilitiesResponse, error) {
	resp, err := p.controllerProxy.ControllerGetCapabilities(ctx, r)
	if err == nil {
		resp.Capabilities = append(resp.Capabilities, &spec.ControllerServiceCapability{Type: &spec.ControllerServiceCapability_Rpc{
			Rpc: &spec.ControllerServiceCapability_RPC{Type: spec.ControllerServiceCapability_RPC_PUBLISH_UNPUBLISH_VOLUME},
		}})
	}
	return resp, err
}

// ListVolumes answers in pages of one.
func (p *attachingController) ListVolumes(ctx context.Context, r *spec.ListVolumesRequest) (*spec.ListVolumesResponse, error) {
	if r.GetStartingToken() == "" {
		return &spec.ListVolumesResponse{NextToken: "more", Entries: []*spec.ListVolumesResponse_Entry{{Volume: &spec.Volume{VolumeId: "another user's"}}}}, nil
	}
	return p.c.Controller.ListVolumes(ctx, &spec.ListVolumesRequest{})
}

func (p *attachingController) ControllerPublishVolume(_ context.Context, r *spec.ControllerPublishVolumeRequest) (*spec.ControllerPublishVolumeResponse, error) {
	if r.GetNodeId() != "n" {
		return nil, status.Error(codes.NotFound, "no such node")
	}
	return &spec.ControllerPublishVolumeResponse{PublishContext: map[string]string{"lun": r.GetVolumeId()}}, nil
}

func (p *attachingController) ControllerUnpublishVolume(context.Context, *spec.ControllerUnpublishVolumeRequest) (*spec.ControllerUnpublishVolumeResponse, error) {
	return &spec.ControllerUnpublishVolumeResponse{}, nil
}

// attachedNode takes only volumes that come with a publish context.
type attachedNode struct{ nodeProxy }

func attached(id string, with map[string]string) error {
	if with["lun"] != id {
		return status.Error(codes.InvalidArgument, "the volume is not attached")
	}
	return nil
}

func (p *attachedNode) NodeStageVolume(ctx context.Context, r *spec.NodeStageVolumeRequest) (*spec.NodeStageVolumeResponse, error) {
	if err := attached(r.GetVolumeId(), r.GetPublishContext()); err != nil {
		return nil, err
	}
	return p.nodeProxy.NodeStageVolume(ctx, r)
}

func (p *attachedNode) NodePublishVolume(ctx context.Context, r *spec.NodePublishVolumeRequest) (*spec.NodePublishVolumeResponse, error) {
	if err := attached(r.GetVolumeId(), r.GetPublishContext()); err != nil {
		return nil, err
	}
	return p.nodeProxy.NodePublishVolume(ctx, r)
}

// namelessNode need not say its id: the driver does not attach.
type namelessNode struct{ nodeProxy }

func (*namelessNode) NodeGetInfo(context.Context, *spec.NodeGetInfoRequest) (*spec.NodeGetInfoResponse, error) {
	return nil, status.Error(codes.Unimplemented, "no id")
}
