package oci_test

import (
	"maps"
	"slices"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestCallTimes prints how long each call of a Pod's life takes, one Pod after
// the other with a rest between them, as on a real node.
func TestCallTimes(t *testing.T) {
	n := newNode(t)
	took := map[string][]time.Duration{}
	for range 15 {
		time.Sleep(40 * time.Millisecond)
		measure := func(what string, f func()) {
			begin := time.Now()
			f()
			took[what] = append(took[what], time.Since(begin))
		}
		var sandbox, id string
		var cfg *runtimeapi.PodSandboxConfig
		measure("1 RunPodSandbox", func() { sandbox, cfg = n.sandbox("times", nil) })
		measure("2 CreateContainer", func() {
			id = n.create(sandbox, cfg, "main", func(c *runtimeapi.ContainerConfig) {
				c.Linux.SecurityContext.Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
			}, "trap", "0")
		})
		measure("3 StartContainer", func() { n.startContainer(id) })
		time.Sleep(40 * time.Millisecond)
		measure("4 ExecSync", func() { n.exec(id, "/podtool", "hostname") })
		measure("5 StopContainer", func() {
			_, err := n.rs.StopContainer(t.Context(), &runtimeapi.StopContainerRequest{ContainerId: id, Timeout: 5})
			n.must(err)
		})
		measure("6 RemoveContainer", func() {
			_, err := n.rs.RemoveContainer(t.Context(), &runtimeapi.RemoveContainerRequest{ContainerId: id})
			n.must(err)
		})
		measure("7 StopPodSandbox and RemovePodSandbox", func() { n.removeSandbox(sandbox) })
	}
	for _, what := range slices.Sorted(maps.Keys(took)) {
		all := took[what]
		slices.Sort(all)
		t.Logf("%-40s min %6.1f  p50 %6.1f  max %6.1f ms", what, ms(all[0]), ms(all[len(all)/2]), ms(all[len(all)-1]))
	}
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
