package object_test

import (
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/nodekit-project/nodekit/kubelet/object"
)

// TestEphemeralIsAContainer holds an ephemeral container to what any container
// is held to, and to what only it may not have.
func TestEphemeralIsAContainer(t *testing.T) {
	with := func(more ...v1.EphemeralContainer) *v1.Pod {
		return pod(func(s *v1.PodSpec) {
			s.Volumes = []v1.Volume{{Name: "v"}}
			s.EphemeralContainers = more
		})
	}
	debug := func(change func(*v1.EphemeralContainer)) v1.EphemeralContainer {
		e := v1.EphemeralContainer{EphemeralContainerCommon: v1.EphemeralContainerCommon{Name: "d", Image: "x:v1"}}
		change(&e)
		return e
	}
	none := func(*v1.EphemeralContainer) {}
	for name, c := range map[string]struct {
		change func(*v1.EphemeralContainer)
		want   string
	}{
		"nothing special":    {none, ""},
		"a target":           {func(e *v1.EphemeralContainer) { e.TargetContainerName = "c" }, ""},
		"an init target":     {func(e *v1.EphemeralContainer) { e.TargetContainerName = "i" }, ""},
		"no target":          {func(e *v1.EphemeralContainer) { e.TargetContainerName = "x" }, "spec.ephemeralContainers[0].targetContainerName: there is no"},
		"itself":             {func(e *v1.EphemeralContainer) { e.TargetContainerName = "d" }, "there is no container"},
		"no name":            {func(e *v1.EphemeralContainer) { e.Name = "" }, "spec.ephemeralContainers[0].name"},
		"a path as name":     {func(e *v1.EphemeralContainer) { e.Name = "../d" }, "spec.ephemeralContainers[0].name"},
		"an app's name":      {func(e *v1.EphemeralContainer) { e.Name = "c" }, `"c" is there twice`},
		"an init's name":     {func(e *v1.EphemeralContainer) { e.Name = "i" }, `"i" is there twice`},
		"no image":           {func(e *v1.EphemeralContainer) { e.Image = " " }, "image: is missing"},
		"a bad policy":       {func(e *v1.EphemeralContainer) { e.ImagePullPolicy = "Perhaps" }, "imagePullPolicy"},
		"a mount":            {func(e *v1.EphemeralContainer) { e.VolumeMounts = []v1.VolumeMount{{Name: "v", MountPath: "/v"}} }, ""},
		"a mount of nothing": {func(e *v1.EphemeralContainer) { e.VolumeMounts = []v1.VolumeMount{{Name: "w", MountPath: "/v"}} }, `no volume "w"`},
		"a part of a volume": {func(e *v1.EphemeralContainer) {
			e.VolumeMounts = []v1.VolumeMount{{Name: "v", MountPath: "/v", SubPath: "a"}}
		}, "volumeMounts[0].subPath: cannot be set"},
		"ports":     {func(e *v1.EphemeralContainer) { e.Ports = []v1.ContainerPort{{ContainerPort: 80}} }, "ports: cannot be set"},
		"liveness":  {func(e *v1.EphemeralContainer) { e.LivenessProbe = &v1.Probe{} }, "livenessProbe: cannot be set"},
		"readiness": {func(e *v1.EphemeralContainer) { e.ReadinessProbe = &v1.Probe{} }, "readinessProbe: cannot be set"},
		"startup":   {func(e *v1.EphemeralContainer) { e.StartupProbe = &v1.Probe{} }, "startupProbe: cannot be set"},
		"lifecycle": {func(e *v1.EphemeralContainer) {
			e.Lifecycle = &v1.Lifecycle{PreStop: &v1.LifecycleHandler{Sleep: &v1.SleepAction{}}}
		}, "lifecycle: cannot be set"},
		"resources": {func(e *v1.EphemeralContainer) { e.Resources.Limits = v1.ResourceList{"cpu": resource.MustParse("1")} }, "resources: cannot be set"},
		"resize policy": {func(e *v1.EphemeralContainer) {
			e.ResizePolicy = []v1.ContainerResizePolicy{{ResourceName: "cpu", RestartPolicy: v1.NotRequired}}
		}, "resizePolicy: cannot be set"},
		"restart policy":    {func(e *v1.EphemeralContainer) { e.RestartPolicy = ptr(v1.ContainerRestartPolicyAlways) }, "restartPolicy"},
		"what is not known": {func(e *v1.EphemeralContainer) { e.VolumeDevices = []v1.VolumeDevice{{Name: "v", DevicePath: "/d"}} }, "field spec.ephemeralContainers[0].volumeDevices is not supported"},
		"a field of security": {func(e *v1.EphemeralContainer) {
			e.SecurityContext = &v1.SecurityContext{AppArmorProfile: &v1.AppArmorProfile{}}
		}, "securityContext.appArmorProfile is not supported"},
	} {
		check(t, name, object.ValidateEphemeral(with(debug(c.change)), with()), c.want)
	}
	check(t, "twice", object.ValidateEphemeral(with(debug(none), debug(none)), with()), `"d" is there twice`)
}

// TestEphemeralDefaults has the defaults of an ephemeral container, and one that
// was stored before it had any: it is not taken for changed.
func TestEphemeralDefaults(t *testing.T) {
	p := pod(func(s *v1.PodSpec) {
		s.EphemeralContainers = []v1.EphemeralContainer{{EphemeralContainerCommon: v1.EphemeralContainerCommon{Name: "d", Image: "x:v1"}}}
	})
	d := &p.Spec.EphemeralContainers[0]
	if d.ImagePullPolicy != v1.PullIfNotPresent || d.TerminationMessagePath != v1.TerminationMessagePathDefault || d.TerminationMessagePolicy != v1.TerminationMessageReadFile {
		t.Errorf("defaults: %+v", d)
	}
	bare := p.DeepCopy()
	bare.Spec.EphemeralContainers[0].EphemeralContainerCommon = v1.EphemeralContainerCommon{Name: "d", Image: "x:v1"}
	check(t, "itself", object.ValidateEphemeral(p, bare), "")
	check(t, "something else", object.ValidateUpdate(p, bare), "")
	check(t, "resources", object.ValidateResize(p, bare), "")
}
