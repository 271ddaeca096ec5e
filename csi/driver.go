package csi

import (
	"context"
	"errors"
	"regexp"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// Driver is what the author of a CSI driver fills in. A nil function means "not
// supported": its capability is not advertised and its RPC returns Unimplemented,
// unless the field's comment says otherwise. A driver has a controller part
// (CreateVolume and related functions), a node part (PublishVolume and related
// functions), or both.
//
// Every function that changes something must be idempotent: an orchestrator repeats a
// call until it gets an answer, even if the driver was killed at any instruction. The
// fields must not change after Serve has been called.
type Driver struct {
	// Name identifies the driver: a domain name of at most 63 characters, as in
	// "hello.csi.example.com". Required.
	Name string
	// Version is the vendor's version. Required.
	Version string
	// NodeID identifies this machine to the controller part, in at most 256 bytes.
	// Required with PublishVolume; Main defaults it to the host name.
	NodeID string
	// StateDir is a directory on this machine for the SDK alone, created if missing,
	// and used by one process at a time. It records what was staged and published, and
	// with which arguments. If it is empty, the records are kept in memory, and
	// repeated calls get the right answers only until the driver restarts.
	StateDir string

	// Recover is called once by Serve, before any other function and while no other
	// process uses StateDir. It finishes or removes what an earlier process left half
	// done. Its error ends Serve. Nil means that there is nothing to recover.
	Recover func(context.Context) error
	// Probe returns nil if the driver is healthy, ErrNotReady while it is still
	// starting, and any other error if it cannot work. Nil means always ready.
	Probe func(context.Context) error
	// Supports returns nil if volumes of this driver can be used in this way, and
	// otherwise an error with the reason, which reaches the user. It is called for each
	// requested capability; the driver's other functions get only supported ones. Nil
	// accepts mounted volumes (not block devices) with any SINGLE_NODE access mode, any
	// FSType and any MountFlags. A driver that ignores FSType or MountFlags must reject
	// them here; otherwise users silently get another file system than they asked for.
	Supports func(Capability) error

	// CreateVolume creates a volume and returns it (CSI v1.13 CreateVolume). For an
	// existing name it returns the same volume if the arguments are compatible, and
	// ErrAlreadyExists if they are not. An impossible size is ErrOutOfRange.
	CreateVolume func(context.Context, *CreateRequest) (*Volume, error)
	// DeleteVolume deletes a volume and its data. It succeeds for a volume that does
	// not exist, whatever its id looks like. The SDK has already rejected a volume that
	// is staged or published through this Driver.
	DeleteVolume func(context.Context, *DeleteRequest) error
	// GetVolume returns an existing volume or ErrNotFound. Required with CreateVolume,
	// because ValidateVolumeCapabilities depends on it.
	GetVolume func(ctx context.Context, id string) (*Volume, error)
	// ListVolumes returns every volume, in any order. The SDK does the paging.
	ListVolumes func(context.Context) ([]*Volume, error)
	// GetCapacity returns how many bytes are available for new volumes with these
	// parameters.
	GetCapacity func(context.Context, *CapacityRequest) (int64, error)

	// StageVolume makes the volume usable on this machine, once for all its targets, by
	// mounting it at the existing directory StagingPath. Leave it nil if PublishVolume
	// needs no preparation.
	StageVolume func(context.Context, *StageRequest) error
	// UnstageVolume is the inverse. It succeeds for a volume that is unknown or not
	// staged, if nothing is left at the path.
	UnstageVolume func(context.Context, *UnstageRequest) error
	// PublishVolume makes the volume available at TargetPath, whose parent exists. The
	// driver creates the target itself.
	PublishVolume func(context.Context, *PublishRequest) error
	// UnpublishVolume removes the volume from TargetPath and deletes the target. It
	// succeeds for an unknown target or volume.
	UnpublishVolume func(context.Context, *UnpublishRequest) error
	// GetVolumeStats reports the usage of a published volume, or ErrNotFound if the
	// volume does not exist or is not at the path. It must not block on a dead backend.
	GetVolumeStats func(context.Context, *StatsRequest) (*Stats, error)
}

// ErrNotReady is what Probe returns while the driver is still starting.
var ErrNotReady = fault.Unavailable.Errorf("the driver is still starting")

var nameGrammar = regexp.MustCompile(`^[a-zA-Z0-9]([-a-zA-Z0-9.]{0,61}[a-zA-Z0-9])?$`)

// Validate returns all contradictions in the driver, joined, each of the kind
// ErrInvalid. Serve calls it.
func (d *Driver) Validate() error {
	var errs []error
	refuse := func(broken bool, text string) {
		if broken {
			errs = append(errs, fault.Invalid.Errorf("driver %q: %s", d.Name, text))
		}
	}
	refuse(!nameGrammar.MatchString(d.Name), "Name must be a domain name of 1 to 63 letters, digits, dots and dashes")
	refuse(d.Version == "", "Version is empty")
	refuse(!d.hasController() && !d.hasNode(), "neither CreateVolume nor PublishVolume is set: there is nothing to serve")
	refuse((d.CreateVolume == nil) != (d.DeleteVolume == nil), "CreateVolume and DeleteVolume belong together")
	refuse(d.CreateVolume != nil && d.GetVolume == nil, "CreateVolume needs GetVolume, from which ValidateVolumeCapabilities is answered")
	refuse(!d.hasController() && (d.GetVolume != nil || d.ListVolumes != nil || d.GetCapacity != nil), "GetVolume, ListVolumes and GetCapacity need CreateVolume")
	refuse((d.PublishVolume == nil) != (d.UnpublishVolume == nil), "PublishVolume and UnpublishVolume belong together")
	refuse((d.StageVolume == nil) != (d.UnstageVolume == nil), "StageVolume and UnstageVolume belong together")
	refuse(!d.hasNode() && (d.StageVolume != nil || d.GetVolumeStats != nil), "StageVolume and GetVolumeStats need PublishVolume")
	refuse(d.hasNode() && d.NodeID == "", "NodeID is empty: it names this machine to the controller part")
	refuse(len(d.NodeID) > 256, "NodeID is longer than 256 bytes")
	return errors.Join(errs...)
}

func (d *Driver) hasController() bool { return d.CreateVolume != nil }

func (d *Driver) hasNode() bool { return d.PublishVolume != nil }

// supports asks the author about the capability.
func (d *Driver) supports(c Capability) error {
	if d.Supports != nil {
		return d.Supports(c)
	}
	switch {
	case c.Block:
		return fault.Invalid.Errorf("driver %q has no block volumes", d.Name)
	case !c.Access.singleNode():
		return fault.Invalid.Errorf("driver %q does not support access mode %s", d.Name, c.Access)
	}
	return nil
}

// severalWriters reports whether the driver supports both access modes that replace
// SINGLE_NODE_WRITER. The SDK implements their tables, so the driver needs nothing more
// for them.
func (d *Driver) severalWriters() bool {
	return d.supports(Capability{Access: SingleNodeMultiWriter}) == nil &&
		d.supports(Capability{Access: SingleNodeSingleWriter}) == nil
}
