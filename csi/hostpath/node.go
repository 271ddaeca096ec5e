package hostpath

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/csi"
	"github.com/nodekit-project/nodekit/csi/mount"
)

func (d *driver) stage(_ context.Context, r *csi.StageRequest) error {
	if _, err := d.volumes.Find(r.VolumeID); err != nil {
		return err
	}
	return mount.Stage(d.path(r.VolumeID), r.StagingPath)
}

func (d *driver) unstage(_ context.Context, r *csi.UnstageRequest) error {
	return mount.Unstage(r.StagingPath)
}

// publish bind-mounts the staged volume, so a target always comes from what
// NodeStageVolume prepared. It creates ephemeral volumes here; they are never staged.
func (d *driver) publish(ctx context.Context, r *csi.PublishRequest) error {
	if r.Ephemeral() {
		if err := d.volumes.MakeEphemeral(ctx, r.VolumeID); err != nil {
			return err
		}
		return mount.Publish(d.path(r.VolumeID), r.TargetPath, r.ReadOnly)
	}
	if _, err := d.volumes.Find(r.VolumeID); err != nil {
		return err
	}
	staged, err := mount.Shows(d.path(r.VolumeID), r.StagingPath)
	if err != nil {
		return err
	}
	if !staged {
		return csi.ErrFailedPrecondition.Errorf("volume %q is not staged at %q", r.VolumeID, r.StagingPath)
	}
	return mount.Publish(r.StagingPath, r.TargetPath, r.ReadOnly || r.Capability.Access.ReadOnly())
}

func (d *driver) unpublish(ctx context.Context, r *csi.UnpublishRequest) error {
	if err := mount.Unpublish(r.TargetPath); err != nil {
		return err
	}
	return d.volumes.RemoveEphemeral(ctx, r.VolumeID)
}

// stats reports the recorded size as the total, because the user was given that. The
// available bytes are the rest of it, or what the file system has left if that is less.
func (d *driver) stats(_ context.Context, r *csi.StatsRequest) (*csi.Stats, error) {
	v, err := d.volumes.Find(r.VolumeID)
	if err != nil {
		return nil, err
	}
	shown, err := mount.Shows(d.path(r.VolumeID), r.VolumePath)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return nil, err
	}
	if !shown {
		return nil, csi.ErrNotFound.Errorf("volume %q is not at %q", r.VolumeID, r.VolumePath)
	}
	used, err := usage(d.path(r.VolumeID))
	if err != nil {
		return nil, fmt.Errorf("measuring volume %q: %w", r.VolumeID, err)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(d.dir, &fs); err != nil {
		return nil, fmt.Errorf("looking at %q: %w", d.dir, err)
	}
	free := int64(fs.Bavail) * int64(fs.Bsize)
	return &csi.Stats{
		TotalBytes: v.Capacity, UsedBytes: used.bytes, AvailableBytes: max(0, min(free, v.Capacity-used.bytes)),
		TotalInodes: used.inodes + int64(fs.Ffree), UsedInodes: used.inodes, AvailableInodes: int64(fs.Ffree),
	}, nil
}
