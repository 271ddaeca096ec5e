package object

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// validate checks for what the Kubernetes API would reject and the node could not work
// with. All problems are joined.
func validate(o Object) error {
	var v problems
	v.metadata(o)
	switch o := o.(type) {
	case *v1.Pod:
		v.pod(o)
	case *v1.ConfigMap:
		keys(&v, "data", o.Data)
		keys(&v, "binaryData", o.BinaryData)
	case *v1.Secret:
		keys(&v, "data", o.Data)
	case *nodev1.RuntimeClass:
		v.runtimeClass(o)
	}
	return errors.Join(v...)
}

func (v *problems) runtimeClass(c *nodev1.RuntimeClass) {
	v.check("handler", validation.IsDNS1123Label(c.Handler))
	if c.Overhead != nil {
		v.add("overhead", "is not counted by nodekit: remove it")
	}
}

func (v *problems) metadata(o Object) {
	if o.GetName() == "" {
		if o.GetGenerateName() != "" {
			v.add("metadata.generateName", "a file needs metadata.name: its object is found again by it")
		} else {
			v.add("metadata.name", "is missing")
		}
	} else {
		v.check("metadata.name", validation.IsDNS1123Subdomain(o.GetName()))
	}
	if o.GetNamespace() != "" {
		v.check("metadata.namespace", validation.IsDNS1123Label(o.GetNamespace()))
	}
	at := field.NewPath("metadata")
	v.fields(metavalidation.ValidateLabels(o.GetLabels(), at.Child("labels")))
	v.fields(apivalidation.ValidateAnnotations(o.GetAnnotations(), at.Child("annotations")))
	v.fields(apivalidation.ValidateOwnerReferences(o.GetOwnerReferences(), at.Child("ownerReferences")))
	v.fields(apivalidation.ValidateFinalizers(o.GetFinalizers(), at.Child("finalizers")))
}

// metadataUpdate checks the metadata that must not change: a terminating object accepts
// no new finalizers.
func (v *problems) metadataUpdate(next, old Object) {
	if old.GetDeletionTimestamp() != nil {
		v.fields(apivalidation.ValidateNoNewFinalizers(next.GetFinalizers(), old.GetFinalizers(), field.NewPath("metadata", "finalizers")))
	}
}

// keys checks the keys of data, each of which becomes a file in a volume.
func keys[T any](v *problems, name string, data map[string]T) {
	for _, key := range slices.Sorted(maps.Keys(data)) {
		v.check(fmt.Sprintf("%s[%s]", name, key), validation.IsConfigMapKey(key))
	}
}

// problems are the errors found so far.
type problems []error

func (v *problems) add(field, format string, args ...any) {
	*v = append(*v, fault.Invalid.Errorf("%s: %s", field, fmt.Sprintf(format, args...)))
}

func (v *problems) check(field string, wrong []string) {
	for _, w := range wrong {
		v.add(field, "%s", w)
	}
}

func (v *problems) fields(wrong field.ErrorList) {
	for _, w := range wrong {
		*v = append(*v, fault.Invalid.Wrap(w))
	}
}

func (v *problems) pod(p *v1.Pod) {
	s := &p.Spec
	switch s.RestartPolicy {
	case v1.RestartPolicyAlways, v1.RestartPolicyOnFailure, v1.RestartPolicyNever:
	default:
		v.add("spec.restartPolicy", "%q is not Always, OnFailure or Never", s.RestartPolicy)
	}
	if g := s.TerminationGracePeriodSeconds; *g < 0 {
		v.add("spec.terminationGracePeriodSeconds", "%d is negative", *g)
	}
	if d := s.ActiveDeadlineSeconds; d != nil && *d < 1 {
		v.add("spec.activeDeadlineSeconds", "%d is less than 1", *d)
	}
	v.values(s)
	v.podResources(s)
	if s.DNSPolicy == v1.DNSNone && (s.DNSConfig == nil || len(s.DNSConfig.Nameservers) == 0) {
		v.add("spec.dnsConfig.nameservers", "dnsPolicy None needs at least one")
	}
	volumes := v.volumes(s.Volumes)
	if len(s.Containers) == 0 {
		v.add("spec.containers", "a Pod needs at least one")
	}
	names := map[string]bool{}
	for i := range s.InitContainers {
		field := fmt.Sprintf("spec.initContainers[%d]", i)
		c := &s.InitContainers[i]
		v.container(field, c, names, volumes)
		sidecar := c.RestartPolicy != nil && *c.RestartPolicy == v1.ContainerRestartPolicyAlways
		if c.RestartPolicy != nil && !sidecar {
			v.add(field+".restartPolicy", "%q is not Always", *c.RestartPolicy)
		}
		if !sidecar && (c.LivenessProbe != nil || c.ReadinessProbe != nil || c.StartupProbe != nil || c.Lifecycle != nil) {
			v.add(field, "probes and lifecycle hooks are for sidecars (restartPolicy Always) and app containers")
		}
	}
	for i := range s.Containers {
		v.container(fmt.Sprintf("spec.containers[%d]", i), &s.Containers[i], names, volumes)
	}
	for i := range s.EphemeralContainers {
		v.ephemeral(fmt.Sprintf("%s[%d]", ephemeralPath, i), &s.EphemeralContainers[i], s, names, volumes)
	}
}

