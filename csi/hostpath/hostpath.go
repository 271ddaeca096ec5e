// Package hostpath is the reference CSI driver. Its volumes are directories of the
// machine that it runs on. It uses only the SDK's own parts (csi, csi/store,
// csi/mount), and shows what remains for an author to write.
//
// Volumes survive a restart and a kill -9 of the driver at any instruction. They exist
// only on the driver's node, so it is for single machines: development, tests, edge. A
// volume's size is recorded and reported, but not yet enforced. Snapshots, expansion
// and block devices are not supported and not advertised.
package hostpath

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/csi"
	"github.com/nodekit-project/nodekit/csi/store"
	"github.com/nodekit-project/nodekit/internal/atomicfile"
	internalmount "github.com/nodekit-project/nodekit/internal/mount"
)

// DefaultName is the driver's name if Config does not set one.
const DefaultName = "hostpath.csi.nodekit.dev"

// Version is the version that the driver reports.
const Version = "0.1.0"

// Config configures New.
type Config struct {
	Name   string // empty means DefaultName
	NodeID string // required
	// StateDir holds the volumes and their records. Required; one process may
	// use it at a time.
	StateDir string
	Logger   *slog.Logger // nil discards
}

type driver struct {
	name    string
	dir     string // of the volumes' data
	volumes *store.Store
}

// New returns the driver, to be passed to csi.Serve. It does not touch the file system.
func New(c Config) (*csi.Driver, error) {
	if c.Name == "" {
		c.Name = DefaultName
	}
	if c.StateDir == "" || c.NodeID == "" {
		return nil, csi.ErrInvalid.Errorf("hostpath: StateDir and NodeID are required")
	}
	d := &driver{name: c.Name, dir: filepath.Join(c.StateDir, "data")}
	volumes := store.New(filepath.Join(c.StateDir, "volumes"), store.Backend{Make: d.make, Remove: d.remove}, &store.Options{Logger: c.Logger})
	d.volumes = volumes
	return &csi.Driver{
		Name: c.Name, Version: Version, NodeID: c.NodeID, StateDir: c.StateDir,
		Recover: d.recover, Supports: d.supports,
		CreateVolume: volumes.Create, DeleteVolume: volumes.Delete, GetVolume: volumes.Get, ListVolumes: volumes.List,
		GetCapacity: d.capacity,
		StageVolume: d.stage, UnstageVolume: d.unstage, PublishVolume: d.publish, UnpublishVolume: d.unpublish,
		GetVolumeStats: d.stats,
	}, nil
}

func (d *driver) recover(ctx context.Context) error {
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		return err
	}
	return d.volumes.Recover(ctx)
}

// supports accepts every access mode, because the driver has only one node.
func (d *driver) supports(c csi.Capability) error {
	switch {
	case c.Block:
		return csi.ErrInvalid.Errorf("driver %q has no block volumes", d.name)
	case c.FSType != "":
		return csi.ErrInvalid.Errorf("driver %q makes directories and cannot give them the file system %q", d.name, c.FSType)
	case len(c.MountFlags) > 0:
		return csi.ErrInvalid.Errorf("driver %q supports no mount options", d.name)
	}
	return nil
}

// make, remove and path are the whole backend. The data directories are in one that
// only root can enter, because a user may change the mode of a volume.
func (d *driver) make(_ context.Context, v *store.Volume) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(d.dir, &fs); err != nil {
		return fmt.Errorf("looking at %q: %w", d.dir, err)
	}
	if total := int64(fs.Blocks) * int64(fs.Bsize); v.Capacity > total {
		return csi.ErrOutOfRange.Errorf("%d bytes are more than the whole file system of %q has, which is %d", v.Capacity, d.dir, total)
	}
	if err := os.MkdirAll(d.path(v.ID), 0o700); err != nil {
		return err
	}
	if err := os.Chmod(d.path(v.ID), 0o777); err != nil { // whatever the umask is
		return err
	}
	return atomicfile.SyncDir(d.dir)
}

func (d *driver) remove(_ context.Context, v *store.Volume) error {
	return internalmount.RemoveAll(d.path(v.ID))
}

func (d *driver) path(id string) string { return filepath.Join(d.dir, id) }

func (d *driver) capacity(context.Context, *csi.CapacityRequest) (int64, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(d.dir, &fs); err != nil {
		return 0, fmt.Errorf("looking at %q: %w", d.dir, err)
	}
	return int64(fs.Bavail) * int64(fs.Bsize), nil
}
