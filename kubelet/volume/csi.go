package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/nodekit-project/nodekit/csi/client"
	"github.com/nodekit-project/nodekit/internal/atomicfile"
	"github.com/nodekit-project/nodekit/internal/bootid"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/mount"
	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// csiVolume is one CSI volume of one Pod, with all arguments for the driver.
type csiVolume struct {
	record
	dir          string // the Pod's directory for it
	use          client.Use
	stageSecrets map[string]string
	readOnly     bool
	republish    bool // CSIDriver.requiresRepublish
	ownership    bool // the kubelet applies fsGroup
}

// republishEvery is how often a volume is published again for a driver that updates its
// contents that way (CSIDriver.requiresRepublish).
const republishEvery = time.Minute

func (v *csiVolume) target() string { return filepath.Join(v.dir, "mount") }

// mountCSI brings the volume from whatever state is recorded on disk to published.
func (m *Manager) mountCSI(ctx context.Context, p *v1.Pod, v *csiVolume) (pod.Volume, error) {
	ready := pod.Volume{HostPath: v.target(), ReadOnly: v.readOnly, Relabel: !v.readOnly}
	if v.republish {
		ready.Refresh = republishEvery
	}
	unlock, err := m.volumes.lock(ctx, v.key())
	if err != nil {
		return ready, err
	}
	defer unlock()
	boot, err := bootid.Read()
	if err != nil {
		return ready, err
	}
	old, err := readRecord(v.dir)
	if err != nil {
		return ready, err
	}
	if old != nil && old.DoneInBoot == boot && !v.republish {
		return ready, nil
	}
	d, err := m.drivers.get(v.Driver)
	if err != nil {
		return ready, err
	}
	if d.stages() && v.Lifecycle == persistent {
		v.Staging = filepath.Join(m.root.staged(v.Driver, v.Handle), "globalmount")
	}
	if old == nil || old.Staging != v.Staging {
		if err := v.write(v.dir); err != nil {
			return ready, err
		}
	}
	if err := m.stage(ctx, d, v, boot); err != nil {
		return ready, err
	}
	v.use.StagingPath = v.Staging
	if err := d.NodePublish(ctx, v.use, v.target(), v.readOnly); err != nil {
		return ready, fmt.Errorf("publishing it with driver %q: %w", v.Driver, err)
	}
	if first := old == nil || old.DoneInBoot != boot; first && v.ownership {
		if err := own(v.target(), p); err != nil {
			return ready, err
		}
	}
	v.DoneInBoot = boot
	return ready, v.write(v.dir)
}

// stage calls NodeStageVolume unless it has succeeded in this boot. The Pod's record
// names the staging path already, so a crash here loses nothing.
func (m *Manager) stage(ctx context.Context, d *driver, v *csiVolume, boot string) error {
	if v.Staging == "" {
		return nil
	}
	dir := filepath.Dir(v.Staging)
	done, err := readRecord(dir)
	if err != nil {
		return err
	}
	if done != nil && done.DoneInBoot == boot {
		return nil
	}
	if err := makeDurable(v.Staging); err != nil {
		return err
	}
	use := v.use
	use.StagingPath, use.Secrets = v.Staging, v.stageSecrets
	if err := d.NodeStage(ctx, use); err != nil {
		return fmt.Errorf("staging it with driver %q: %w", v.Driver, err)
	}
	staged := v.record
	staged.DoneInBoot = boot
	return staged.write(dir)
}

// unmountCSI undoes mountCSI, from the record in dir.
func (m *Manager) unmountCSI(ctx context.Context, dir string) error {
	r, err := readRecord(dir)
	if err != nil {
		return err
	}
	if r == nil { // a crash before the first record: no driver was called
		return mount.RemoveAll(dir)
	}
	unlock, err := m.volumes.lock(ctx, r.key())
	if err != nil {
		return err
	}
	defer unlock()
	d, err := m.drivers.get(r.Driver)
	if err != nil {
		return err
	}
	target := filepath.Join(dir, "mount")
	if err := m.unpublished(dir, r); err != nil {
		return err
	}
	if err := d.NodeUnpublish(ctx, r.Handle, target); err != nil {
		return fmt.Errorf("unpublishing it from %q with driver %q: %w%s", target, r.Driver, err, busy(err))
	}
	if on, err := mount.IsMountPoint(target); err != nil || on {
		return notUndone(err, "driver %q answered NodeUnpublishVolume with OK, and %q is still mounted: mend the driver, or free it by hand (umount %[2]s)", r.Driver, target)
	}
	users, err := m.root.users(r.Driver, r.Handle)
	if err != nil {
		return err
	}
	if r.Staging != "" && len(users) == 1 { // this Pod's own record
		if err := m.unstage(ctx, d, r); err != nil {
			return err
		}
	}
	if err := removeTarget(target); err != nil {
		return err
	}
	if err := atomicfile.Remove(filepath.Join(dir, recordFile)); err != nil {
		return err
	}
	return mount.RemoveAll(dir)
}

// unpublished removes the mark of success before the volume is unpublished, so that a
// Mount after a crash in between publishes again.
func (m *Manager) unpublished(dir string, r *record) error {
	if r.DoneInBoot == "" {
		return nil
	}
	r.DoneInBoot = ""
	return r.write(dir)
}

// unstage undoes stage for a volume that is no longer used.
func (m *Manager) unstage(ctx context.Context, d *driver, r *record) error {
	dir := filepath.Dir(r.Staging)
	if err := atomicfile.Remove(filepath.Join(dir, recordFile)); err != nil {
		return err
	}
	if err := d.NodeUnstage(ctx, r.Handle, r.Staging); err != nil {
		return fmt.Errorf("unstaging it from %q with driver %q: %w%s", r.Staging, r.Driver, err, busy(err))
	}
	if on, err := mount.IsMountPoint(r.Staging); err != nil || on {
		return notUndone(err, "driver %q answered NodeUnstageVolume with OK, and %q is still mounted: mend the driver, or free it by hand (umount %[2]s)", r.Driver, r.Staging)
	}
	if err := mount.RemoveAll(dir); err != nil {
		return err
	}
	os.Remove(filepath.Dir(dir)) // the driver's directory: ENOTEMPTY is normal
	return nil
}

// busy explains what to do about a driver call that never ends and makes other calls
// for the volume fail (ABORTED).
func busy(err error) string {
	if errors.Is(err, fault.Aborted) {
		return " (an earlier call for the volume goes on; where it hangs, end the driver and start it again)"
	}
	return ""
}

func notUndone(err error, format string, args ...any) error {
	if err != nil {
		return err
	}
	return fmt.Errorf(format, args...)
}

// removeTarget removes a target that the driver should have removed, but only if it is
// empty: anything else may be data.
func removeTarget(target string) error {
	if err := os.Remove(target); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("removing what the driver left at the target: %w", err)
	}
	return nil
}
