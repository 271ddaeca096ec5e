package object

import (
	"maps"
	"strings"

	v1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// clean drops the fields that a node sets itself, as an API server does on creation.
func clean(o Object) {
	o.SetUID("")
	o.SetResourceVersion("")
	o.SetGeneration(0)
	o.SetSelfLink("")
	o.SetManagedFields(nil)
	o.SetOwnerReferences(nil)
	o.SetCreationTimestamp(metav1.Time{})
	o.SetDeletionTimestamp(nil)
	o.SetDeletionGracePeriodSeconds(nil)
	switch o := o.(type) {
	case *v1.Pod:
		o.Status = v1.PodStatus{}
		o.Spec.NodeName = ""
	case *v1.PersistentVolumeClaim:
		o.Status = v1.PersistentVolumeClaimStatus{}
	case *v1.PersistentVolume:
		o.Status = v1.PersistentVolumeStatus{}
	}
}

// Default sets the documented defaults of the Kubernetes API in fields that are not
// set. It is idempotent.
func Default(o Object) {
	switch o := o.(type) {
	case *v1.Pod:
		defaultPod(o)
	case *v1.Secret:
		setIfZero(&o.Type, v1.SecretTypeOpaque)
		if len(o.StringData) > 0 && o.Data == nil {
			o.Data = map[string][]byte{}
		}
		for k, text := range o.StringData {
			o.Data[k] = []byte(text)
		}
		o.StringData = nil
	case *v1.PersistentVolumeClaim:
		setIfNil(&o.Spec.VolumeMode, v1.PersistentVolumeFilesystem)
		setIfZero(&o.Status.Phase, v1.ClaimPending)
	case *v1.PersistentVolume:
		setIfNil(&o.Spec.VolumeMode, v1.PersistentVolumeFilesystem)
		setIfZero(&o.Spec.PersistentVolumeReclaimPolicy, v1.PersistentVolumeReclaimRetain)
		setIfZero(&o.Status.Phase, v1.VolumePending)
	case *storagev1.StorageClass:
		setIfNil(&o.ReclaimPolicy, v1.PersistentVolumeReclaimDelete)
		setIfNil(&o.VolumeBindingMode, storagev1.VolumeBindingImmediate)
	case *storagev1.CSIDriver:
		s := &o.Spec
		setIfNil(&s.AttachRequired, true)
		setIfNil(&s.PodInfoOnMount, false)
		setIfNil(&s.StorageCapacity, false)
		setIfNil(&s.FSGroupPolicy, storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy)
		setIfNil(&s.RequiresRepublish, false)
		setIfNil(&s.SELinuxMount, false)
		if len(s.VolumeLifecycleModes) == 0 {
			s.VolumeLifecycleModes = []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecyclePersistent}
		}
	case *schedulingv1.PriorityClass:
		setIfNil(&o.PreemptionPolicy, v1.PreemptLowerPriority)
	case *v1.Namespace:
		setIfZero(&o.Status.Phase, v1.NamespaceActive)
	}
}

func setIfNil[T any](p **T, value T) {
	if *p == nil {
		*p = &value
	}
}

func setIfZero[T comparable](p *T, value T) {
	if *p == *new(T) {
		*p = value
	}
}

func defaultPod(p *v1.Pod) {
	s := &p.Spec
	setIfZero(&s.RestartPolicy, v1.RestartPolicyAlways)
	setIfZero(&s.DNSPolicy, v1.DNSClusterFirst)
	setIfZero(&s.SchedulerName, v1.DefaultSchedulerName)
	setIfNil(&s.TerminationGracePeriodSeconds, int64(v1.DefaultTerminationGracePeriodSeconds))
	setIfNil(&s.EnableServiceLinks, v1.DefaultEnableServiceLinks)
	setIfNil(&s.SecurityContext, v1.PodSecurityContext{})
	for i := range s.Volumes {
		defaultVolume(&s.Volumes[i].VolumeSource)
	}
	for _, list := range [][]v1.Container{s.InitContainers, s.Containers} {
		for i := range list {
			defaultContainer(&list[i], s.HostNetwork)
		}
	}
	for i := range s.EphemeralContainers {
		defaultContainer(pod.Common(&s.EphemeralContainers[i]), s.HostNetwork)
	}
}

