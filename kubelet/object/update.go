package object

import (
	"errors"
	"fmt"
	"slices"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// ClaimProtection is the finalizer that keeps a claim until no Pod uses it and the
// kubelet has deleted its volume
// (kubernetes.io/docs/concepts/storage/persistent-volumes, "Storage Object in Use
// Protection").
const ClaimProtection = "kubernetes.io/pvc-protection"

// ValidateUpdate checks that the Kubernetes API lets a user change old, the stored
// object, to next, which must be complete. The error is fault.Invalid and names every
// problem.
func ValidateUpdate(next, old Object) error {
	var v problems
	switch next := next.(type) {
	case *v1.Pod:
		v.podUpdate(next, defaulted(old.(*v1.Pod)))
	case *v1.ConfigMap:
		old := old.(*v1.ConfigMap)
		v.immutable("data", isTrue(old.Immutable), isTrue(next.Immutable) &&
			equality.Semantic.DeepEqual(next.Data, old.Data) && equality.Semantic.DeepEqual(next.BinaryData, old.BinaryData))
	case *v1.Secret:
		old := old.(*v1.Secret)
		v.immutable("data", isTrue(old.Immutable), isTrue(next.Immutable) && equality.Semantic.DeepEqual(next.Data, old.Data))
		v.immutable("type", true, next.Type == old.Type)
	case *v1.PersistentVolumeClaim:
		v.claimUpdate(next, old.(*v1.PersistentVolumeClaim))
	case *v1.PersistentVolume:
		old := old.(*v1.PersistentVolume)
		v.immutable("spec.persistentvolumesource", true, equality.Semantic.DeepEqual(next.Spec.PersistentVolumeSource, old.Spec.PersistentVolumeSource))
	case *storagev1.StorageClass:
		old := old.(*storagev1.StorageClass)
		v.immutable("provisioner", true, next.Provisioner == old.Provisioner)
		v.immutable("parameters", true, equality.Semantic.DeepEqual(next.Parameters, old.Parameters))
		v.immutable("reclaimPolicy", true, equality.Semantic.DeepEqual(next.ReclaimPolicy, old.ReclaimPolicy))
	}
	v.metadataUpdate(next, old)
	if err := validate(next); err != nil {
		v = append(v, err)
	}
	if err := errors.Join(v...); err != nil {
		return fault.Invalid.Errorf("%s: %w", Name(next), err)
	}
	return nil
}

// ValidateStatus checks what a user may change through an object's status subresource,
// including its metadata.
func ValidateStatus(next, old Object) error {
	var v problems
	v.metadata(next)
	v.metadataUpdate(next, old)
	if err := errors.Join(v...); err != nil {
		return fault.Invalid.Errorf("%s: %w", Name(next), err)
	}
	return nil
}

// immutable reports a field that must not change and did.
func (v *problems) immutable(field string, fixed, same bool) {
	if fixed && !same {
		v.add(field, "may not be changed: delete the object and create it anew")
	}
}

// podUpdate allows what the Kubernetes API allows: images, a shorter
// activeDeadlineSeconds, and more tolerations.
func (v *problems) podUpdate(next, old *v1.Pod) {
	if d, was := next.Spec.ActiveDeadlineSeconds, old.Spec.ActiveDeadlineSeconds; was != nil && (d == nil || *d > *was) {
		v.add("spec.activeDeadlineSeconds", "may only become less")
	}
	for _, t := range old.Spec.Tolerations {
		if !slices.ContainsFunc(next.Spec.Tolerations, func(n v1.Toleration) bool { return sameToleration(n, t) }) {
			v.add("spec.tolerations", "may only be added to: the one of %q is missing", t.Key)
		}
	}
	allowed := old.Spec.DeepCopy()
	allowed.ActiveDeadlineSeconds, allowed.Tolerations = next.Spec.ActiveDeadlineSeconds, next.Spec.Tolerations
	takeImages(allowed.Containers, next.Spec.Containers)
	takeImages(allowed.InitContainers, next.Spec.InitContainers)
	if !equality.Semantic.DeepEqual(allowed, &next.Spec) {
		v.add("spec", "of a Pod only image, activeDeadlineSeconds and tolerations may be changed (resources by the subresource resize, "+
			"ephemeral containers by theirs): delete the Pod and create it anew")
	}
}

// defaulted returns the Pod with the defaults that it would get now, so that newer
// defaults do not count as changes of a Pod stored by an older version.
func defaulted(p *v1.Pod) *v1.Pod {
	p = p.DeepCopy()
	Default(p)
	return p
}

// sameToleration ignores the duration, which may be changed.
func sameToleration(a, b v1.Toleration) bool {
	a.TolerationSeconds, b.TolerationSeconds = nil, nil
	return a == b
}

func takeImages(to, from []v1.Container) {
	for i := range min(len(to), len(from)) {
		to[i].Image = from[i].Image
	}
}

func (v *problems) claimUpdate(next, old *v1.PersistentVolumeClaim) {
	allowed := old.Spec.DeepCopy()
	if allowed.VolumeName == "" {
		allowed.VolumeName = next.Spec.VolumeName
	}
	if allowed.StorageClassName == nil {
		allowed.StorageClassName = next.Spec.StorageClassName
	}
	was, want := old.Spec.Resources.Requests[v1.ResourceStorage], next.Spec.Resources.Requests[v1.ResourceStorage]
	if want.Cmp(was) < 0 {
		v.add("spec.resources.requests[storage]", "%s is less than the %s that it was", want.String(), was.String())
	}
	allowed.Resources = next.Spec.Resources
	allowed.VolumeAttributesClassName = next.Spec.VolumeAttributesClassName
	if !equality.Semantic.DeepEqual(allowed, &next.Spec) {
		v.add("spec", "of a claim only the requested storage may be changed, upwards: delete the claim and create it anew")
	}
}

// ValidateResize checks a change through a Pod's subresource resize: only the CPU and
// memory of containers and sidecars may change. Other changes would have no effect on a
// running Pod.
func ValidateResize(next, old *v1.Pod) error {
	var v problems
	if !equality.Semantic.DeepEqual(next.Spec.Resources, old.Spec.Resources) {
		v.add("spec.resources", "what the Pod itself asks for cannot be changed while it runs, only the resources of its containers: delete the Pod and create it anew")
	}
	v.resized("spec.initContainers", next.Spec.InitContainers, old.Spec.InitContainers, pod.IsSidecar)
	v.resized("spec.containers", next.Spec.Containers, old.Spec.Containers, func(*v1.Container) bool { return true })
	return v.onlyChanged(next, old, "the resources of its containers", func(s *v1.PodSpec) {
		for _, list := range [][]v1.Container{s.InitContainers, s.Containers} {
			for i := range list {
				list[i].Resources, list[i].ResizePolicy = v1.ResourceRequirements{}, nil
			}
		}
		s.Resources = nil // has an error of its own
	})
}

// resized checks the changes of the containers' resources: none for those that do not
// run long enough, and only CPU and memory for the others.
func (v *problems) resized(field string, next, old []v1.Container, may func(*v1.Container) bool) {
	for i := range min(len(next), len(old)) {
		at, is, was := fmt.Sprintf("%s[%d].resources", field, i), &next[i].Resources, &old[i].Resources
		switch {
		case equality.Semantic.DeepEqual(is, was):
		case !may(&next[i]):
			v.add(at, "of an init container that ends cannot be changed: delete the Pod and create it anew")
		case !equality.Semantic.DeepEqual(fixed(is), fixed(was)):
			v.add(at, "only cpu and memory can be changed")
		}
	}
}

// fixed returns what a resize must not change.
func fixed(r *v1.ResourceRequirements) *v1.ResourceRequirements {
	r = r.DeepCopy()
	for _, list := range []v1.ResourceList{r.Requests, r.Limits} {
		delete(list, v1.ResourceCPU)
		delete(list, v1.ResourceMemory)
	}
	return r
}

func (v *problems) onlyChanged(next, old *v1.Pod, what string, without func(*v1.PodSpec)) error {
	a, b := next.Spec.DeepCopy(), defaulted(old).Spec.DeepCopy()
	without(a)
	without(b)
	if !equality.Semantic.DeepEqual(a, b) {
		v.add("spec", "only %s may be changed here", what)
	}
	if err := validate(next); err != nil {
		*v = append(*v, err)
	}
	if err := errors.Join(*v...); err != nil {
		return fault.Invalid.Errorf("%s: %w", Name(next), err)
	}
	return nil
}

func isTrue(b *bool) bool { return b != nil && *b }
