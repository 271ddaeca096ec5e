package kubelet

import (
	"slices"

	v1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"

	"github.com/nodekit-project/nodekit/kubelet/object"
	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// refers reports whether the Pod may be waiting for the object, or shows it in a
// volume. It may return true for too many Pods, because a Pod does not say which
// objects its claims' volumes need.
func refers(p *v1.Pod, o object.Object) bool {
	near := p.Namespace == o.GetNamespace()
	switch o := o.(type) {
	case *v1.ConfigMap:
		return near && slices.Contains(references(p).configMaps, o.Name)
	case *v1.Secret:
		return near && slices.Contains(references(p).secrets, o.Name) || hasCSI(p)
	case *v1.PersistentVolumeClaim:
		return near && slices.ContainsFunc(p.Spec.Volumes, func(v v1.Volume) bool {
			return v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ClaimName == o.Name
		})
	case *nodev1.RuntimeClass:
		return p.Spec.RuntimeClassName != nil && *p.Spec.RuntimeClassName == o.Name
	}
	return hasCSI(p)
}

// pullsWith reports whether the object is a Secret used to pull the Pod's images.
func pullsWith(p *v1.Pod, o object.Object) bool {
	s, is := o.(*v1.Secret)
	return is && p.Namespace == s.Namespace && slices.Contains(p.Spec.ImagePullSecrets, v1.LocalObjectReference{Name: s.Name})
}

// hasCSI reports whether the Pod has volumes of CSI drivers.
func hasCSI(p *v1.Pod) bool {
	return slices.ContainsFunc(p.Spec.Volumes, func(v v1.Volume) bool { return v.CSI != nil || v.PersistentVolumeClaim != nil })
}

// named are names of objects in a Pod's namespace.
type named struct{ configMaps, secrets []string }

// references returns the ConfigMaps and Secrets that the Pod's spec names.
func references(p *v1.Pod) named {
	var n named
	for i := range p.Spec.Volumes {
		n.volume(&p.Spec.Volumes[i])
	}
	for _, name := range pod.Names(p) {
		n.container(pod.Find(p, name))
	}
	return n
}

func (n *named) volume(v *v1.Volume) {
	if v.ConfigMap != nil {
		n.configMaps = append(n.configMaps, v.ConfigMap.Name)
	}
	if v.Secret != nil {
		n.secrets = append(n.secrets, v.Secret.SecretName)
	}
	if v.Projected == nil {
		return
	}
	for _, s := range v.Projected.Sources {
		if s.ConfigMap != nil {
			n.configMaps = append(n.configMaps, s.ConfigMap.Name)
		}
		if s.Secret != nil {
			n.secrets = append(n.secrets, s.Secret.Name)
		}
	}
}

func (n *named) container(c *v1.Container) {
	for _, from := range c.EnvFrom {
		if from.ConfigMapRef != nil {
			n.configMaps = append(n.configMaps, from.ConfigMapRef.Name)
		}
		if from.SecretRef != nil {
			n.secrets = append(n.secrets, from.SecretRef.Name)
		}
	}
	for _, env := range c.Env {
		if env.ValueFrom == nil {
			continue
		}
		if ref := env.ValueFrom.ConfigMapKeyRef; ref != nil {
			n.configMaps = append(n.configMaps, ref.Name)
		}
		if ref := env.ValueFrom.SecretKeyRef; ref != nil {
			n.secrets = append(n.secrets, ref.Name)
		}
	}
}
