package spec_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri/oci/spec"
)

func podLabels() spec.Labels {
	return spec.Labels{Process: "system_u:system_r:container_t:s0:c1,c2", Mount: "system_u:object_r:container_file_t:s0:c1,c2"}
}

func TestContainerLabels(t *testing.T) {
	node := runtimeapi.NamespaceMode_NODE
	type (
		sandbox   = *runtimeapi.LinuxSandboxSecurityContext
		container = *runtimeapi.LinuxContainerSecurityContext
	)
	for name, tc := range map[string]struct {
		pod    spec.Labels
		change func(s sandbox, c container)
		want   spec.Labels
	}{
		"nothing asked for": {podLabels(), func(sandbox, container) {}, podLabels()},
		"an empty message":  {podLabels(), func(_ sandbox, c container) { c.SelinuxOptions = &runtimeapi.SELinuxOption{} }, podLabels()},
		"a type": {podLabels(), func(_ sandbox, c container) { c.SelinuxOptions = &runtimeapi.SELinuxOption{Type: "spc_t"} }, spec.Labels{
			Process: "system_u:system_r:spc_t:s0:c1,c2", Mount: podLabels().Mount,
		}},
		"all of it": {podLabels(), func(_ sandbox, c container) {
			c.SelinuxOptions = &runtimeapi.SELinuxOption{User: "u", Role: "r", Type: "t", Level: "s0-s1:c0.c3,c7"}
		}, spec.Labels{Process: "u:r:t:s0-s1:c0.c3,c7", Mount: "u:object_r:container_file_t:s0-s1:c0.c3,c7"}},
		"a level in a policy without": {spec.Labels{Process: "u:r:t", Mount: "u:o:f"}, func(_ sandbox, c container) {
			c.SelinuxOptions = &runtimeapi.SELinuxOption{Level: "s0"}
		}, spec.Labels{Process: "u:r:t:s0", Mount: "u:o:f:s0"}},
		"privileged": {podLabels(), func(s sandbox, c container) {
			s.Privileged, c.Privileged = true, true
			c.SelinuxOptions = &runtimeapi.SELinuxOption{Type: "spc_t"}
		}, spec.Labels{Mount: podLabels().Mount}},
		"the host's processes": {podLabels(), func(_ sandbox, c container) {
			c.NamespaceOptions = &runtimeapi.NamespaceOption{Pid: node}
		}, spec.Labels{}},
		"the host's IPC": {podLabels(), func(s sandbox, _ container) {
			s.NamespaceOptions = &runtimeapi.NamespaceOption{Ipc: node}
		}, spec.Labels{}},
		"the host's network": {podLabels(), func(s sandbox, _ container) {
			s.NamespaceOptions = &runtimeapi.NamespaceOption{Network: node}
		}, podLabels()},
		"SELinux is off": {spec.Labels{}, func(_ sandbox, c container) {
			c.SelinuxOptions = &runtimeapi.SELinuxOption{Type: "t", Level: "s0:c1"}
		}, spec.Labels{}},
	} {
		t.Run(name, func(t *testing.T) {
			in := input()
			tc.change(in.Sandbox.Linux.SecurityContext, in.Container.Linux.SecurityContext)
			got, err := spec.ContainerLabels(tc.pod, in.Sandbox, in.Container)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("the labels differ (-want +got):\n%s", diff)
			}
		})
	}
}
