package object_test

import (
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodekit-project/nodekit/kubelet/object"
)

func ptr[T any](v T) *T { return &v }

// check holds an error to what it is to say: "" for none.
func check(t *testing.T, name string, err error, want string) {
	t.Helper()
	if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
		t.Errorf("%s: got %v, want %q", name, err, want)
	}
}

func pod(change func(*v1.PodSpec)) *v1.Pod {
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns"}}
	p.Spec.Containers = []v1.Container{{Name: "c", Image: "x"}}
	p.Spec.InitContainers = []v1.Container{{Name: "i", Image: "x"}}
	change(&p.Spec)
	object.Default(p)
	return p
}

func TestValidateUpdate(t *testing.T) {
	meta := metav1.ObjectMeta{Name: "x"}
	same := func(*v1.PodSpec) {}
	claim := func(size string, change func(*v1.PersistentVolumeClaim)) *v1.PersistentVolumeClaim {
		c := &v1.PersistentVolumeClaim{ObjectMeta: meta}
		c.Spec.Resources.Requests = v1.ResourceList{v1.ResourceStorage: resource.MustParse(size)}
		change(c)
		return c
	}
	none := func(*v1.PersistentVolumeClaim) {}
	named := func(c *v1.PersistentVolumeClaim) { c.Spec.VolumeName, c.Spec.StorageClassName = "v", ptr("sc") }
	deadline := func(n int64) func(*v1.PodSpec) { return func(s *v1.PodSpec) { s.ActiveDeadlineSeconds = ptr(n) } }
	tolerates := func(keys ...string) func(*v1.PodSpec) {
		return func(s *v1.PodSpec) {
			for _, k := range keys {
				s.Tolerations = append(s.Tolerations, v1.Toleration{Key: k})
			}
		}
	}
	for name, c := range map[string]struct {
		next, old object.Object
		want      string
	}{
		"pod, the same":     {pod(same), pod(same), ""},
		"image":             {pod(func(s *v1.PodSpec) { s.Containers[0].Image = "y" }), pod(same), ""},
		"init image":        {pod(func(s *v1.PodSpec) { s.InitContainers[0].Image = "y" }), pod(same), ""},
		"no image":          {pod(func(s *v1.PodSpec) { s.Containers[0].Image = "" }), pod(same), "image"},
		"tolerations":       {pod(func(s *v1.PodSpec) { s.Tolerations = []v1.Toleration{{Key: "k"}} }), pod(same), ""},
		"more tolerations":  {pod(tolerates("k", "l")), pod(tolerates("k")), ""},
		"for longer":        {pod(func(s *v1.PodSpec) { s.Tolerations = []v1.Toleration{{Key: "k", TolerationSeconds: ptr(int64(9))}} }), pod(tolerates("k")), ""},
		"less tolerations":  {pod(tolerates("l")), pod(tolerates("k", "l")), `spec.tolerations: may only be added to: the one of "k"`},
		"no tolerations":    {pod(same), pod(tolerates("k")), "spec.tolerations"},
		"command":           {pod(func(s *v1.PodSpec) { s.Containers[0].Command = []string{"x"} }), pod(same), "only image"},
		"another container": {pod(func(s *v1.PodSpec) { s.Containers = append(s.Containers, v1.Container{Name: "d", Image: "x"}) }), pod(same), "only image"},
		"a deadline":        {pod(deadline(5)), pod(same), ""},
		"a nearer deadline": {pod(deadline(4)), pod(deadline(5)), ""},
		"a later deadline":  {pod(deadline(6)), pod(deadline(5)), "may only become less"},
		"no deadline":       {pod(same), pod(deadline(5)), "may only become less"},
		"config map":        {&v1.ConfigMap{ObjectMeta: meta, Data: map[string]string{"a": "2"}}, &v1.ConfigMap{ObjectMeta: meta, Data: map[string]string{"a": "1"}}, ""},
		"made immutable":    {&v1.ConfigMap{ObjectMeta: meta, Immutable: ptr(true)}, &v1.ConfigMap{ObjectMeta: meta}, ""},
		"made mutable":      {&v1.ConfigMap{ObjectMeta: meta}, &v1.ConfigMap{ObjectMeta: meta, Immutable: ptr(true)}, "data"},
		"immutable":         {&v1.ConfigMap{ObjectMeta: meta, Immutable: ptr(true), BinaryData: map[string][]byte{"a": nil}}, &v1.ConfigMap{ObjectMeta: meta, Immutable: ptr(true)}, "data"},
		"immutable secret":  {&v1.Secret{ObjectMeta: meta, Immutable: ptr(true), Data: map[string][]byte{"a": nil}}, &v1.Secret{ObjectMeta: meta, Immutable: ptr(true)}, "data"},
		"type of secret":    {&v1.Secret{ObjectMeta: meta, Type: "a"}, &v1.Secret{ObjectMeta: meta, Type: "b"}, "type"},
		"more storage":      {claim("2Gi", none), claim("1Gi", none), ""},
		"less storage":      {claim("1Gi", none), claim("2Gi", none), "is less than"},
		"bound":             {claim("1Gi", named), claim("1Gi", none), ""},
		"bound to another":  {claim("1Gi", none), claim("1Gi", named), "only the requested storage"},
		"another source": {
			&v1.PersistentVolume{ObjectMeta: meta, Spec: v1.PersistentVolumeSpec{PersistentVolumeSource: v1.PersistentVolumeSource{HostPath: &v1.HostPathVolumeSource{}}}},
			&v1.PersistentVolume{ObjectMeta: meta}, "persistentvolumesource",
		},
		"provisioner": {&storagev1.StorageClass{ObjectMeta: meta, Provisioner: "a"}, &storagev1.StorageClass{ObjectMeta: meta}, "provisioner"},
		"parameters":  {&storagev1.StorageClass{ObjectMeta: meta, Parameters: map[string]string{"a": "b"}}, &storagev1.StorageClass{ObjectMeta: meta}, "parameters"},
	} {
		check(t, name, object.ValidateUpdate(c.next, c.old), c.want)
	}
}

