package oci_test

import (
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/internal/cgroup"
)

// TestMissingCgroupParent: those parts of a Pod's cgroup that were created for it are
// removed once no Pod names them, even by the server after the one that created them.
func TestMissingCgroupParent(t *testing.T) {
	n := newNode(t)
	if n.cfg().Systemd {
		return // slices are systemd's
	}
	top := n.cgroup() + "-pods"
	n.must(cgroup.Create(top))
	t.Cleanup(func() {
		if err := cgroup.Destroy(top); err != nil {
			t.Error(err)
		}
	})
	in := func(path string) func(*runtimeapi.PodSandboxConfig) {
		return func(c *runtimeapi.PodSandboxConfig) { c.Linux.CgroupParent = path }
	}
	first, cfg := n.sandbox("first", in(top+"/a/b"))
	n.startContainer(n.create(first, cfg, "main", nil, "sleep", "forever"))
	second, cfg := n.sandbox("second", in(top+"/a/c"))
	third, _ := n.sandbox("third", in(top+"/never/used"))
	n.removeSandbox(third)
	n.removeSandbox(first)
	if cgroup.Exists(top + "/a/b") {
		t.Error("the first Pod's cgroup stays")
	}
	n.startContainer(n.create(second, cfg, "main", nil, "sleep", "forever"))
	n.restart()
	n.removeSandbox(second)
	if left, err := cgroup.Children(top); err != nil || len(left) > 0 {
		t.Errorf("left behind: %q (%v)", left, err)
	}
	if !cgroup.Exists(top) {
		t.Error("what was there was removed")
	}
	_, err := n.rs.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: n.sandboxConfig("up", in("../../x"))})
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("a parent with ..: %v, want InvalidArgument", err)
	}
}
