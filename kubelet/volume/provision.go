package volume

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodekit-project/nodekit/csi/client"
	"github.com/nodekit-project/nodekit/internal/atomicfile"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// provisioned is the record of a dynamically provisioned volume, the file
// <root>/claims/<PersistentVolume>.json. It exists from before CreateVolume until after
// DeleteVolume, and holds everything that DeleteVolume needs, even if the objects are
// gone.
type provisioned struct {
	Version   int    `json:"version"`
	Namespace string `json:"namespace"`
	Claim     string `json:"claim"`
	Driver    string `json:"driver"`
	// Create is the request, kept to repeat it exactly. It refers to its secrets.
	Create  client.Create       `json:"create"`
	Secret  *v1.SecretReference `json:"secret,omitempty"`
	Publish *v1.SecretReference `json:"publishSecret,omitempty"`
	Stage   *v1.SecretReference `json:"stageSecret,omitempty"`
	Class   string              `json:"class,omitempty"`
	Mounts  []string            `json:"mountOptions,omitempty"`
	Retain  bool                `json:"retain,omitempty"`
	// Handle is the volume handle from CreateVolume, empty while unknown.
	Handle   string            `json:"handle,omitempty"`
	Capacity int64             `json:"capacity,omitempty"`
	Context  map[string]string `json:"context,omitempty"`
}

func (m *Manager) recordOf(pv string) string { return filepath.Join(m.root.claims(), pv+".json") }

// provision creates the claim's volume and its PersistentVolume, and binds them. After
// a crash every step is found done or is repeated.
func (m *Manager) provision(ctx context.Context, claim *v1.PersistentVolumeClaim) (*v1.PersistentVolume, error) {
	name := volumeName(claim)
	rec := &provisioned{}
	if err := readJSON(m.recordOf(name), rec); err != nil {
		return nil, err
	}
	if rec.Version > recordVersion {
		return nil, newer(m.recordOf(name), rec.Version)
	}
	if rec.Driver == "" {
		fresh, err := m.plan(ctx, claim)
		if err != nil {
			return nil, err
		}
		if err := makeDurable(m.root.claims()); err != nil {
			return nil, err
		}
		if err := writeJSON(m.recordOf(name), fresh); err != nil {
			return nil, err
		}
		rec = fresh
	}
	if err := m.create(ctx, name, rec); err != nil {
		return nil, err
	}
	pv := rec.object(name, claim)
	err := m.objects.Create(ctx, pv)
	if errors.Is(err, fault.AlreadyExists) {
		err = m.objects.Get(ctx, "", name, pv)
	}
	if err != nil {
		return nil, fmt.Errorf("storing PersistentVolume %q: %w", name, err)
	}
	return pv, m.adopt(ctx, claim, pv)
}

// create calls CreateVolume, unless its answer is on record, and records it. A final
// error means that nothing was created, and removes the intent.
func (m *Manager) create(ctx context.Context, name string, rec *provisioned) error {
	if rec.Handle != "" {
		return nil
	}
	d, err := m.drivers.get(rec.Driver)
	if err != nil {
		return err
	}
	req := rec.Create
	if req.Secrets, err = m.secretRef(ctx, rec.Secret); err != nil {
		return err
	}
	vol, err := d.CreateVolume(ctx, req)
	if err != nil {
		err = fmt.Errorf("creating a volume with driver %q: %w", rec.Driver, err)
		if !client.Uncertain(err) {
			return errors.Join(err, atomicfile.Remove(m.recordOf(name)))
		}
		return err
	}
	rec.Handle, rec.Capacity, rec.Context = vol.GetVolumeId(), vol.GetCapacityBytes(), vol.GetVolumeContext()
	return writeJSON(m.recordOf(name), rec)
}

