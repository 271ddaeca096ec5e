package volume

import (
	"context"
	"errors"
	"fmt"

	v1 "k8s.io/api/core/v1"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// mountClaim mounts the volume of a PersistentVolumeClaim. If the claim has none, the
// volume is created and bound first.
func (m *Manager) mountClaim(ctx context.Context, p *v1.Pod, s *v1.Volume) (pod.Volume, error) {
	ref := s.PersistentVolumeClaim
	pv, err := m.bind(ctx, p.Namespace, ref.ClaimName)
	if err != nil {
		return pod.Volume{}, err
	}
	return m.mountPersistent(ctx, p, pv, ref.ReadOnly)
}

// bind returns the PersistentVolume of the claim.
func (m *Manager) bind(ctx context.Context, namespace, name string) (*v1.PersistentVolume, error) {
	unlock, err := m.claims.lock(ctx, namespace+"/"+name)
	if err != nil {
		return nil, err
	}
	defer unlock()
	claim, err := m.claim(ctx, namespace, name)
	if err != nil {
		return nil, err
	}
	if claim == nil {
		return nil, wait(nil, "PersistentVolumeClaim %q in namespace %q: create it", name, namespace)
	}
	if err := supportedClaim(claim); err != nil {
		return nil, err
	}
	if claim.Spec.VolumeName == "" {
		return m.provision(ctx, claim)
	}
	pv := &v1.PersistentVolume{}
	err = m.objects.Get(ctx, "", claim.Spec.VolumeName, pv)
	if errors.Is(err, fault.NotFound) {
		if claim.Spec.VolumeName == volumeName(claim) { // provisioned here: its record has everything
			return m.provision(ctx, claim)
		}
		return nil, wait(nil, "PersistentVolume %q, to which PersistentVolumeClaim %q is bound: create it", claim.Spec.VolumeName, name)
	}
	if err != nil {
		return nil, fmt.Errorf("reading PersistentVolume %q: %w", claim.Spec.VolumeName, err)
	}
	return pv, m.adopt(ctx, claim, pv)
}

// claim returns the claim, or nil if it does not exist.
func (m *Manager) claim(ctx context.Context, namespace, name string) (*v1.PersistentVolumeClaim, error) {
	claim := &v1.PersistentVolumeClaim{}
	err := m.objects.Get(ctx, namespace, name, claim)
	if errors.Is(err, fault.NotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading PersistentVolumeClaim %q: %w", name, err)
	}
	return claim, nil
}

func supportedClaim(c *v1.PersistentVolumeClaim) error {
	switch {
	case c.DeletionTimestamp != nil:
		return wait(nil, "PersistentVolumeClaim %q to be created again: it is being deleted", c.Name)
	case c.Spec.VolumeMode != nil && *c.Spec.VolumeMode == v1.PersistentVolumeBlock:
		return refuse("PersistentVolumeClaim %q has volumeMode Block, which is not supported yet", c.Name)
	case c.Spec.DataSource != nil || c.Spec.DataSourceRef != nil:
		return refuse("PersistentVolumeClaim %q has a dataSource, which is not supported yet", c.Name)
	case c.Spec.Selector != nil:
		return refuse("PersistentVolumeClaim %q has a selector, which is not supported: name the volume in volumeName", c.Name)
	case c.Spec.VolumeAttributesClassName != nil:
		return refuse("PersistentVolumeClaim %q has a volumeAttributesClassName, which is not supported yet", c.Name)
	}
	return nil
}

// adopt completes, on both sides, the binding of a claim that names its volume.
func (m *Manager) adopt(ctx context.Context, claim *v1.PersistentVolumeClaim, pv *v1.PersistentVolume) error {
	want := claimRef(claim)
	if have := pv.Spec.ClaimRef; have != nil {
		if have.Namespace != want.Namespace || have.Name != want.Name || have.UID != "" && have.UID != want.UID {
			return wait(nil, "PersistentVolume %q, which is bound to PersistentVolumeClaim %s/%s: free it, or name another in volumeName", pv.Name, have.Namespace, have.Name)
		}
	}
	if pv.Spec.ClaimRef == nil || pv.Spec.ClaimRef.UID != want.UID || pv.Status.Phase != v1.VolumeBound {
		pv.Spec.ClaimRef, pv.Status.Phase = want, v1.VolumeBound
		if err := m.objects.Update(ctx, pv); err != nil {
			return fmt.Errorf("binding PersistentVolume %q: %w", pv.Name, err)
		}
	}
	if claim.Status.Phase == v1.ClaimBound && claim.Spec.VolumeName == pv.Name {
		return nil
	}
	claim.Spec.VolumeName = pv.Name
	claim.Status.Phase, claim.Status.AccessModes, claim.Status.Capacity = v1.ClaimBound, pv.Spec.AccessModes, pv.Spec.Capacity
	if err := m.objects.Update(ctx, claim); err != nil {
		return fmt.Errorf("binding PersistentVolumeClaim %q: %w", claim.Name, err)
	}
	return nil
}

func claimRef(c *v1.PersistentVolumeClaim) *v1.ObjectReference {
	return &v1.ObjectReference{APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: c.Namespace, Name: c.Name, UID: c.UID}
}

// volumeName returns the name under which the claim's volume is provisioned. A claim
// without UID, in a store that assigns none, is identified by its name.
func volumeName(c *v1.PersistentVolumeClaim) string {
	if c.UID == "" {
		return "pvc-" + hash(c.Namespace + "/" + c.Name)[:32]
	}
	return "pvc-" + string(c.UID)
}