func TestValidateParts(t *testing.T) {
	same := func(*v1.PodSpec) {}
	debug := func(image string) func(*v1.PodSpec) {
		return func(s *v1.PodSpec) {
			s.EphemeralContainers = []v1.EphemeralContainer{{EphemeralContainerCommon: v1.EphemeralContainerCommon{Name: "d", Image: image}}}
		}
	}
	cpu := func(s *v1.PodSpec) {
		s.Containers[0].Resources.Limits = v1.ResourceList{v1.ResourceCPU: resource.MustParse("2")}
	}
	more := func(s *v1.PodSpec) {
		cpu(s)
		s.Containers[0].Resources.Requests = v1.ResourceList{v1.ResourceCPU: resource.MustParse("3")}
	}
	host := func(s *v1.PodSpec) { s.HostPID = true }
	check(t, "added", object.ValidateEphemeral(pod(debug("x")), pod(same)), "")
	check(t, "kept", object.ValidateEphemeral(pod(debug("x")), pod(debug("x"))), "")
	check(t, "changed", object.ValidateEphemeral(pod(debug("y")), pod(debug("x"))), "may not be changed or removed")
	check(t, "removed", object.ValidateEphemeral(pod(same), pod(debug("x"))), "may not be changed or removed")
	check(t, "something else", object.ValidateEphemeral(pod(host), pod(same)), "only spec.ephemeralContainers")
	check(t, "resized", object.ValidateResize(pod(cpu), pod(same)), "")
	check(t, "more than the limit", object.ValidateResize(pod(more), pod(cpu)), "more than the limit")
	own := func(s *v1.PodSpec) {
		s.Resources = &v1.ResourceRequirements{Limits: v1.ResourceList{v1.ResourceCPU: resource.MustParse("2")}}
	}
	initCPU := func(s *v1.PodSpec) {
		s.InitContainers[0].Resources.Limits = v1.ResourceList{v1.ResourceCPU: resource.MustParse("2")}
	}
	sidecar := func(s *v1.PodSpec) { s.InitContainers[0].RestartPolicy = ptr(v1.ContainerRestartPolicyAlways) }
	gpu := func(s *v1.PodSpec) {
		s.Containers[0].Resources.Limits = v1.ResourceList{"example.com/gpu": resource.MustParse("1")}
	}
	check(t, "the Pod's own", object.ValidateResize(pod(own), pod(same)), "spec.resources: what the Pod itself asks for")
	check(t, "the Pod's own, kept", object.ValidateResize(pod(own), pod(own)), "")
	check(t, "an init container", object.ValidateResize(pod(initCPU), pod(same)), "spec.initContainers[0].resources")
	check(t, "a sidecar", object.ValidateResize(pod(func(s *v1.PodSpec) { sidecar(s); initCPU(s) }), pod(sidecar)), "")
	check(t, "a device", object.ValidateResize(pod(gpu), pod(same)), "only cpu and memory")
	check(t, "resized and more", object.ValidateResize(pod(host), pod(same)), "only the resources")
}

// FuzzDecode has documents of all kinds: none may panic, and what is complete
// stays so.
func FuzzDecode(f *testing.F) {
	f.Add(0, []byte(`{"metadata":{"name":"a"},"data":{"k":"v"}}`))
	f.Add(6, []byte(`{"metadata":{"name":"a"},"spec":{"containers":[{"name":"c","image":"x","livenessProbe":{"httpGet":{"port":80}},"lifecycle":{"preStop":{"sleep":{"seconds":1}}}}],"volumes":[{"name":"v","projected":{"sources":[{}]}}]}}`))
	f.Add(7, []byte(`{"metadata":{"name":"a","labels":{"a":"b"}},"stringData":{"k":"v"}}`))
	f.Fuzz(func(t *testing.T, n int, doc []byte) {
		kinds := object.Kinds()
		o, _, err := object.DecodeJSON(doc, kinds[uint(n)%uint(len(kinds))]) //nolint:gosec // any number is as good
		if err != nil {
			return
		}
		if _, err := object.Complete(o); err != nil {
			return
		}
		if err := object.Prepare(o); err != nil {
			t.Errorf("complete once and not twice: %v", err)
		}
	})
}
