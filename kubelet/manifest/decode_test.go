package manifest_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"

	"github.com/nodekit-project/nodekit/kubelet/manifest"
)

const head = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\n"

func TestDecodeErrors(t *testing.T) {
	cases := map[string]struct{ text, want string }{
		"not YAML":             {"a: [", "document 1 is not YAML or JSON"},
		"a string":             {"hello", "not a Kubernetes object"},
		"the same key twice":   {head + "spec: {restartPolicy: Never, restartPolicy: Always}", "already set"},
		"no kind":              {"apiVersion: v1", "has no kind"},
		"no apiVersion":        {"kind: Pod", "Pod has no apiVersion"},
		"a controller":         {"apiVersion: apps/v1\nkind: Deployment", "write its Pod template as a Pod"},
		"an unknown kind":      {"apiVersion: v1\nkind: Pood", `did you mean "Pod"?`},
		"an unknown version":   {"apiVersion: storage.k8s.io/v9\nkind: CSIDriver", `no version "storage.k8s.io/v9"`},
		"an unknown field":     {head + "spec: {containers: [{name: a, image: i, comand: [x]}]}", `unknown field "spec.containers[0].comand" (did you mean "command"?)`},
		"a wrong type":         {head + "spec: {containers: 3}", "containers"},
		"ephemeral containers": {head + "spec: {ephemeralContainers: [{name: e, image: i}], containers: [{name: a, image: i}]}", "field spec.ephemeralContainers cannot be set when a Pod is created"},
		"an unknown signal":    {head + "spec: {containers: [{name: a, image: i, lifecycle: {stopSignal: SIGNOT}}]}", "stopSignal: \"SIGNOT\" is no signal"},
		"an overhead":          {"apiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata: {name: a}\nhandler: b\noverhead: {podFixed: {memory: 1Mi}}", "overhead: is not counted"},
		"no handler":           {"apiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata: {name: a}", "handler: "},
		"a refused field":      {head + "spec: {hostUsers: false, containers: [{name: a, image: i}]}", "field spec.hostUsers is not supported by nodekit"},
		"refused in a list":    {head + "spec: {containers: [{name: a, image: i, volumeDevices: [{name: v, devicePath: /dev/x}]}]}", "field spec.containers[0].volumeDevices is not supported"},
		"a refused volume":     {head + "spec: {volumes: [{name: v, nfs: {server: s, path: /}}], containers: [{name: a, image: i}]}", "field spec.volumes[0].nfs is not supported"},
		"no containers":        {head + "spec: {}", "spec.containers: a Pod needs at least one"},
		"no image":             {head + "spec: {containers: [{name: a}]}", "spec.containers[0].image: is missing"},
		"no name":              {"apiVersion: v1\nkind: ConfigMap", "metadata.name: is missing"},
		"generateName":         {"apiVersion: v1\nkind: ConfigMap\nmetadata: {generateName: x}", "a file needs metadata.name"},
		"a bad name":           {"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: A_b}", "metadata.name"},
		"a volume that is not": {head + "spec: {containers: [{name: a, image: i, volumeMounts: [{name: v, mountPath: /m}]}]}", `the Pod has no volume "v"`},
		"a subPath that leaves": {
			head + "spec: {volumes: [{name: v}], containers: [{name: a, image: i, volumeMounts: [{name: v, mountPath: /m, subPath: ../x}]}]}",
			"leaves the volume",
		},
		"two probes in one":   {head + "spec: {containers: [{name: a, image: i, livenessProbe: {exec: {command: [a]}, tcpSocket: {port: 1}}}]}", "has 2"},
		"a request too large": {head + "spec: {containers: [{name: a, image: i, resources: {limits: {cpu: 1}, requests: {cpu: 2}}}]}", "more than the limit"},
		"twice in a file":     {"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}", "is there twice"},
		"the second document": {"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n---\nkind: Pod", "document 2: Pod has no apiVersion"},
	}
	for name, c := range cases {
		_, _, err := manifest.Decode([]byte(c.text))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want an error with %q", name, err, c.want)
		}
	}
}