// plan decides which driver creates the volume, and how.
func (m *Manager) plan(ctx context.Context, claim *v1.PersistentVolumeClaim) (*provisioned, error) {
	rec := &provisioned{Version: recordVersion, Namespace: claim.Namespace, Claim: claim.Name}
	class := &storagev1.StorageClass{}
	switch name := claim.Spec.StorageClassName; {
	case name == nil:
		d, err := m.drivers.provisioner()
		if err != nil {
			return nil, err
		}
		class.Provisioner = d.info.Name
	case *name == "":
		return nil, wait(nil, "volumeName of PersistentVolumeClaim %q: its storageClassName is \"\", so no volume is made for it", claim.Name)
	default:
		err := m.objects.Get(ctx, "", *name, class)
		if errors.Is(err, fault.NotFound) {
			return nil, wait(nil, "StorageClass %q of PersistentVolumeClaim %q: create it, or leave storageClassName out", *name, claim.Name)
		}
		if err != nil {
			return nil, fmt.Errorf("reading StorageClass %q: %w", *name, err)
		}
		rec.Class = *name
	}
	d, err := m.drivers.get(class.Provisioner)
	if err != nil {
		return nil, err
	}
	rec.Driver, rec.Mounts = class.Provisioner, class.MountOptions
	rec.Retain = class.ReclaimPolicy != nil && *class.ReclaimPolicy == v1.PersistentVolumeReclaimRetain
	size, limit := claim.Spec.Resources.Requests[v1.ResourceStorage], claim.Spec.Resources.Limits[v1.ResourceStorage]
	rec.Create = client.Create{Name: volumeName(claim), Required: size.Value(), Limit: limit.Value(), Parameters: map[string]string{}}
	fsType, err := rec.parameters(class.Parameters, claim)
	if err != nil {
		return nil, err
	}
	modes := claim.Spec.AccessModes
	for i := range modes {
		rec.Create.Access = append(rec.Create.Access, client.Access{Mode: accessMode(modes[i:], d), FSType: fsType, MountFlags: rec.Mounts})
	}
	if len(modes) == 0 {
		return nil, refuse("PersistentVolumeClaim %q has no accessModes", claim.Name)
	}
	return rec, nil
}

// reserved is the prefix of the parameters for the orchestrator.
const reserved = "csi.storage.k8s.io/"

// parameters splits a class's parameters into those for the driver and those for the
// kubelet.
func (r *provisioned) parameters(all map[string]string, claim *v1.PersistentVolumeClaim) (fsType string, err error) {
	ours := map[string]string{}
	for k, v := range all {
		if short, ok := strings.CutPrefix(k, reserved); ok {
			ours[short] = strings.NewReplacer("${pvc.name}", claim.Name, "${pvc.namespace}", claim.Namespace, "${pv.name}", r.Create.Name).Replace(v)
			continue
		}
		r.Create.Parameters[k] = v
	}
	for _, s := range []struct {
		prefix string
		ref    **v1.SecretReference
	}{{"provisioner-secret", &r.Secret}, {"node-publish-secret", &r.Publish}, {"node-stage-secret", &r.Stage}} {
		name, namespace := ours[s.prefix+"-name"], ours[s.prefix+"-namespace"]
		if name != "" {
			*s.ref = &v1.SecretReference{Name: name, Namespace: namespace}
		}
		delete(ours, s.prefix+"-name")
		delete(ours, s.prefix+"-namespace")
	}
	fsType = ours["fstype"]
	delete(ours, "fstype")
	for _, k := range slices.Sorted(maps.Keys(ours)) {
		return "", refuse("StorageClass parameter %q is not supported yet", reserved+k)
	}
	return fsType, nil
}

func (m *Manager) secretRef(ctx context.Context, ref *v1.SecretReference) (map[string]string, error) {
	if ref == nil {
		return nil, nil
	}
	return m.credentials(ctx, ref.Namespace, ref.Name)
}

// object returns the PersistentVolume of the record.
func (r *provisioned) object(name string, claim *v1.PersistentVolumeClaim) *v1.PersistentVolume {
	policy := v1.PersistentVolumeReclaimDelete
	if r.Retain {
		policy = v1.PersistentVolumeReclaimRetain
	}
	mode := v1.PersistentVolumeFilesystem
	fsType := ""
	if len(r.Create.Access) > 0 {
		fsType = r.Create.Access[0].FSType
	}
	return &v1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{"pv.kubernetes.io/provisioned-by": r.Driver}},
		Spec: v1.PersistentVolumeSpec{
			Capacity:    v1.ResourceList{v1.ResourceStorage: *resource.NewQuantity(max(r.Capacity, r.Create.Required), resource.BinarySI)},
			AccessModes: claim.Spec.AccessModes, PersistentVolumeReclaimPolicy: policy, ClaimRef: claimRef(claim),
			StorageClassName: r.Class, MountOptions: r.Mounts, VolumeMode: &mode,
			PersistentVolumeSource: v1.PersistentVolumeSource{CSI: &v1.CSIPersistentVolumeSource{
				Driver: r.Driver, VolumeHandle: r.Handle, FSType: fsType, VolumeAttributes: r.Context,
				NodePublishSecretRef: r.Publish, NodeStageSecretRef: r.Stage,
			}},
		},
		Status: v1.PersistentVolumeStatus{Phase: v1.VolumeBound},
	}
}
