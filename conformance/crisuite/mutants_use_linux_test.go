package crisuite_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func limited(change func(*runtimeapi.LinuxContainerResources)) fault {
	return create(func(c *runtimeapi.ContainerConfig) { change(c.Linux.Resources) })
}

func resourceMutants() []mutant {
	type r = runtimeapi.LinuxContainerResources
	noUpdate := swallow(&runtimeapi.UpdateContainerResourcesResponse{}, "UpdateContainerResources", nil)
	return []mutant{
		{"CRI-RES-001", "limits no memory", limited(func(r *r) { r.MemoryLimitInBytes = 0 })},
		{"CRI-RES-002", "limits no processor time", limited(func(r *r) { r.CpuQuota = 0 })},
		{"CRI-RES-003", "weighs all alike", limited(func(r *r) { r.CpuShares = 512 })},
		{"CRI-RES-004", "sets no oom_score_adj", limited(func(r *r) { r.OomScoreAdj = 0 })},
		{"CRI-RES-005", "runs anywhere", limited(func(r *r) { r.CpusetCpus = "" })},
		{"CRI-RES-006", "does not say why", tellStatus(func(s *runtimeapi.ContainerStatus) { s.Reason = "Error" })},
		{"CRI-RES-007", "updates nothing", noUpdate},
		{"CRI-RES-008", "says nothing of limits", tellStatus(func(s *runtimeapi.ContainerStatus) { s.Resources = nil })},
		{"CRI-RES-009", "takes any update", noUpdate},
		{"CRI-RES-010", "chooses cgroups", runSandbox(func(c *runtimeapi.PodSandboxConfig) { c.Linux.CgroupParent = "" })},
	}
}

func tellStats(change func(*runtimeapi.ContainerStats)) fault {
	return tell(func(r *runtimeapi.ContainerStatsResponse) { change(r.Stats) })
}

func statsMutants() []mutant {
	return []mutant{
		{"CRI-STATS-001", "forgets the working set", tellStats(func(s *runtimeapi.ContainerStats) { s.Memory.WorkingSetBytes = nil })},
		{"CRI-STATS-002", "counts no processor time", tellStats(func(s *runtimeapi.ContainerStats) { s.Cpu.UsageCoreNanoSeconds = nil })},
		{"CRI-STATS-003", "has stats of nobody", tellStats(func(s *runtimeapi.ContainerStats) { s.Attributes.Labels = nil })},
		{"CRI-STATS-004", "does not filter stats", edit(func(r *runtimeapi.ListContainerStatsRequest) { r.Filter.Id, r.Filter.LabelSelector = "", nil })},
		{"CRI-STATS-005", "has stats of nothing", whitewash("ContainerStats", &runtimeapi.ContainerStatsResponse{})},
		{"CRI-STATS-006", "does not look at what is written", tellStats(func(s *runtimeapi.ContainerStats) { s.WritableLayer = nil })},
		{"CRI-STATS-007", "has stats of another Pod", swallow(&runtimeapi.PodSandboxStatsResponse{
			Stats: &runtimeapi.PodSandboxStats{Attributes: &runtimeapi.PodSandboxAttributes{Id: "another"}},
		}, "PodSandboxStats", nil)},
		{"CRI-STATS-008", "gives metrics that it does not describe", both(
			swallow(&runtimeapi.ListMetricDescriptorsResponse{Descriptors: []*runtimeapi.MetricDescriptor{{Name: "one"}}}, "ListMetricDescriptors", nil),
			swallow(&runtimeapi.ListPodSandboxMetricsResponse{PodMetrics: []*runtimeapi.PodSandboxMetrics{{Metrics: []*runtimeapi.Metric{{Name: "two"}}}}}, "ListPodSandboxMetrics", nil),
		)},
	}
}

type event = runtimeapi.ContainerEventResponse

func eventMutants() []mutant {
	none := []proto.Message{}
	only := func(m proto.Message, such bool) []proto.Message {
		if such {
			return []proto.Message{m}
		}
		return none
	}
	return []mutant{
		{"CRI-EVENT-001", "does not tell that containers end", send(func(e *event) []proto.Message {
			return only(e, e.ContainerEventType != runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT)
		})},
		{"CRI-EVENT-002", "does not tell of sandboxes", send(func(e *event) []proto.Message {
			return only(e, e.ContainerId != e.PodSandboxStatus.GetId())
		})},
		{"CRI-EVENT-003", "sends no statuses", send(func(e *event) []proto.Message {
			e.ContainersStatuses = nil
			return only(e, true)
		})},
		{"CRI-EVENT-004", "tells each event to one", toOne()},
		{"CRI-EVENT-005", "waits for the first subscriber", toOne()},
		{"CRI-EVENT-006", "sends every end as success", send(func(e *event) []proto.Message {
			for _, st := range e.ContainersStatuses {
				st.ExitCode = 0
			}
			return only(e, true)
		})},
	}
}

