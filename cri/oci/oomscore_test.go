package oci_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/internal/cgroup"
)

// TestUpdateOOMScore: a new score is that of the processes that had the old one, and of
// those to come, but of none that has chosen its own; and the status shows what they have.
func TestUpdateOOMScore(t *testing.T) {
	n := newNode(t)
	sandbox, cfg := n.sandbox("scores", nil)
	id := n.create(sandbox, cfg, "main", func(c *runtimeapi.ContainerConfig) {
		c.Linux.Resources = &runtimeapi.LinuxContainerResources{OomScoreAdj: 300}
	}, "do", "leave sleep forever", "leave sleep forever", "echo left", "sleep forever")
	update := func(r *runtimeapi.LinuxContainerResources) error {
		_, err := n.rs.UpdateContainerResources(t.Context(), &runtimeapi.UpdateContainerResourcesRequest{ContainerId: id, Linux: r})
		return err
	}
	want := func(when string, score int, all ...int) {
		t.Helper()
		pids, err := cgroup.Processes(n.sandboxCgroup(sandbox) + "/" + id)
		n.must(err)
		var have []int
		for _, pid := range pids {
			have = append(have, scoreOf(t, pid))
		}
		slices.Sort(have)
		if !slices.Equal(have, all) {
			t.Errorf("%s: the processes have the scores %v, want %v", when, have, all)
		}
		// The keeper gives a command its score when it runs.
		if out, code := n.exec(id, "/podtool", "do", "sleep 300ms", "cat /proc/self/oom_score_adj"); strings.TrimSpace(out) != fmt.Sprint(score) || code != 0 {
			t.Errorf("%s: a command has the score %q (code %d), want %d", when, out, code, score)
		}
		if told := n.status(id).GetResources().GetLinux().GetOomScoreAdj(); told != int64(score) {
			t.Errorf("%s: the status shows the score %d, want %d", when, told, score)
		}
	}
	n.must(update(&runtimeapi.LinuxContainerResources{OomScoreAdj: 500}))
	n.startContainer(id)
	n.waitLog("scores", "main", "left")
	want("before the start", 500, 500, 500, 500)

	pids, err := cgroup.Processes(n.sandboxCgroup(sandbox) + "/" + id)
	n.must(err)
	n.must(os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", slices.Max(pids)), []byte("900"), 0)) // as it may itself
	n.must(update(&runtimeapi.LinuxContainerResources{OomScoreAdj: 700}))
	want("a higher one", 700, 700, 700, 900)
	n.must(update(&runtimeapi.LinuxContainerResources{OomScoreAdj: 100, CpuShares: 200}))
	want("a lower one", 100, 100, 100, 900)
	n.must(update(&runtimeapi.LinuxContainerResources{CpuShares: 300}))
	want("none", 100, 100, 100, 900)
	if err := update(&runtimeapi.LinuxContainerResources{OomScoreAdj: 200, CpusetCpus: "4000"}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a cpu that is not: %v, want InvalidArgument", err)
	}
	want("one beside what is refused", 100, 100, 100, 900)
	n.removeSandbox(sandbox)
}

func scoreOf(t *testing.T, pid int) (score int) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid))
	if err == nil {
		_, err = fmt.Sscan(string(text), &score)
	}
	if err != nil {
		t.Fatal(err)
	}
	return score
}
