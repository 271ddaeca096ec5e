package client

import (
	"context"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
)

// Access describes how a volume is used, for every call that needs it.
type Access struct {
	Mode       spec.VolumeCapability_AccessMode_Mode
	Block      bool
	FSType     string
	MountFlags []string
}

// Capability returns the message for a.
func (a Access) Capability() *spec.VolumeCapability {
	c := &spec.VolumeCapability{AccessMode: &spec.VolumeCapability_AccessMode{Mode: a.Mode}}
	if a.Block {
		c.AccessType = &spec.VolumeCapability_Block{Block: &spec.VolumeCapability_BlockVolume{}}
		return c
	}
	c.AccessType = &spec.VolumeCapability_Mount{Mount: &spec.VolumeCapability_MountVolume{FsType: a.FSType, MountFlags: a.MountFlags}}
	return c
}

// Create describes a volume to create.
type Create struct {
	Name            string // the idempotency key: the same name is the same volume
	Required, Limit int64  // bytes; 0 means no bound
	Access          []Access
	Parameters      map[string]string
	Secrets         map[string]string
}

// CreateVolume creates the volume, unless it exists, and returns it. After an Uncertain
// error the volume may exist: only another call with the same Name returns the id that
// is needed to delete it.
func (c *Client) CreateVolume(ctx context.Context, v Create) (*spec.Volume, error) {
	ctx, cancel := c.bound(ctx)
	defer cancel()
	req := &spec.CreateVolumeRequest{Name: v.Name, Parameters: v.Parameters, Secrets: v.Secrets}
	if v.Required != 0 || v.Limit != 0 {
		req.CapacityRange = &spec.CapacityRange{RequiredBytes: v.Required, LimitBytes: v.Limit}
	}
	for _, a := range v.Access {
		req.VolumeCapabilities = append(req.VolumeCapabilities, a.Capability())
	}
	resp, err := c.Controller.CreateVolume(ctx, req)
	return resp.GetVolume(), err
}

// DeleteVolume deletes the volume, which must be unstaged everywhere. It succeeds if
// the volume does not exist. Repeat it after an Uncertain error.
func (c *Client) DeleteVolume(ctx context.Context, id string, secrets map[string]string) error {
	ctx, cancel := c.bound(ctx)
	defer cancel()
	_, err := c.Controller.DeleteVolume(ctx, &spec.DeleteVolumeRequest{VolumeId: id, Secrets: secrets})
	return err
}

// ControllerPublish makes the volume available on the node, and returns the
// Use.PublishContext for NodeStage and NodePublish. A driver with
// PUBLISH_UNPUBLISH_VOLUME needs it before them. After any error ControllerUnpublish is
// allowed; after an Uncertain one it must succeed before the volume is used elsewhere.
func (c *Client) ControllerPublish(ctx context.Context, u Use, nodeID string, readOnly bool) (publishContext map[string]string, err error) {
	ctx, cancel := c.bound(ctx)
	defer cancel()
	resp, err := c.Controller.ControllerPublishVolume(ctx, &spec.ControllerPublishVolumeRequest{
		VolumeId: u.VolumeID, NodeId: nodeID, VolumeCapability: u.Access.Capability(), Readonly: readOnly,
		VolumeContext: u.Context, Secrets: u.Secrets,
	})
	return resp.GetPublishContext(), err
}

// ControllerUnpublish is the inverse. NodeUnstage and every NodeUnpublish of the volume
// on the node must have succeeded before.
func (c *Client) ControllerUnpublish(ctx context.Context, volumeID, nodeID string, secrets map[string]string) error {
	ctx, cancel := c.bound(ctx)
	defer cancel()
	_, err := c.Controller.ControllerUnpublishVolume(ctx, &spec.ControllerUnpublishVolumeRequest{VolumeId: volumeID, NodeId: nodeID, Secrets: secrets})
	return err
}

// Use describes the use of a volume on this node.
type Use struct {
	VolumeID string
	// StagingPath is the volume's only staging directory, which must exist. It is empty
	// for a driver that does not stage.
	StagingPath string
	Access      Access
	Context     map[string]string // the volume's, as CreateVolume returned it
	// PublishContext is what ControllerPublish returned; nil for a driver without
	// PUBLISH_UNPUBLISH_VOLUME.
	PublishContext map[string]string
	Secrets        map[string]string
}

// NodeStage prepares the volume on this node, once for all its targets. After
// an Uncertain error NodeUnstage must succeed before the volume is forgotten.
func (c *Client) NodeStage(ctx context.Context, u Use) error {
	ctx, cancel := c.bound(ctx)
	defer cancel()
	_, err := c.Node.NodeStageVolume(ctx, &spec.NodeStageVolumeRequest{
		VolumeId: u.VolumeID, StagingTargetPath: u.StagingPath, VolumeCapability: u.Access.Capability(),
		VolumeContext: u.Context, PublishContext: u.PublishContext, Secrets: u.Secrets,
	})
	return err
}

// NodeUnstage is the inverse. Every NodeUnpublish of the volume must have succeeded
// before.
func (c *Client) NodeUnstage(ctx context.Context, volumeID, stagingPath string) error {
	ctx, cancel := c.bound(ctx)
	defer cancel()
	_, err := c.Node.NodeUnstageVolume(ctx, &spec.NodeUnstageVolumeRequest{VolumeId: volumeID, StagingTargetPath: stagingPath})
	return err
}

// NodePublish makes the volume available at target, whose parent must exist. After any
// error NodeUnpublish is allowed; after an Uncertain one it must succeed before the
// target is forgotten.
func (c *Client) NodePublish(ctx context.Context, u Use, target string, readOnly bool) error {
	ctx, cancel := c.bound(ctx)
	defer cancel()
	_, err := c.Node.NodePublishVolume(ctx, &spec.NodePublishVolumeRequest{
		VolumeId: u.VolumeID, StagingTargetPath: u.StagingPath, TargetPath: target, Readonly: readOnly,
		VolumeCapability: u.Access.Capability(), VolumeContext: u.Context, PublishContext: u.PublishContext, Secrets: u.Secrets,
	})
	return err
}

// NodeUnpublish is the inverse. The driver removes the target.
func (c *Client) NodeUnpublish(ctx context.Context, volumeID, target string) error {
	ctx, cancel := c.bound(ctx)
	defer cancel()
	_, err := c.Node.NodeUnpublishVolume(ctx, &spec.NodeUnpublishVolumeRequest{VolumeId: volumeID, TargetPath: target})
	return err
}