// toOne sends events to the first subscriber alone.
func toOne() fault {
	return fault{streamed: func(c *exchange, m proto.Message) []proto.Message {
		if c.method == "GetContainerEvents" && c.calls > 1 {
			return nil
		}
		return []proto.Message{m}
	}}
}

func concurrencyMutants() []mutant {
	return []mutant{
		{"CRI-CONC-001", "makes a sandbox for each request", anotherEach()},
		{"CRI-CONC-002", "makes a container for each request", create(func(c *runtimeapi.ContainerConfig) { c.Metadata.Name += fmt.Sprint(rand.Uint32()) })},
		{"CRI-CONC-003", "makes a second sandbox of a retry", makesTwo()},
		{"CRI-CONC-004", "makes a second container of a retry", fault{answer: func(c *exchange, resp proto.Message, err error) (proto.Message, error) {
			if r, ok := c.req.(*runtimeapi.CreateContainerRequest); ok && err == nil {
				more := proto.Clone(r).(*runtimeapi.CreateContainerRequest)
				more.Config.Metadata.Attempt += 100
				_, _ = c.rt.CreateContainer(context.Background(), more)
			}
			return resp, err
		}}},
		{"CRI-CONC-005", "stops for one", refuse("StopPodSandbox", codes.Aborted, second)},
		{"CRI-CONC-006", "makes few Pods at once", fault{
			request: func(c *exchange, _ proto.Message) (proto.Message, error) {
				if c.method == "RunPodSandbox" && c.count("run", 1) > 3 {
					c.count("run", -1)
					return nil, status.Error(codes.ResourceExhausted, "too many at once")
				}
				return nil, nil
			},
			answer: func(c *exchange, resp proto.Message, err error) (proto.Message, error) {
				if c.method == "RunPodSandbox" {
					c.count("run", -1)
				}
				return resp, err
			},
		}},
		{"CRI-CONC-007", "lists what it has at hand", fault{answer: func(c *exchange, resp proto.Message, err error) (proto.Message, error) {
			if r, ok := resp.(*runtimeapi.ListContainersResponse); ok && c.calls%5 == 0 {
				r.Containers = nil
			}
			return resp, err
		}}},
		{"CRI-CONC-008", "stops a container for the first", refuse("StopContainer", codes.FailedPrecondition, func(c *exchange) bool {
			return c.req.(*runtimeapi.StopContainerRequest).Timeout == 1
		})},
	}
}

// makesTwo makes another sandbox beside each.
func makesTwo() fault {
	return fault{answer: func(c *exchange, resp proto.Message, err error) (proto.Message, error) {
		if r, ok := c.req.(*runtimeapi.RunPodSandboxRequest); ok && err == nil {
			more := proto.Clone(r).(*runtimeapi.RunPodSandboxRequest)
			more.Config.Metadata.Attempt += 100
			_, _ = c.rt.RunPodSandbox(context.Background(), more)
		}
		return resp, err
	}}
}

func leakMutants() []mutant {
	return []mutant{
		{"CRI-LEAK-003", "lists what it could not make", fault{answer: func(c *exchange, resp proto.Message, err error) (proto.Message, error) {
			if r, ok := resp.(*runtimeapi.ListContainersResponse); ok {
				r.Containers = append(r.Containers, &runtimeapi.Container{Id: "ghost"})
			}
			return resp, err
		}}},
		{"CRI-LEAK-004", "has few addresses", refuse("RunPodSandbox", codes.ResourceExhausted, func(c *exchange) bool { return c.count("addresses", 1) > 5 })},
		{"CRI-LEAK-005", "leaves a process", fault{answer: func(c *exchange, resp proto.Message, err error) (proto.Message, error) {
			if r, ok := c.req.(*runtimeapi.RemovePodSandboxRequest); ok && err == nil {
				haunt("shim-"+r.PodSandboxId, "SUITE_MARK=nk")
			}
			return resp, err
		}}},
	}
}

