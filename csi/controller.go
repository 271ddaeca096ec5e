package csi

import (
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"

	spec "github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/nodekit-project/nodekit/internal/fault"
)

type controllerServer struct {
	spec.UnimplementedControllerServer
	*core
}

func (s *controllerServer) ControllerGetCapabilities(context.Context, *spec.ControllerGetCapabilitiesRequest) (*spec.ControllerGetCapabilitiesResponse, error) {
	resp := &spec.ControllerGetCapabilitiesResponse{}
	for _, t := range s.driver.controllerTypes() {
		resp.Capabilities = append(resp.Capabilities, &spec.ControllerServiceCapability{Type: &spec.ControllerServiceCapability_Rpc{
			Rpc: &spec.ControllerServiceCapability_RPC{Type: t},
		}})
	}
	return resp, nil
}

func (s *controllerServer) CreateVolume(ctx context.Context, in *spec.CreateVolumeRequest) (*spec.CreateVolumeResponse, error) {
	var c checks
	c.field("name", in.GetName(), maxString)
	req := &CreateRequest{
		Name: in.GetName(), Capabilities: c.capabilities(in.GetVolumeCapabilities()),
		Required: in.GetCapacityRange().GetRequiredBytes(), Limit: in.GetCapacityRange().GetLimitBytes(),
		Parameters: in.GetParameters(), Secrets: in.GetSecrets(),
	}
	c.dict("parameters", req.Parameters)
	c.dict("secrets", req.Secrets)
	if req.Required < 0 || req.Limit < 0 || req.Limit > 0 && req.Required > req.Limit {
		c.fail("capacity_range %d to %d is not a range", req.Required, req.Limit)
	}
	if in.GetVolumeContentSource() != nil {
		c.fail("volume_content_source is not supported: the driver has no snapshots and no clones")
	}
	if len(in.GetMutableParameters()) > 0 {
		c.fail("mutable_parameters are not supported: MODIFY_VOLUME was not advertised")
	}
	for _, want := range req.Capabilities {
		if err := s.driver.supports(want); err != nil {
			c.fail("volume_capabilities: %w", err)
		}
	}
	if c.err != nil {
		return nil, c.err
	}
	var out *spec.Volume
	err := s.change(ctx, func(ctx context.Context) error {
		v, err := s.driver.CreateVolume(ctx, req)
		if err == nil {
			out, err = volumeOut(v)
		}
		if err == nil {
			err = within(v, req.Required, req.Limit)
		}
		return err
	}, onName(req.Name))
	if err != nil {
		return nil, err
	}
	return &spec.CreateVolumeResponse{Volume: out}, nil
}

func (s *controllerServer) DeleteVolume(ctx context.Context, in *spec.DeleteVolumeRequest) (*spec.DeleteVolumeResponse, error) {
	var c checks
	c.field("volume_id", in.GetVolumeId(), 0) // any other id means a volume that does not exist
	c.dict("secrets", in.GetSecrets())
	if c.err != nil {
		return nil, c.err
	}
	id := in.GetVolumeId()
	err := s.change(ctx, func(ctx context.Context) error {
		if where := s.uses.where(id); where != "" {
			return fault.FailedPrecondition.Errorf("volume %q is in use at %q", id, where)
		}
		return s.driver.DeleteVolume(ctx, &DeleteRequest{VolumeID: id, Secrets: in.GetSecrets()})
	}, onVolume(id))
	if err != nil {
		return nil, err
	}
	return &spec.DeleteVolumeResponse{}, nil
}