func TestDefaultsAndNotices(t *testing.T) {
	objects, notices, err := manifest.Decode([]byte(head + `
spec:
  nodeName: elsewhere
  tolerations: [{operator: Exists}]
  containers:
  - name: a
    image: registry.example:5000/app
    ports: [{containerPort: 80}]
    readinessProbe: {httpGet: {port: 80}}
    resources: {limits: {cpu: 100m}}
  volumes: [{name: empty}]
---
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Secret, metadata: {name: s}, stringData: {k: v}}
- {apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: fast}, provisioner: x}
`))
	if err != nil {
		t.Fatal(err)
	}
	p := objects[0].(*v1.Pod)
	c := p.Spec.Containers[0]
	got := []any{
		p.Namespace, p.Spec.RestartPolicy, *p.Spec.TerminationGracePeriodSeconds, p.Spec.NodeName, c.ImagePullPolicy, c.TerminationMessagePath,
		c.Ports[0].Protocol, c.ReadinessProbe.PeriodSeconds, c.ReadinessProbe.HTTPGet.Path, c.Resources.Requests.Cpu().MilliValue(), p.Spec.Volumes[0].EmptyDir != nil,
	}
	want := []any{"default", v1.RestartPolicyAlways, int64(30), "", v1.PullAlways, "/dev/termination-log", v1.ProtocolTCP, int32(10), "/", int64(100), true}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("defaults (-want +got):\n%s", diff)
	}
	if s := objects[1].(*v1.Secret); string(s.Data["k"]) != "v" || s.StringData != nil || s.Type != v1.SecretTypeOpaque {
		t.Errorf("secret %+v", s)
	}
	if s := objects[2].(*storagev1.StorageClass); s.Namespace != "" || *s.ReclaimPolicy != v1.PersistentVolumeReclaimDelete {
		t.Errorf("class %+v", s)
	}
	var said []string
	for _, n := range notices {
		said = append(said, n.Object+" "+n.Field)
	}
	if diff := cmp.Diff([]string{"Pod default/web spec.nodeName", "Pod default/web spec.tolerations"}, said); diff != "" {
		t.Errorf("notices (-want +got):\n%s", diff)
	}
}

// TestUnknownValuesAreRefused has values that would otherwise be taken for the
// default, and say nothing.
func TestUnknownValuesAreRefused(t *testing.T) {
	container := func(rest string) string { return "spec: {containers: [{name: a, image: i, " + rest + "}]}" }
	for spec, want := range map[string]string{
		"spec: {dnsPolicy: Cluster, containers: [{name: a, image: i}]}":                                                                "spec.dnsPolicy",
		"spec: {os: {name: windows}, containers: [{name: a, image: i}]}":                                                               "spec.os.name",
		"spec: {hostname: A_B, containers: [{name: a, image: i}]}":                                                                     "spec.hostname",
		"spec: {hostPID: true, shareProcessNamespace: true, containers: [{name: a, image: i}]}":                                        "spec.shareProcessNamespace",
		"spec: {hostAliases: [{ip: x}], containers: [{name: a, image: i}]}":                                                            "spec.hostAliases[0].ip",
		"spec: {securityContext: {fsGroupChangePolicy: Never}, containers: [{name: a, image: i}]}":                                     "spec.securityContext.fsGroupChangePolicy",
		"spec: {securityContext: {seccompProfile: {type: Localhost}}, containers: [{name: a, image: i}]}":                              "localhostProfile",
		"spec: {securityContext: {seccompProfile: {type: Default}}, containers: [{name: a, image: i}]}":                                "seccompProfile.type",
		container("ports: [{containerPort: 80, protocol: HTTP}]"):                                                                      "spec.containers[0].ports[0].protocol",
		container("ports: [{containerPort: 80, name: a}, {containerPort: 81, name: a}]"):                                               "spec.containers[0].ports[1].name",
		container("terminationMessagePolicy: Log"):                                                                                     "terminationMessagePolicy",
		container("resources: {limits: {hugepages-2Mi: 2Mi}}"):                                                                         "hugepages-2Mi is not supported",
		container("lifecycle: {preStop: {tcpSocket: {port: 80}}}"):                                                                     "lifecycle.preStop.tcpSocket",
		container("readinessProbe: {terminationGracePeriodSeconds: 5, tcpSocket: {port: 80}}"):                                         "readinessProbe.terminationGracePeriodSeconds",
		container("volumeMounts: [{name: v, mountPath: /v, mountPropagation: Bidirectional}]"):                                         "Bidirectional is for privileged",
		container("resizePolicy: [{resourceName: cpu, restartPolicy: Always}]"):                                                        "resizePolicy[0].restartPolicy",
		container("securityContext: {procMount: Masked}"):                                                                              "procMount",
		"spec: {resources: {limits: {ephemeral-storage: 1}}, containers: [{name: a, image: i}]}":                                       "ephemeral-storage is for containers",
		"spec: {resources: {limits: {cpu: 1}, requests: {cpu: 2}}, containers: [{name: a, image: i}]}":                                 "spec.resources.requests[cpu]",
		"spec: {resources: {limits: {cpu: 1}}, containers: [{name: a, image: i, resources: {requests: {cpu: 2}}}]}":                    "spec.resources.limits[cpu]: 1 is less than the 2",
		"spec: {resources: {limits: {cpu: 1}}, containers: [{name: a, image: i, resources: {limits: {cpu: 2}, requests: {cpu: 1m}}}]}": "spec.containers[0].resources.limits[cpu]: 2 is more than the Pod's limit",
		"spec: {readinessGates: [{conditionType: x}], containers: [{name: a, image: i}]}":                                              "field spec.readinessGates is not supported",
		container("volumeDevices: [{name: v, devicePath: /dev/x}]"):                                                                    "volumeDevices",
	} {
		if _, _, err := manifest.Decode([]byte(head + spec)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want an error that names %s", spec, err, want)
		}
	}
}