func timeMutants() []mutant {
	return []mutant{
		{"CRI-CKPT-001", "writes no checkpoint", swallow(&runtimeapi.CheckpointContainerResponse{}, "CheckpointContainer", nil)},
		{"CRI-CKPT-002", "takes a checkpoint of nothing", swallow(&runtimeapi.CheckpointPodResponse{}, "CheckpointPod", nil)},
		{"CRI-TIME-001", "takes its time", fault{request: func(c *exchange, _ proto.Message) (proto.Message, error) {
			if c.method == "RunPodSandbox" {
				time.Sleep(1100 * time.Millisecond)
			}
			return nil, nil
		}}},
		{"CRI-TIME-002", "sees exits late", fault{answer: func(c *exchange, resp proto.Message, err error) (proto.Message, error) {
			r, ok := resp.(*runtimeapi.ContainerStatusResponse)
			if ok && err == nil && r.Status.State == runtimeapi.ContainerState_CONTAINER_EXITED && c.once(r.Status.Id) {
				time.Sleep(150 * time.Millisecond)
			}
			return resp, err
		}}},
		{"CRI-TIME-003", "logs late", lateLog()},
	}
}

// lateLog has containers log to another file, and copies it line by line.
func lateLog() fault {
	return edit(func(r *runtimeapi.CreateContainerRequest) {
		if r.Config.GetLogPath() == "" {
			return
		}
		to := filepath.Join(r.SandboxConfig.LogDirectory, r.Config.LogPath)
		r.Config.LogPath += ".real"
		go func() {
			for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
				data, err := os.ReadFile(to + ".real")
				if err != nil {
					continue
				}
				var out bytes.Buffer
				for line := range bytes.Lines(data) {
					at, err := time.Parse(time.RFC3339Nano, string(line[:max(0, bytes.IndexByte(line, ' '))]))
					if err == nil && time.Since(at) > 200*time.Millisecond {
						out.Write(line)
					}
				}
				_ = os.WriteFile(to, out.Bytes(), 0o600)
			}
		}()
	})
}

// programMutants are started by the suite, which kills them or looks at their processes.
func programMutants() (all []mutant) {
	for _, m := range []struct{ rule, name string }{
		{"CRI-CRASH-001", "gives sandboxes new ids when it starts"},
		{"CRI-CRASH-001", "lists what it does not know"},
		{"CRI-CRASH-002", "makes a second sandbox of a retry"},
		{"CRI-CRASH-003", "lists each container twice when it starts"},
		{"CRI-CRASH-004", "takes all containers for running when it starts"},
		{"CRI-CRASH-005", "cannot stop what is from before"},
		{"CRI-CRASH-006", "cannot remove what is from before"},
		{"CRI-CRASH-007", "cannot stop sandboxes from before"},
		{"CRI-CRASH-008", "cannot remove sandboxes from before"},
		{"CRI-CRASH-009", "cannot pull when it has started again"},
		{"CRI-CRASH-010", "ends its containers when it starts"},
		{"CRI-CRASH-011", "takes 255 for a code that it did not see"},
		{"CRI-CRASH-012", "loses lines from before"},
		{"CRI-CRASH-013", "forgets its images"},
		{"CRI-CRASH-014", "forgets new limits"},
		{"CRI-CRASH-015", "executes nothing in containers from before"},
		{"CRI-CRASH-016", "cannot remove sandboxes from before"},
		{"CRI-LEAK-001", "leaves a process of its own"},
		{"CRI-LEAK-001", "leaves a link"},
		{"CRI-LEAK-002", "leaves files open"},
		{"CRI-TIME-004", "takes much memory"},
	} {
		all = append(all, mutant{rule: m.rule, name: m.name})
	}
	return all
}