func (s *controllerServer) ValidateVolumeCapabilities(ctx context.Context, in *spec.ValidateVolumeCapabilitiesRequest) (*spec.ValidateVolumeCapabilitiesResponse, error) {
	var c checks
	c.field("volume_id", in.GetVolumeId(), 0)
	wanted := c.capabilities(in.GetVolumeCapabilities())
	if c.err != nil {
		return nil, c.err
	}
	v, err := s.driver.GetVolume(ctx, in.GetVolumeId())
	if err != nil {
		return nil, err
	}
	if _, err := volumeOut(v); err != nil {
		return nil, err
	}
	for key, value := range v.Context { // "MUST match the volume_context of the volume"; an orchestrator may add to it
		if got, ok := in.GetVolumeContext()[key]; ok && got != value {
			return &spec.ValidateVolumeCapabilitiesResponse{Message: fmt.Sprintf("volume_context %q is not that of volume %q", key, v.ID)}, nil
		}
	}
	for _, w := range wanted {
		if err := s.driver.supports(w); err != nil {
			return &spec.ValidateVolumeCapabilitiesResponse{Message: err.Error()}, nil
		}
	}
	// The driver was not asked about the parameters, so they are not confirmed.
	return &spec.ValidateVolumeCapabilitiesResponse{Confirmed: &spec.ValidateVolumeCapabilitiesResponse_Confirmed{
		VolumeContext: in.GetVolumeContext(), VolumeCapabilities: in.GetVolumeCapabilities(),
	}}, nil
}

func (s *controllerServer) GetCapacity(ctx context.Context, in *spec.GetCapacityRequest) (*spec.GetCapacityResponse, error) {
	if s.driver.GetCapacity == nil {
		return s.UnimplementedControllerServer.GetCapacity(ctx, in)
	}
	var c checks
	req := &CapacityRequest{Parameters: in.GetParameters()}
	for _, p := range in.GetVolumeCapabilities() {
		req.Capabilities = append(req.Capabilities, c.capability(p))
	}
	if c.err != nil {
		return nil, c.err
	}
	for _, want := range req.Capabilities {
		if s.driver.supports(want) != nil {
			return &spec.GetCapacityResponse{}, nil // no capacity for unsupported volumes
		}
	}
	n, err := s.driver.GetCapacity(ctx, req)
	if err != nil {
		return nil, err
	}
	return &spec.GetCapacityResponse{AvailableCapacity: max(n, 0)}, nil
}

// tokenPrefix makes a foreign token recognizable.
const tokenPrefix = "after:"

func (s *controllerServer) ListVolumes(ctx context.Context, in *spec.ListVolumesRequest) (*spec.ListVolumesResponse, error) {
	if s.driver.ListVolumes == nil {
		return s.UnimplementedControllerServer.ListVolumes(ctx, in)
	}
	if in.GetMaxEntries() < 0 {
		return nil, fault.Invalid.Errorf("max_entries %d is negative", in.GetMaxEntries())
	}
	after, err := parseToken(in.GetStartingToken())
	if err != nil {
		return nil, err
	}
	all, err := s.driver.ListVolumes(ctx)
	if err != nil {
		return nil, err
	}
	resp := &spec.ListVolumesResponse{}
	for _, v := range page(all, after) {
		out, err := volumeOut(v)
		if err != nil {
			return nil, err
		}
		if n := len(resp.Entries); in.GetMaxEntries() > 0 && n == int(in.GetMaxEntries()) {
			resp.NextToken = base64.RawURLEncoding.EncodeToString([]byte(tokenPrefix + resp.Entries[n-1].Volume.VolumeId))
			break
		}
		resp.Entries = append(resp.Entries, &spec.ListVolumesResponse_Entry{Volume: out})
	}
	return resp, nil
}

// parseToken returns the id after which a listing continues. A token names an id, not a
// position, so it stays valid when volumes are created or deleted.
func parseToken(token string) (after string, err error) {
	if token == "" {
		return "", nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(token)
	after, ok := strings.CutPrefix(string(raw), tokenPrefix)
	if err != nil || !ok {
		return "", fault.Aborted.Errorf("starting_token %.80q was not given out by this driver", token)
	}
	return after, nil
}

// page returns the volumes after the given id, in order. Nil entries come first;
// volumeOut rejects them.
func page(all []*Volume, after string) []*Volume {
	id := func(v *Volume) string {
		if v == nil {
			return ""
		}
		return v.ID
	}
	list := slices.DeleteFunc(slices.Clone(all), func(v *Volume) bool { return after != "" && id(v) <= after })
	slices.SortFunc(list, func(a, b *Volume) int { return strings.Compare(id(a), id(b)) })
	return list
}
