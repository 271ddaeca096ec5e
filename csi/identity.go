package csi

import (
	"context"
	"errors"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/nodekit-project/nodekit/internal/fault"
)

type identityServer struct {
	spec.UnimplementedIdentityServer
	driver *Driver
}

func (s *identityServer) GetPluginInfo(context.Context, *spec.GetPluginInfoRequest) (*spec.GetPluginInfoResponse, error) {
	return &spec.GetPluginInfoResponse{Name: s.driver.Name, VendorVersion: s.driver.Version}, nil
}

func (s *identityServer) GetPluginCapabilities(context.Context, *spec.GetPluginCapabilitiesRequest) (*spec.GetPluginCapabilitiesResponse, error) {
	resp := &spec.GetPluginCapabilitiesResponse{}
	if s.driver.hasController() {
		resp.Capabilities = append(resp.Capabilities, &spec.PluginCapability{Type: &spec.PluginCapability_Service_{
			Service: &spec.PluginCapability_Service{Type: spec.PluginCapability_Service_CONTROLLER_SERVICE},
		}})
	}
	return resp, nil
}

// Probe reports not-ready as OK with ready=false, and unhealthy as FAILED_PRECONDITION:
// orchestrators treat the two differently.
func (s *identityServer) Probe(ctx context.Context, _ *spec.ProbeRequest) (*spec.ProbeResponse, error) {
	var err error
	if s.driver.Probe != nil {
		err = s.driver.Probe(ctx)
	}
	switch {
	case errors.Is(err, ErrNotReady):
		return &spec.ProbeResponse{Ready: wrapperspb.Bool(false)}, nil
	case err != nil:
		return nil, fault.FailedPrecondition.Errorf("driver %q is not healthy: %w", s.driver.Name, err)
	}
	return &spec.ProbeResponse{Ready: wrapperspb.Bool(true)}, nil
}

// controllerTypes and nodeTypes are the only places where functions become
// capabilities.
func (d *Driver) controllerTypes() []spec.ControllerServiceCapability_RPC_Type {
	var types []spec.ControllerServiceCapability_RPC_Type
	for _, c := range []struct {
		on bool
		is spec.ControllerServiceCapability_RPC_Type
	}{
		{d.CreateVolume != nil, spec.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME},
		{d.ListVolumes != nil, spec.ControllerServiceCapability_RPC_LIST_VOLUMES},
		{d.GetCapacity != nil, spec.ControllerServiceCapability_RPC_GET_CAPACITY},
		{d.severalWriters(), spec.ControllerServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER},
	} {
		if c.on {
			types = append(types, c.is)
		}
	}
	return types
}

func (d *Driver) nodeTypes() []spec.NodeServiceCapability_RPC_Type {
	var types []spec.NodeServiceCapability_RPC_Type
	for _, c := range []struct {
		on bool
		is spec.NodeServiceCapability_RPC_Type
	}{
		{d.StageVolume != nil, spec.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME},
		{d.GetVolumeStats != nil, spec.NodeServiceCapability_RPC_GET_VOLUME_STATS},
		{d.severalWriters(), spec.NodeServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER},
	} {
		if c.on {
			types = append(types, c.is)
		}
	}
	return types
}
