package kubelet

import (
	"testing"

	v1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodekit-project/nodekit/kubelet/object"
)

func TestRefers(t *testing.T) {
	meta := func(namespace, name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: namespace, Name: name}
	}
	configMap := func(name string) object.Object { return &v1.ConfigMap{ObjectMeta: meta("ns", name)} }
	secret := func(name string) object.Object { return &v1.Secret{ObjectMeta: meta("ns", name)} }
	ref := func(name string) v1.LocalObjectReference { return v1.LocalObjectReference{Name: name} }
	volume := func(s v1.VolumeSource) v1.PodSpec {
		return v1.PodSpec{Volumes: []v1.Volume{{Name: "v", VolumeSource: s}}}
	}
	projected := func(s v1.VolumeProjection) v1.PodSpec {
		return volume(v1.VolumeSource{Projected: &v1.ProjectedVolumeSource{Sources: []v1.VolumeProjection{s}}})
	}
	env := func(s v1.EnvVarSource) v1.PodSpec {
		return v1.PodSpec{Containers: []v1.Container{{Name: "c", Env: []v1.EnvVar{{Name: "a"}, {Name: "b", ValueFrom: &s}}}}}
	}
	claim := volume(v1.VolumeSource{PersistentVolumeClaim: &v1.PersistentVolumeClaimVolumeSource{ClaimName: "x"}})
	class := "x"
	for name, c := range map[string]struct {
		spec v1.PodSpec
		o    object.Object
		want bool
	}{
		"nothing":                  {v1.PodSpec{}, configMap("x"), false},
		"a configMap volume":       {volume(v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: ref("x")}}), configMap("x"), true},
		"another":                  {volume(v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: ref("x")}}), configMap("y"), false},
		"of another kind":          {volume(v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: ref("x")}}), secret("x"), false},
		"of another namespace":     {volume(v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: ref("x")}}), &v1.ConfigMap{ObjectMeta: meta("other", "x")}, false},
		"a secret volume":          {volume(v1.VolumeSource{Secret: &v1.SecretVolumeSource{SecretName: "x"}}), secret("x"), true},
		"a projected configMap":    {projected(v1.VolumeProjection{ConfigMap: &v1.ConfigMapProjection{LocalObjectReference: ref("x")}}), configMap("x"), true},
		"a projected secret":       {projected(v1.VolumeProjection{Secret: &v1.SecretProjection{LocalObjectReference: ref("x")}}), secret("x"), true},
		"a variable's configMap":   {env(v1.EnvVarSource{ConfigMapKeyRef: &v1.ConfigMapKeySelector{LocalObjectReference: ref("x")}}), configMap("x"), true},
		"a variable's secret":      {env(v1.EnvVarSource{SecretKeyRef: &v1.SecretKeySelector{LocalObjectReference: ref("x")}}), secret("x"), true},
		"a variable of the Pod":    {env(v1.EnvVarSource{FieldRef: &v1.ObjectFieldSelector{}}), secret("x"), false},
		"all of a configMap":       {v1.PodSpec{InitContainers: []v1.Container{{Name: "i", EnvFrom: []v1.EnvFromSource{{ConfigMapRef: &v1.ConfigMapEnvSource{LocalObjectReference: ref("x")}}}}}}, configMap("x"), true},
		"an ephemeral container's": {v1.PodSpec{EphemeralContainers: []v1.EphemeralContainer{{EphemeralContainerCommon: v1.EphemeralContainerCommon{Name: "e", EnvFrom: []v1.EnvFromSource{{SecretRef: &v1.SecretEnvSource{LocalObjectReference: ref("x")}}}}}}}, secret("x"), true},
		"a pull secret":            {v1.PodSpec{ImagePullSecrets: []v1.LocalObjectReference{ref("x")}}, secret("x"), false}, // see TestPullsWith
		"a claim":                  {claim, &v1.PersistentVolumeClaim{ObjectMeta: meta("ns", "x")}, true},
		"another claim":            {claim, &v1.PersistentVolumeClaim{ObjectMeta: meta("ns", "y")}, false},
		"a claim's volume":         {claim, &v1.PersistentVolume{ObjectMeta: meta("", "z")}, true},
		"a claim's credentials":    {claim, &v1.Secret{ObjectMeta: meta("other", "z")}, true},
		"a claim's configMap":      {claim, configMap("x"), false},
		"an inline volume's":       {volume(v1.VolumeSource{CSI: &v1.CSIVolumeSource{Driver: "d"}}), &storagev1.CSIDriver{ObjectMeta: meta("", "d")}, true},
		"a class of volumes":       {v1.PodSpec{}, &storagev1.StorageClass{ObjectMeta: meta("", "d")}, false},
		"a runtime class":          {v1.PodSpec{RuntimeClassName: &class}, &nodev1.RuntimeClass{ObjectMeta: meta("", "x")}, true},
		"another runtime class":    {v1.PodSpec{RuntimeClassName: &class}, &nodev1.RuntimeClass{ObjectMeta: meta("", "y")}, false},
	} {
		if got := refers(&v1.Pod{ObjectMeta: meta("ns", "p"), Spec: c.spec}, c.o); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestPullsWith(t *testing.T) {
	p := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p"},
		Spec:       v1.PodSpec{ImagePullSecrets: []v1.LocalObjectReference{{Name: "x"}, {Name: "y"}}},
	}
	meta := func(namespace, name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: namespace, Name: name}
	}
	for name, c := range map[string]struct {
		o    object.Object
		want bool
	}{
		"its own":             {&v1.Secret{ObjectMeta: meta("ns", "y")}, true},
		"another":             {&v1.Secret{ObjectMeta: meta("ns", "z")}, false},
		"another namespace's": {&v1.Secret{ObjectMeta: meta("other", "y")}, false},
		"no Secret":           {&v1.ConfigMap{ObjectMeta: meta("ns", "y")}, false},
	} {
		if got := pullsWith(p, c.o); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
