package volume

import (
	"context"
	"errors"
	"fmt"

	v1 "k8s.io/api/core/v1"

	"github.com/nodekit-project/nodekit/internal/atomicfile"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// DeleteClaim deletes the volume that was provisioned for a claim, with its data,
// unless its class says Retain, and then the PersistentVolume and the claim itself. It
// affects only the claim with that UID, and what was created for it: another claim of
// its name may have been created since. It is idempotent, needs no object to exist, and
// finishes what a crash interrupted. While a Pod has the volume, it fails with
// fault.FailedPrecondition. A *pod.WaitError names a driver that must register first.
func (m *Manager) DeleteClaim(ctx context.Context, claim *v1.PersistentVolumeClaim) error {
	unlock, err := m.claims.lock(ctx, claim.Namespace+"/"+claim.Name)
	if err != nil {
		return err
	}
	defer unlock()
	name, rec := volumeName(claim), &provisioned{}
	if err := readJSON(m.recordOf(name), rec); err != nil {
		return err
	}
	if rec.Version > recordVersion {
		return newer(m.recordOf(name), rec.Version)
	}
	if rec.Driver != "" {
		if err := m.reclaim(ctx, name, rec); err != nil {
			return fmt.Errorf("deleting PersistentVolumeClaim %q: %w", claim.Name, err)
		}
	}
	return ignoreNotFound(m.objects.Delete(ctx, claim))
}

// reclaim deletes one provisioned volume. The record is removed last.
func (m *Manager) reclaim(ctx context.Context, pvName string, rec *provisioned) error {
	unlock, err := m.volumes.lock(ctx, (&record{Driver: rec.Driver, Handle: rec.Handle}).key())
	if err != nil {
		return err
	}
	defer unlock()
	users, err := m.root.users(rec.Driver, rec.Handle)
	if err != nil {
		return err
	}
	if len(users) > 0 {
		return fault.FailedPrecondition.Errorf("its volume is in use at %q", users[0])
	}
	pv := &v1.PersistentVolume{}
	if rec.Retain {
		err := m.objects.Get(ctx, "", pvName, pv)
		if err == nil {
			pv.Status.Phase = v1.VolumeReleased
			err = m.objects.Update(ctx, pv)
		}
		return errors.Join(ignoreNotFound(err), atomicfile.Remove(m.recordOf(pvName)))
	}
	if err := m.deleteVolume(ctx, pvName, rec); err != nil {
		return err
	}
	pv.Name = pvName
	if err := ignoreNotFound(m.objects.Delete(ctx, pv)); err != nil {
		return fmt.Errorf("deleting PersistentVolume %q: %w", pvName, err)
	}
	return atomicfile.Remove(m.recordOf(pvName))
}

// deleteVolume calls DeleteVolume. If CreateVolume never answered, it repeats that call
// to learn the volume's ID.
func (m *Manager) deleteVolume(ctx context.Context, pvName string, rec *provisioned) error {
	d, err := m.drivers.get(rec.Driver)
	if err != nil {
		return err
	}
	if err := m.create(ctx, pvName, rec); err != nil {
		return err
	}
	secrets, err := m.secretRef(ctx, rec.Secret)
	if err != nil {
		return err
	}
	if err := d.DeleteVolume(ctx, rec.Handle, secrets); err != nil {
		return fmt.Errorf("deleting volume %q with driver %q: %w", rec.Handle, rec.Driver, err)
	}
	return nil
}

func ignoreNotFound(err error) error {
	if errors.Is(err, fault.NotFound) {
		return nil
	}
	return err
}