func defaultVolume(v *v1.VolumeSource) {
	if *v == (v1.VolumeSource{}) {
		v.EmptyDir = &v1.EmptyDirVolumeSource{}
	}
	switch {
	case v.HostPath != nil:
		setIfNil(&v.HostPath.Type, v1.HostPathUnset)
	case v.Secret != nil:
		setIfNil(&v.Secret.DefaultMode, v1.SecretVolumeSourceDefaultMode)
	case v.ConfigMap != nil:
		setIfNil(&v.ConfigMap.DefaultMode, v1.ConfigMapVolumeSourceDefaultMode)
	case v.DownwardAPI != nil:
		setIfNil(&v.DownwardAPI.DefaultMode, v1.DownwardAPIVolumeSourceDefaultMode)
		defaultItems(v.DownwardAPI.Items)
	case v.Projected != nil:
		setIfNil(&v.Projected.DefaultMode, v1.ProjectedVolumeSourceDefaultMode)
		for i := range v.Projected.Sources {
			if d := v.Projected.Sources[i].DownwardAPI; d != nil {
				defaultItems(d.Items)
			}
			if t := v.Projected.Sources[i].ServiceAccountToken; t != nil {
				setIfNil(&t.ExpirationSeconds, int64(3600))
			}
		}
	}
}

func defaultItems(items []v1.DownwardAPIVolumeFile) {
	for i := range items {
		if f := items[i].FieldRef; f != nil {
			setIfZero(&f.APIVersion, "v1")
		}
	}
}

func defaultContainer(c *v1.Container, hostNetwork bool) {
	setIfZero(&c.TerminationMessagePath, v1.TerminationMessagePathDefault)
	setIfZero(&c.TerminationMessagePolicy, v1.TerminationMessageReadFile)
	setIfZero(&c.ImagePullPolicy, pullPolicy(c.Image))
	for i := range c.Ports {
		setIfZero(&c.Ports[i].Protocol, v1.ProtocolTCP)
		if hostNetwork {
			setIfZero(&c.Ports[i].HostPort, c.Ports[i].ContainerPort)
		}
	}
	for i := range c.Env {
		if from := c.Env[i].ValueFrom; from != nil && from.FieldRef != nil {
			setIfZero(&from.FieldRef.APIVersion, "v1")
		}
	}
	if c.Resources.Requests == nil {
		c.Resources.Requests = maps.Clone(c.Resources.Limits)
	}
	for name, limit := range c.Resources.Limits {
		if _, ok := c.Resources.Requests[name]; !ok {
			c.Resources.Requests[name] = limit
		}
	}
	for _, p := range []*v1.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
		if p != nil {
			defaultProbe(p)
		}
	}
	if c.Lifecycle != nil {
		for _, h := range []*v1.LifecycleHandler{c.Lifecycle.PostStart, c.Lifecycle.PreStop} {
			if h != nil {
				defaultHTTP(h.HTTPGet)
			}
		}
	}
}

func defaultProbe(p *v1.Probe) {
	setIfZero(&p.TimeoutSeconds, 1)
	setIfZero(&p.PeriodSeconds, 10)
	setIfZero(&p.SuccessThreshold, 1)
	setIfZero(&p.FailureThreshold, 3)
	defaultHTTP(p.HTTPGet)
	if p.GRPC != nil {
		setIfNil(&p.GRPC.Service, "")
	}
}

func defaultHTTP(get *v1.HTTPGetAction) {
	if get == nil {
		return
	}
	setIfZero(&get.Path, "/")
	setIfZero(&get.Scheme, v1.URISchemeHTTP)
	if get.Port.Type == intstr.String && get.Port.StrVal == "" {
		get.Port = intstr.FromInt32(80)
	}
}

// pullPolicy returns Always for an image with the tag latest, or without a tag.
func pullPolicy(image string) v1.PullPolicy {
	rest := image[strings.LastIndexByte(image, '/')+1:]
	if strings.Contains(rest, "@") {
		return v1.PullIfNotPresent
	}
	if _, tag, ok := strings.Cut(rest, ":"); ok && tag != "latest" {
		return v1.PullIfNotPresent
	}
	return v1.PullAlways
}