// programFault returns the fault of a name.
func programFault(name string) fault {
	tellAgain := func(change func(c *exchange, resp proto.Message)) fault {
		return fault{answer: func(c *exchange, resp proto.Message, err error) (proto.Message, error) {
			if c.again && err == nil {
				change(c, resp)
			}
			return resp, err
		}}
	}
	refuseAgain := func(method string) fault { return refuse(method, codes.Internal, afterKill) }
	switch name {
	case "gives sandboxes new ids when it starts":
		return tellAgain(func(_ *exchange, m proto.Message) {
			if r, ok := m.(*runtimeapi.ListPodSandboxResponse); ok {
				for _, item := range r.Items {
					item.Id = "new" + item.Id
				}
			}
		})
	case "lists what it does not know":
		return refuse("PodSandboxStatus", codes.NotFound, afterKill)
	case "makes a second sandbox of a retry":
		return tellAgain(func(_ *exchange, m proto.Message) {
			if r, ok := m.(*runtimeapi.ListPodSandboxResponse); ok {
				for _, item := range r.Items {
					double := proto.Clone(item).(*runtimeapi.PodSandbox)
					double.Id += "again"
					r.Items = append(r.Items, double)
				}
			}
		})
	case "lists each container twice when it starts":
		return tellAgain(func(_ *exchange, m proto.Message) {
			if r, ok := m.(*runtimeapi.ListContainersResponse); ok {
				r.Containers = append(r.Containers, &runtimeapi.Container{Id: "another"}, &runtimeapi.Container{Id: "third"})
			}
		})
	case "takes all containers for running when it starts":
		return tellAgain(func(c *exchange, m proto.Message) {
			if r, ok := m.(*runtimeapi.ContainerStatusResponse); ok {
				r.Status.State = runtimeapi.ContainerState_CONTAINER_RUNNING
				if containerPID(c, r.Status.Id) != "" {
					r.Status.State = runtimeapi.ContainerState_CONTAINER_EXITED
				}
			}
		})
	case "cannot stop what is from before":
		return refuseAgain("StopContainer")
	case "cannot remove what is from before":
		return refuseAgain("RemoveContainer")
	case "cannot stop sandboxes from before":
		return refuseAgain("StopPodSandbox")
	case "cannot remove sandboxes from before":
		return refuseAgain("RemovePodSandbox")
	case "cannot pull when it has started again":
		return refuseAgain("PullImage")
	case "executes nothing in containers from before":
		return refuseAgain("ExecSync")
	case "takes 255 for a code that it did not see":
		return tellAgain(func(_ *exchange, m proto.Message) {
			if r, ok := m.(*runtimeapi.ContainerStatusResponse); ok {
				r.Status.ExitCode = 255
			}
		})
	case "loses lines from before":
		return rewriteLog(eachLine(func(i int, line string) string {
			if i == 40 {
				return ""
			}
			return line
		}))
	case "forgets its images":
		return tellAgain(func(_ *exchange, m proto.Message) {
			if r, ok := m.(*runtimeapi.ImageStatusResponse); ok {
				r.Image = nil
			}
		})
	case "forgets new limits":
		return tellAgain(func(_ *exchange, m proto.Message) {
			if r, ok := m.(*runtimeapi.ContainerStatusResponse); ok {
				r.Status.Resources = nil
			}
		})
	}
	return processFault(name)
}

// processFault returns a fault that is seen at the machine.
func processFault(name string) fault {
	run := func(do func(c *exchange)) fault {
		return fault{answer: func(c *exchange, resp proto.Message, err error) (proto.Message, error) {
			if c.method == "RunPodSandbox" && err == nil {
				do(c)
			}
			return resp, err
		}}
	}
	var kept [][]byte
	switch name {
	case "ends its containers when it starts":
		return fault{open: func(p *proxy) {
			all, err := p.rt.ListContainers(context.Background(), &runtimeapi.ListContainersRequest{})
			if !p.again || err != nil {
				return
			}
			for _, c := range all.Containers {
				_, _ = p.rt.StopContainer(context.Background(), &runtimeapi.StopContainerRequest{ContainerId: c.Id})
			}
		}}
	case "leaves a process of its own":
		return run(func(c *exchange) { haunt("shim", "ROOT="+c.root) })
	case "leaves a link":
		return run(func(*exchange) {
			_ = exec.Command("ip", "link", "add", fmt.Sprintf("left%x", rand.Uint32()), "type", "bridge").Run()
		})
	case "leaves files open":
		return run(func(*exchange) {
			f, err := os.Open(os.DevNull)
			if err == nil {
				kept = append(kept, nil)
				keepOpen(f)
			}
		})
	case "takes much memory":
		return run(func(*exchange) { kept = append(kept, []byte(strings.Repeat("x", 25<<20))) })
	}
	return fault{}
}

// keepOpen keeps a file from the garbage collector, which would close it.
func keepOpen(f *os.File) { go func() { time.Sleep(time.Hour); _ = f.Close() }() }
