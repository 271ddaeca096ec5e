package volume

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"

	"github.com/nodekit-project/nodekit/csi/client"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// The values of record.Lifecycle.
const (
	persistent = "Persistent"
	ephemeral  = "Ephemeral"
)

// mountInline mounts a CSI ephemeral volume, which has the lifetime of the Pod.
func (m *Manager) mountInline(ctx context.Context, p *v1.Pod, s *v1.Volume) (pod.Volume, error) {
	src := s.CSI
	opts, err := m.driverOptions(ctx, src.Driver)
	if err != nil {
		return pod.Volume{}, err
	}
	if opts.declared && !slices.Contains(opts.lifecycles, storagev1.VolumeLifecycleEphemeral) {
		return pod.Volume{}, refuse("CSIDriver %q does not list Ephemeral in volumeLifecycleModes: its volumes need a PersistentVolumeClaim", src.Driver)
	}
	v := &csiVolume{
		record:   record{Version: recordVersion, Driver: src.Driver, Handle: "csi-" + hash(string(p.UID)+s.Name), SpecName: s.Name, Node: m.node, Lifecycle: ephemeral},
		dir:      m.root.volume(p.UID, pluginCSI, s.Name),
		readOnly: isTrue(src.ReadOnly), republish: opts.republish,
	}
	access := client.Access{Mode: spec.VolumeCapability_AccessMode_SINGLE_NODE_WRITER}
	if src.FSType != nil {
		access.FSType = *src.FSType
	}
	v.use = client.Use{VolumeID: v.Handle, Access: access, Context: opts.context(p, src.VolumeAttributes, ephemeral)}
	v.ownership = opts.owns(v)
	if ref := src.NodePublishSecretRef; ref != nil {
		if v.use.Secrets, err = m.credentials(ctx, p.Namespace, ref.Name); err != nil {
			return pod.Volume{}, err
		}
	}
	return m.mountCSI(ctx, p, v)
}

// mountPersistent mounts the PersistentVolume that a claim is bound to.
func (m *Manager) mountPersistent(ctx context.Context, p *v1.Pod, pv *v1.PersistentVolume, readOnly bool) (pod.Volume, error) {
	src := pv.Spec.CSI
	if src == nil {
		return pod.Volume{}, refuse("PersistentVolume %q is not a CSI volume, and no other kind is supported", pv.Name)
	}
	opts, err := m.driverOptions(ctx, src.Driver)
	if err != nil {
		return pod.Volume{}, err
	}
	v := &csiVolume{
		record:   record{Version: recordVersion, Driver: src.Driver, Handle: src.VolumeHandle, SpecName: pv.Name, Node: m.node, Lifecycle: persistent},
		dir:      m.root.volume(p.UID, pluginCSI, pv.Name),
		readOnly: readOnly || src.ReadOnly, republish: opts.republish,
	}
	d, err := m.drivers.get(src.Driver)
	if err != nil {
		// A volume that is already published does not need its driver.
		if old, readErr := readRecord(v.dir); readErr != nil || old == nil || old.DoneInBoot == "" {
			return pod.Volume{}, err
		}
	}
	v.use = client.Use{
		VolumeID: v.Handle,
		Access:   client.Access{Mode: accessMode(pv.Spec.AccessModes, d), FSType: src.FSType, MountFlags: pv.Spec.MountOptions},
		Context:  opts.context(p, src.VolumeAttributes, persistent),
	}
	v.ownership = opts.owns(v)
	if ref := src.NodePublishSecretRef; ref != nil {
		if v.use.Secrets, err = m.credentials(ctx, ref.Namespace, ref.Name); err != nil {
			return pod.Volume{}, err
		}
	}
	if ref := src.NodeStageSecretRef; ref != nil {
		if v.stageSecrets, err = m.credentials(ctx, ref.Namespace, ref.Name); err != nil {
			return pod.Volume{}, err
		}
	}
	return m.mountCSI(ctx, p, v)
}

func (m *Manager) credentials(ctx context.Context, namespace, name string) (map[string]string, error) {
	var s v1.Secret
	err := m.objects.Get(ctx, namespace, name, &s)
	if errors.Is(err, fault.NotFound) {
		return nil, wait(nil, "Secret %q in namespace %q, which the volume's driver needs: create it", name, namespace)
	}
	if err != nil {
		return nil, fmt.Errorf("reading Secret %q: %w", name, err)
	}
	out := map[string]string{}
	for k, v := range secretData(&s) {
		out[k] = string(v)
	}
	return out, nil
}

