//go:build streams

package oldclient_test

import (
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Lists as streams came with 0.36.
func TestStreams(t *testing.T) {
	s := serve(t)
	sandbox, config := s.sandbox(t)
	id := s.container(t, sandbox, config)
	defer s.ends(t, sandbox, id)
	sandboxes, err := s.StreamPodSandboxes(t.Context(), &runtimeapi.StreamPodSandboxesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if m, err := sandboxes.Recv(); err != nil || len(m.PodSandboxes) != 1 || m.PodSandboxes[0].Id != sandbox {
		t.Errorf("sandboxes %v, %v", m, err)
	}
	containers, err := s.StreamContainers(t.Context(), &runtimeapi.StreamContainersRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if m, err := containers.Recv(); err != nil || len(m.Containers) != 1 || m.Containers[0].Id != id {
		t.Errorf("containers %v, %v", m, err)
	}
}