func (v *problems) volumes(list []v1.Volume) map[string]bool {
	names := map[string]bool{}
	for i := range list {
		field := fmt.Sprintf("spec.volumes[%d].name", i)
		v.check(field, validation.IsDNS1123Label(list[i].Name))
		if names[list[i].Name] {
			v.add(field, "%q is there twice", list[i].Name)
		}
		names[list[i].Name] = true
	}
	return names
}

func (v *problems) container(field string, c *v1.Container, names, volumes map[string]bool) {
	v.check(field+".name", validation.IsDNS1123Label(c.Name))
	if names[c.Name] {
		v.add(field+".name", "%q is there twice", c.Name)
	}
	names[c.Name] = true
	if strings.TrimSpace(c.Image) == "" {
		v.add(field+".image", "is missing")
	}
	switch c.ImagePullPolicy {
	case v1.PullAlways, v1.PullIfNotPresent, v1.PullNever:
	default:
		v.add(field+".imagePullPolicy", "%q is not Always, IfNotPresent or Never", c.ImagePullPolicy)
	}
	for i, e := range c.Env {
		if e.Name == "" || strings.ContainsAny(e.Name, "=\x00") {
			v.add(fmt.Sprintf("%s.env[%d].name", field, i), "%q is not the name of an environment variable", e.Name)
		}
	}
	for i, p := range c.Ports {
		if p.ContainerPort < 1 || p.ContainerPort > 65535 || p.HostPort < 0 || p.HostPort > 65535 {
			v.add(fmt.Sprintf("%s.ports[%d]", field, i), "a port is between 1 and 65535")
		}
	}
	v.containerValues(field, c)
	v.mounts(field, c.VolumeMounts, volumes)
	v.probe(field+".livenessProbe", c.LivenessProbe)
	v.probe(field+".readinessProbe", c.ReadinessProbe)
	v.probe(field+".startupProbe", c.StartupProbe)
	if c.Lifecycle != nil {
		v.hook(field+".lifecycle.postStart", c.Lifecycle.PostStart)
		v.hook(field+".lifecycle.preStop", c.Lifecycle.PreStop)
		v.stopSignal(field+".lifecycle.stopSignal", c.Lifecycle.StopSignal)
	}
	v.requestsFit(field+".resources", c.Resources)
}

func (v *problems) mounts(field string, list []v1.VolumeMount, volumes map[string]bool) {
	targets := map[string]bool{}
	for i, m := range list {
		at := fmt.Sprintf("%s.volumeMounts[%d]", field, i)
		if !volumes[m.Name] {
			v.add(at+".name", "the Pod has no volume %q", m.Name)
		}
		if !path.IsAbs(m.MountPath) {
			v.add(at+".mountPath", "%q is not an absolute path", m.MountPath)
		}
		if targets[path.Clean(m.MountPath)] {
			v.add(at+".mountPath", "%q is there twice", m.MountPath)
		}
		targets[path.Clean(m.MountPath)] = true
		if m.SubPath != "" && m.SubPathExpr != "" {
			v.add(at, "subPath and subPathExpr exclude each other")
		}
		for _, sub := range []string{m.SubPath, m.SubPathExpr} {
			if path.IsAbs(sub) || strings.Contains("/"+sub+"/", "/../") {
				v.add(at, "subPath %q leaves the volume", sub)
			}
		}
	}
}

func (v *problems) probe(field string, p *v1.Probe) {
	if p == nil {
		return
	}
	if n := count(p.Exec != nil, p.HTTPGet != nil, p.TCPSocket != nil, p.GRPC != nil); n != 1 {
		v.add(field, "wants one of exec, httpGet, tcpSocket and grpc, and has %d", n)
	}
	if p.InitialDelaySeconds < 0 || p.TimeoutSeconds < 0 || p.PeriodSeconds < 0 || p.SuccessThreshold < 0 || p.FailureThreshold < 0 {
		v.add(field, "a number is negative")
	}
	readiness := strings.HasSuffix(field, "readinessProbe")
	if p.SuccessThreshold != 1 && !readiness {
		v.add(field+".successThreshold", "must be 1")
	}
	if p.TerminationGracePeriodSeconds != nil && (readiness || *p.TerminationGracePeriodSeconds < 1) {
		v.add(field+".terminationGracePeriodSeconds", "is for probes that end their container, and at least 1")
	}
}

func (v *problems) hook(field string, h *v1.LifecycleHandler) {
	if h == nil {
		return
	}
	if h.TCPSocket != nil {
		v.add(field+".tcpSocket", "is not supported by Kubernetes as a hook")
	} else if n := count(h.Exec != nil, h.HTTPGet != nil, h.Sleep != nil); n != 1 {
		v.add(field, "wants one of exec, httpGet and sleep, and has %d", n)
	}
}

// stopSignal accepts the signals of the CRI.
func (v *problems) stopSignal(field string, s *v1.Signal) {
	if s == nil {
		return
	}
	if _, known := runtimeapi.Signal_value["SIGNAL_"+string(*s)]; !known {
		v.add(field, "%q is no signal of Linux, as SIGTERM is", *s)
	}
}

func count(set ...bool) int {
	n := 0
	for _, s := range set {
		if s {
			n++
		}
	}
	return n
}