// accessMode returns the first of the claim's access modes, mapped as in the kubelet.
// ReadWriteOnce is about nodes, not Pods, which can be expressed only to a driver with
// SINGLE_NODE_MULTI_WRITER.
func accessMode(modes []v1.PersistentVolumeAccessMode, d *driver) spec.VolumeCapability_AccessMode_Mode {
	precise := d != nil && d.info.NodeCan(spec.NodeServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER)
	first := v1.ReadWriteOnce
	if len(modes) > 0 {
		first = modes[0]
	}
	switch {
	case first == v1.ReadOnlyMany:
		return spec.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY
	case first == v1.ReadWriteMany:
		return spec.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER
	case first == v1.ReadWriteOncePod && precise:
		return spec.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER
	case first == v1.ReadWriteOnce && precise:
		return spec.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER
	}
	return spec.VolumeCapability_AccessMode_SINGLE_NODE_WRITER
}

// driverOptions are the settings of a CSIDriver object. Without one they are
// Kubernetes' defaults, except that inline volumes get the Pod's identity: otherwise a
// driver could not distinguish them from others.
type driverOptions struct {
	declared   bool
	podInfo    bool
	republish  bool
	lifecycles []storagev1.VolumeLifecycleMode
	ownership  storagev1.FSGroupPolicy
}

func (m *Manager) driverOptions(ctx context.Context, name string) (driverOptions, error) {
	o := driverOptions{ownership: storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy}
	var d storagev1.CSIDriver
	err := m.objects.Get(ctx, "", name, &d)
	if errors.Is(err, fault.NotFound) {
		return o, nil
	}
	if err != nil {
		return o, fmt.Errorf("reading CSIDriver %q: %w", name, err)
	}
	if len(d.Spec.TokenRequests) > 0 {
		return o, refuse("CSIDriver %q has tokenRequests: service account tokens are not supported yet", name)
	}
	if reg, err := m.drivers.get(name); err == nil && !isFalse(d.Spec.AttachRequired) &&
		reg.info.Can(spec.ControllerServiceCapability_RPC_PUBLISH_UNPUBLISH_VOLUME) {
		return o, refuse("driver %q must attach its volumes, which is not supported yet: set attachRequired: false in its CSIDriver if it can do without", name)
	}
	o.declared, o.podInfo, o.republish = true, isTrue(d.Spec.PodInfoOnMount), isTrue(d.Spec.RequiresRepublish)
	o.lifecycles = d.Spec.VolumeLifecycleModes
	if d.Spec.FSGroupPolicy != nil {
		o.ownership = *d.Spec.FSGroupPolicy
	}
	return o, nil
}

// context returns the volume's attributes, with the Pod's identity if the driver wants
// it.
func (o driverOptions) context(p *v1.Pod, attributes map[string]string, lifecycle string) map[string]string {
	out := map[string]string{}
	for k, v := range attributes {
		out[k] = v
	}
	if o.podInfo || !o.declared && lifecycle == ephemeral {
		out["csi.storage.k8s.io/pod.name"] = p.Name
		out["csi.storage.k8s.io/pod.namespace"] = p.Namespace
		out["csi.storage.k8s.io/pod.uid"] = string(p.UID)
		out["csi.storage.k8s.io/serviceAccount.name"] = p.Spec.ServiceAccountName
		out["csi.storage.k8s.io/ephemeral"] = strconv.FormatBool(lifecycle == ephemeral)
	}
	return out
}

// owns reports whether the kubelet applies the Pod's fsGroup to the volume.
func (o driverOptions) owns(v *csiVolume) bool {
	if v.readOnly {
		return false
	}
	switch o.ownership {
	case storagev1.NoneFSGroupPolicy:
		return false
	case storagev1.FileFSGroupPolicy:
		return true
	}
	single := v.use.Access.Mode != spec.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER &&
		v.use.Access.Mode != spec.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY
	return v.use.Access.FSType != "" && single
}

func isFalse(b *bool) bool { return b != nil && !*b }
