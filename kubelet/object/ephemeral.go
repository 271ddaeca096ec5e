package object

import (
	"fmt"
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// ValidateEphemeral checks a change through a Pod's subresource ephemeralcontainers:
// ephemeral containers may be added, but not changed or removed. next must be
// defaulted. Fields that do not work here are rejected as by Classify.
func ValidateEphemeral(next, old *v1.Pod) error {
	var v problems
	have := map[string]*v1.EphemeralContainer{}
	for i := range next.Spec.EphemeralContainers {
		c := &next.Spec.EphemeralContainers[i]
		have[c.Name] = c
	}
	kept := map[string]bool{}
	was := defaulted(old).Spec.EphemeralContainers
	for i := range was {
		kept[was[i].Name] = true
		if now := have[was[i].Name]; now == nil || !equality.Semantic.DeepEqual(&was[i], now) {
			v.add(fmt.Sprintf("spec.ephemeralContainers[%d]", i), "%q may not be changed or removed once it was added", was[i].Name)
		}
	}
	if err := v.classifyEphemeral(next, kept); err != nil {
		return err
	}
	return v.onlyChanged(next, old, "spec.ephemeralContainers", func(s *v1.PodSpec) { s.EphemeralContainers = nil })
}

const ephemeralPath = "spec.ephemeralContainers"

// ephemeralTable returns the classes of an ephemeral container's fields by path. None
// is harmless: validation rejects what the API does not allow in one.
func ephemeralTable() map[string]class {
	table := map[string]class{ephemeralPath + "[].targetContainerName": {works: true}}
	for name := range containerFields() {
		table[ephemeralPath+"[]."+name] = class{works: true}
	}
	return table
}

// classifyEphemeral rejects fields that do not work here, in new ephemeral containers.
func (v *problems) classifyEphemeral(p *v1.Pod, kept map[string]bool) error {
	c := &classifier{table: ephemeralTable(), object: Name(p), said: map[string]bool{}}
	for i := range p.Spec.EphemeralContainers {
		e := &p.Spec.EphemeralContainers[i]
		if kept[e.Name] {
			continue
		}
		tree, err := runtime.DefaultUnstructuredConverter.ToUnstructured(e)
		if err != nil {
			return err
		}
		c.walk(ephemeralPath+"[]", fmt.Sprintf("%s[%d]", ephemeralPath, i), tree)
	}
	*v = append(*v, c.errs...)
	return nil
}

// ephemeral checks an ephemeral container: as any other container, and for what the
// Kubernetes API does not allow in one.
func (v *problems) ephemeral(field string, e *v1.EphemeralContainer, s *v1.PodSpec, names, volumes map[string]bool) {
	c := pod.Common(e)
	v.container(field, c, names, volumes)
	for name, set := range map[string]bool{
		"ports": len(c.Ports) > 0, "livenessProbe": c.LivenessProbe != nil, "readinessProbe": c.ReadinessProbe != nil, "startupProbe": c.StartupProbe != nil,
		"lifecycle": c.Lifecycle != nil, "resources": len(c.Resources.Limits)+len(c.Resources.Requests)+len(c.Resources.Claims) > 0,
		"resizePolicy": len(c.ResizePolicy) > 0, "restartPolicy": c.RestartPolicy != nil,
	} {
		if set {
			v.add(field+"."+name, "cannot be set for an ephemeral container")
		}
	}
	for i, m := range c.VolumeMounts {
		if m.SubPath != "" || m.SubPathExpr != "" {
			v.add(fmt.Sprintf("%s.volumeMounts[%d].subPath", field, i), "cannot be set for an ephemeral container")
		}
	}
	if e.TargetContainerName != "" && !hasContainer(s, e.TargetContainerName) {
		v.add(field+".targetContainerName", "there is no container %q", e.TargetContainerName)
	}
}

// hasContainer reports whether a container or init container has that name.
func hasContainer(s *v1.PodSpec, name string) bool {
	is := func(c v1.Container) bool { return c.Name == name }
	return slices.ContainsFunc(s.Containers, is) || slices.ContainsFunc(s.InitContainers, is)
}
