package oci_test

import (
	"slices"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// BenchmarkPodLife reports how long each call in the life of a Pod takes, one Pod after
// the other with pauses, as on a real node: the median in milliseconds, with a CNI plugin
// that is a shell script, and with and without the default seccomp profile.
func BenchmarkPodLife(b *testing.B) {
	for name, profile := range map[string]runtimeapi.SecurityProfile_ProfileType{
		"default": runtimeapi.SecurityProfile_RuntimeDefault, "unconfined": runtimeapi.SecurityProfile_Unconfined,
	} {
		b.Run(name, func(b *testing.B) { benchmarkLife(b, profile) })
	}
}

func benchmarkLife(b *testing.B, profile runtimeapi.SecurityProfile_ProfileType) {
	n := newNode(b)
	took := map[string][]time.Duration{}
	for b.Loop() {
		time.Sleep(40 * time.Millisecond)
		measure := func(what string, f func()) {
			begin := time.Now()
			f()
			took[what] = append(took[what], time.Since(begin))
		}
		var sandbox, id string
		var cfg *runtimeapi.PodSandboxConfig
		measure("run-ms", func() { sandbox, cfg = n.sandbox("times", nil) })
		measure("create-ms", func() {
			id = n.create(sandbox, cfg, "main", func(c *runtimeapi.ContainerConfig) {
				c.Linux.SecurityContext.Seccomp = &runtimeapi.SecurityProfile{ProfileType: profile}
			}, "trap", "0")
		})
		measure("start-ms", func() { n.startContainer(id) })
		time.Sleep(40 * time.Millisecond)
		measure("exec-ms", func() { n.exec(id, "/podtool", "hostname") })
		measure("stop-ms", func() {
			_, err := n.rs.StopContainer(b.Context(), &runtimeapi.StopContainerRequest{ContainerId: id, Timeout: 5})
			n.must(err)
		})
		measure("rm-ms", func() {
			_, err := n.rs.RemoveContainer(b.Context(), &runtimeapi.RemoveContainerRequest{ContainerId: id})
			n.must(err)
		})
		measure("stop-sandbox-ms", func() {
			_, err := n.rs.StopPodSandbox(b.Context(), &runtimeapi.StopPodSandboxRequest{PodSandboxId: sandbox})
			n.must(err)
		})
		measure("rm-sandbox-ms", func() {
			_, err := n.rs.RemovePodSandbox(b.Context(), &runtimeapi.RemovePodSandboxRequest{PodSandboxId: sandbox})
			n.must(err)
		})
	}
	for what, all := range took {
		slices.Sort(all)
		b.ReportMetric(float64(all[len(all)/2])/float64(time.Millisecond), what)
	}
}