// TestUnenforcedLimitsAreSaid holds limits that the node takes and cannot keep.
func TestUnenforcedLimitsAreSaid(t *testing.T) {
	_, notices, err := manifest.Decode([]byte(head + `spec:
  serviceAccountName: robot
  containers: [{name: a, image: i, resources: {limits: {ephemeral-storage: 1Gi}}}]
  volumes: [{name: v, emptyDir: {sizeLimit: 1Mi}}, {name: m, emptyDir: {medium: Memory, sizeLimit: 1Mi}}]
`))
	if err != nil {
		t.Fatal(err)
	}
	var said []string
	for _, n := range notices {
		said = append(said, n.Field)
	}
	want := []string{"spec.serviceAccountName", "spec.volumes[0].emptyDir.sizeLimit", "spec.containers[0].resources.limits[ephemeral-storage]"}
	if diff := cmp.Diff(want, said); diff != "" {
		t.Errorf("notices (-want +got):\n%s", diff)
	}
}

// TestPullPolicy has the image names whose tag is easily misread.
func TestPullPolicy(t *testing.T) {
	for image, want := range map[string]v1.PullPolicy{
		"a": v1.PullAlways, "a:latest": v1.PullAlways, "r:5000/a": v1.PullAlways, "a:1": v1.PullIfNotPresent,
		"r:5000/a:1": v1.PullIfNotPresent, "a@sha256:0123": v1.PullIfNotPresent, "a:latest@sha256:0123": v1.PullIfNotPresent,
	} {
		objects, _, err := manifest.Decode([]byte(head + "spec: {containers: [{name: a, image: '" + image + "'}]}"))
		if err != nil {
			t.Fatal(err)
		}
		if got := objects[0].(*v1.Pod).Spec.Containers[0].ImagePullPolicy; got != want {
			t.Errorf("%s: got %s, want %s", image, got, want)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(head + "spec: {containers: [{name: a, image: i}]}"))
	f.Add([]byte("a: [\n---\n{}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		objects, _, err := manifest.Decode(data)
		if err != nil && objects != nil {
			t.Error("objects beside an error")
		}
	})
}

// However a Secret is broken, the error, which goes into the log, does not hold
// what it keeps secret.
func TestErrorsKeepSecrets(t *testing.T) {
	const word = "hunter2"
	for _, text := range []string{
		"stringData: {token: [" + word + "]}",
		"stringData: {token: {" + word + ": x}}",
		"stringData: {token: 'a " + word + "}",
		"stringData: {token: \"\\q" + word + "\"}",
		"stringData: " + word,
		"stringData:\n  token: " + word + ": " + word,
		"stringData:\n  token: *" + word,
		"stringData:\n  token: !!int " + word,
		"stringData:\n  token: @" + word,
		"stringData:\n  " + word + "\n  a: b",
		"data: {token: " + word + "!}",
		"data: [" + word + "]",
		"data:\n  token: " + word + "\n\tx: y",
	} {
		_, _, err := manifest.Decode([]byte("apiVersion: v1\nkind: Secret\nmetadata: {name: s}\n" + text + "\n"))
		if err == nil {
			t.Errorf("accepted:\n%s", text)
		} else if strings.Contains(err.Error(), word) {
			t.Errorf("%s\nbecomes: %v", text, err)
		}
	}
}
