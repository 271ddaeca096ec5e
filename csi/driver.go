package csi

import (
	"context"
	"errors"
	"regexp"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// Driver is what the author of a CSI driver fills in. A function left nil means
// "not supported": its capability is not advertised and its RPC answers
// Unimplemented. A driver has a controller part (CreateVolume and what belongs
// to it), a node part (PublishVolume and what belongs to it), or both.
//
// Every function that changes something must be idempotent: an orchestrator
// repeats a call until it hears an answer, also across a kill of the driver at
// any instruction. The fields must not change once Serve was called.
type Driver struct {
	// Name identifies the driver: a domain name of at most 63 characters, as in
	// "hello.csi.example.com". Required.
	Name string
	// Version is the vendor's version. Required.
	Version string
	// NodeID identifies this machine to the controller part, in at most 256
	// bytes. Required with PublishVolume; Main defaults it to the host's name.
	NodeID string
	// StateDir is a directory of the SDK's own on this machine, made when
	// missing, which one process uses at a time: what was staged and published,
	// with which arguments. Empty keeps it in memory, and then the answers to
	// repeated calls are only right until the driver restarts.
	StateDir string

	// Recover is called once by Serve, before any other function and when no
	// other process has StateDir: it finishes or removes what an earlier process
	// left half done. Its error ends Serve. nil has nothing to do.
	Recover func(context.Context) error
	// Probe returns nil when the driver is healthy, ErrNotReady while it is still
	// starting, and anything else when it cannot work. nil is always ready.
	Probe func(context.Context) error
	// Supports says whether volumes of this driver can be used in this way; its
	// error says why not and reaches the user. It is asked about each requested
	// capability, the driver's functions see only supported ones. nil accepts
	// mounted volumes (not block devices) with any SINGLE_NODE access mode, any
	// FSType and any MountFlags: a driver that does not heed these refuses them
	// here, or users get another file system than they asked for and are not told.
	Supports func(Capability) error

	// CreateVolume makes a volume and returns it (CSI v1.13 CreateVolume). The
	// same name with compatible arguments returns the same volume, with
	// incompatible ones ErrAlreadyExists; a size that cannot be is ErrOutOfRange.
	CreateVolume func(context.Context, *CreateRequest) (*Volume, error)
	// DeleteVolume deletes a volume and its data. A volume that does not exist,
	// whatever its id looks like, is success. The SDK has refused a volume that is
	// staged or published through this process.
	DeleteVolume func(context.Context, *DeleteRequest) error
	// GetVolume returns an existing volume or ErrNotFound. Required with
	// CreateVolume: ValidateVolumeCapabilities is answered from it.
	GetVolume func(ctx context.Context, id string) (*Volume, error)
	// ListVolumes returns every volume, in any order; the SDK pages.
	ListVolumes func(context.Context) ([]*Volume, error)
	// GetCapacity returns how many bytes can still be given to volumes made with
	// these parameters.
	GetCapacity func(context.Context, *CapacityRequest) (int64, error)

	// StageVolume makes the volume usable on this machine, once for all its
	// targets, by mounting it at the existing directory StagingPath. Leave it nil
	// when there is nothing to do before PublishVolume.
	StageVolume func(context.Context, *StageRequest) error
	// UnstageVolume is the inverse. A volume that is unknown or not staged is
	// success when nothing is left at the path.
	UnstageVolume func(context.Context, *UnstageRequest) error
	// PublishVolume makes the volume appear at TargetPath, whose parent exists;
	// the driver makes the target itself.
	PublishVolume func(context.Context, *PublishRequest) error
	// UnpublishVolume takes the volume away from TargetPath and removes the target.
	// A target or volume that is unknown is success.
	UnpublishVolume func(context.Context, *UnpublishRequest) error
	// GetVolumeStats reports the use of a published volume, ErrNotFound when it
	// does not exist or is not at the path. It must not block on a dead backend.
	GetVolumeStats func(context.Context, *StatsRequest) (*Stats, error)
}

// ErrNotReady is what Probe returns while the driver is still starting.
var ErrNotReady = fault.Unavailable.Errorf("the driver is still starting")

var nameGrammar = regexp.MustCompile(`^[a-zA-Z0-9]([-a-zA-Z0-9.]{0,61}[a-zA-Z0-9])?$`)

// Validate returns every contradiction of the driver, joined, each with the
// kind ErrInvalid. Serve calls it.
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

// severalWriters reports whether the two access modes that replace
// SINGLE_NODE_WRITER are both supported. The SDK keeps their tables, so the
// driver has nothing more to do for them.
func (d *Driver) severalWriters() bool {
	return d.supports(Capability{Access: SingleNodeMultiWriter}) == nil &&
		d.supports(Capability{Access: SingleNodeSingleWriter}) == nil
}
