package crisuite_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
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
		{"CRI-RES-002", "has one period", seen("period", limited(func(r *r) { r.CpuPeriod = 100_000 }))},
		{"CRI-RES-003", "weighs all alike", limited(func(r *r) { r.CpuShares = 512 })},
		{"CRI-RES-004", "sets no oom_score_adj", limited(func(r *r) { r.OomScoreAdj = 0 })},
		{"CRI-RES-005", "runs anywhere", limited(func(r *r) { r.CpusetCpus = "" })},
		{"CRI-RES-006", "does not say why", tellStatus(func(s *runtimeapi.ContainerStatus) { s.Reason = "Error" })},
		{"CRI-RES-007", "updates nothing", noUpdate},
		{"CRI-RES-007", "keeps the processors that it had", seen("processors", edit(func(r *runtimeapi.UpdateContainerResourcesRequest) { r.Linux.CpusetCpus = "" }))},
		{"CRI-RES-007", "keeps the weight that it had", seen("weight", edit(func(r *runtimeapi.UpdateContainerResourcesRequest) { r.Linux.CpuShares = 0 }))},
		{"CRI-RES-008", "says nothing of limits", tellStatus(func(s *runtimeapi.ContainerStatus) { s.Resources = nil })},
		{"CRI-RES-008", "says nothing of limits that were not updated", seen("before an update", tellStatus(func(s *runtimeapi.ContainerStatus) {
			if s.GetResources().GetLinux().GetMemoryLimitInBytes() == 64<<20 {
				s.Resources = nil
			}
		}))},
		{"CRI-RES-009", "takes any update", noUpdate},
		{"CRI-RES-011", "limits no huge pages", seen("bytes of pages", limited(func(r *r) { r.HugepageLimits = nil }))},
		{"CRI-RES-012", "limits no swap", seen("bytes of swap", limited(func(r *r) { r.MemorySwapLimitInBytes = 0 }))},
		{"CRI-RES-012", "limits swap to the memory's limit", seen("bytes of swap", limited(func(r *r) {
			r.MemorySwapLimitInBytes = min(r.MemorySwapLimitInBytes, r.MemoryLimitInBytes)
		}))},
		{"CRI-RES-012", "updates to no swap", seen("behind an update", edit(func(r *runtimeapi.UpdateContainerResourcesRequest) {
			r.Linux.MemorySwapLimitInBytes = r.Linux.MemoryLimitInBytes
		}))},
		{"CRI-RES-013", "writes nothing by its name", seen("memory.swap.max of the container's cgroup", limited(func(r *r) { r.Unified = nil }))},
		{"CRI-RES-014", "shows a score that it did not set", seen("shows the oom_score_adj 700", both(
			edit(func(r *runtimeapi.UpdateContainerResourcesRequest) { r.Linux.OomScoreAdj = 0 }),
			tellStatus(func(s *runtimeapi.ContainerStatus) { s.Resources.Linux.OomScoreAdj = 700 }),
		))},
		{"CRI-RES-015", "cannot limit huge pages", refuse("CreateContainer", codes.FailedPrecondition, func(c *exchange) bool {
			return len(c.req.(*runtimeapi.CreateContainerRequest).Config.Linux.Resources.HugepageLimits) > 0
		})},
		{"CRI-RES-015", "updates no limits of huge pages", seen("the same as an update", refuse("UpdateContainerResources", codes.FailedPrecondition, func(c *exchange) bool {
			return len(c.req.(*runtimeapi.UpdateContainerResourcesRequest).Linux.HugepageLimits) > 0
		}))},
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
		{"CRI-STATS-003", "lists stats of nobody", seen("ListContainerStats", tell(func(r *runtimeapi.ListContainerStatsResponse) {
			for _, st := range r.Stats {
				st.Attributes.Labels = nil
			}
		}))},
		{"CRI-STATS-003", "lists nothing that was measured", seen("ListContainerStats", tell(func(r *runtimeapi.ListContainerStatsResponse) {
			for _, st := range r.Stats {
				st.Cpu, st.Memory = nil, nil
			}
		}))},
		{"CRI-STATS-004", "does not filter stats", edit(func(r *runtimeapi.ListContainerStatsRequest) { r.Filter.Id, r.Filter.LabelSelector = "", nil })},
		{"CRI-STATS-005", "has stats of nothing", whitewash("ContainerStats", &runtimeapi.ContainerStatsResponse{})},
		{"CRI-STATS-006", "does not look at what is written", tellStats(func(s *runtimeapi.ContainerStats) { s.WritableLayer = nil })},
		{"CRI-STATS-007", "has stats of another Pod", seen("has the attributes", tell(func(r *runtimeapi.PodSandboxStatsResponse) {
			r.Stats.Attributes.Id = "another"
		}))},
		{"CRI-STATS-007", "reports zeros", seen("ns of processor time", tell(func(r *runtimeapi.PodSandboxStatsResponse) {
			r.Stats.Linux.Cpu = &runtimeapi.CpuUsage{Timestamp: time.Now().UnixNano(), UsageCoreNanoSeconds: &runtimeapi.UInt64Value{}}
		}))},
		{"CRI-STATS-007", "reports no memory", seen("a working set of 0", tell(func(r *runtimeapi.PodSandboxStatsResponse) { r.Stats.Linux.Memory = nil }))},
		{"CRI-STATS-009", "measures once", seen("ContainerStats", firstStats(func(first, now *runtimeapi.ContainerStats) {
			now.Cpu, now.Memory = first.Cpu, first.Memory
		}))},
		{"CRI-STATS-009", "measures once, with the time of the answer", seen("ns of processor time", firstStats(func(first, now *runtimeapi.ContainerStats) {
			now.Cpu.UsageCoreNanoSeconds = first.Cpu.UsageCoreNanoSeconds
		}))},
		{"CRI-STATS-009", "has the time of the first measurement", seen("the time of the memory's use", firstStats(func(first, now *runtimeapi.ContainerStats) {
			now.Memory.Timestamp = first.Memory.Timestamp
		}))},
		{"CRI-STATS-009", "lists what it measured once", seen("ListContainerStats", fault{answer: func(c *exchange, resp proto.Message, err error) (proto.Message, error) {
			if r, ok := resp.(*runtimeapi.ListContainerStatsResponse); ok && err == nil {
				if first := c.note("list", proto.Clone(r)); first != nil {
					return first.(proto.Message), nil
				}
			}
			return resp, err
		}})},
		{"CRI-STATS-010", "says nothing of swap", seen("with the swap {<nil>}", tellStats(func(s *runtimeapi.ContainerStats) { s.Swap = nil }))},
		{"CRI-STATS-010", "counts the memory's limit as swap", seen("bytes of swap", tellStats(func(s *runtimeapi.ContainerStats) {
			s.Swap.SwapAvailableBytes.Value += 64 << 20
		}))},
		{"CRI-STATS-008", "gives metrics that it does not describe", both(
			swallow(&runtimeapi.ListMetricDescriptorsResponse{Descriptors: []*runtimeapi.MetricDescriptor{{Name: "one"}}}, "ListMetricDescriptors", nil),
			swallow(&runtimeapi.ListPodSandboxMetricsResponse{PodMetrics: []*runtimeapi.PodSandboxMetrics{{Metrics: []*runtimeapi.Metric{{Name: "two"}}}}}, "ListPodSandboxMetrics", nil),
		)},
	}
}

// firstStats changes later stats of a container by its first ones.
func firstStats(change func(first, now *runtimeapi.ContainerStats)) fault {
	return fault{answer: func(c *exchange, resp proto.Message, err error) (proto.Message, error) {
		if r, ok := resp.(*runtimeapi.ContainerStatsResponse); ok && err == nil {
			if first := c.note("stats", proto.Clone(r.Stats)); first != nil {
				change(first.(*runtimeapi.ContainerStats), r.Stats)
			}
		}
		return resp, err
	}}
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
		{"CRI-EVENT-001", "tells an end behind the removal", seen("behind CONTAINER_DELETED_EVENT", send(func(e *event) []proto.Message {
			late := proto.Clone(e).(*event)
			late.ContainerEventType = runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT
			if e.ContainerEventType == runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT && e.ContainerId != e.PodSandboxStatus.GetId() {
				return []proto.Message{e, late}
			}
			return only(e, true)
		}))},
		{"CRI-EVENT-001", "goes back in time", seen("the event before", fault{streamed: func(c *exchange, m proto.Message) []proto.Message {
			if e, ok := m.(*event); ok {
				e.CreatedAt -= int64(c.count("events", 1)) * int64(time.Second)
			}
			return []proto.Message{m}
		}})},
		{"CRI-EVENT-002", "does not tell of sandboxes", send(func(e *event) []proto.Message {
			return only(e, e.ContainerId != e.PodSandboxStatus.GetId())
		})},
		{"CRI-EVENT-002", "does not tell whose sandbox is gone", seen("uid", send(func(e *event) []proto.Message {
			if e.ContainerEventType == runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT && e.ContainerId == e.PodSandboxStatus.GetId() {
				e.PodSandboxStatus.Metadata = nil
			}
			return only(e, true)
		}))},
		{"CRI-EVENT-003", "sends no statuses", send(func(e *event) []proto.Message {
			e.ContainersStatuses = nil
			return only(e, true)
		})},
		{"CRI-EVENT-003", "sends the status of one container", seen("exactly", send(func(e *event) []proto.Message {
			e.ContainersStatuses = slices.DeleteFunc(e.ContainersStatuses, func(st *runtimeapi.ContainerStatus) bool { return st.Id != e.ContainerId })
			return only(e, true)
		}))},
		{"CRI-EVENT-004", "tells each event to one", toOne()},
		{"CRI-EVENT-005", "tells one subscriber after the other", seen("beside a subscriber that does not read", oneAfterTheOther())},
		{"CRI-EVENT-007", "tells an end before its start", seen("the subscriber got", endsFirst())},
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

// oneAfterTheOther waits for whoever takes an event before the next subscriber gets one.
func oneAfterTheOther() fault {
	var turn sync.Mutex
	return fault{delivered: func(_ *exchange, send func() error) error {
		turn.Lock()
		defer turn.Unlock()
		return send()
	}}
}

// endsFirst keeps the event of a container's start until that of its end.
func endsFirst() fault {
	return fault{streamed: func(c *exchange, m proto.Message) []proto.Message {
		e, ok := m.(*event)
		if !ok {
			return []proto.Message{m}
		}
		switch name := "start of " + e.ContainerId; e.ContainerEventType {
		case runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT:
			c.note(name, m)
			return nil
		case runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT:
			if start, ok := c.note(name, true).(proto.Message); ok {
				return []proto.Message{m, start}
			}
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
		{"CRI-CONC-005", "runs where nobody sees it", hides()},
		{"CRI-CONC-009", "starts a second process", seen("its processes are", haunts("StartContainer"))},
		{"CRI-CONC-010", "takes a removal that was cut off for done", seen("of a container", swallow(&runtimeapi.RemoveContainerResponse{}, "RemoveContainer", cutOff))},
		{"CRI-CONC-010", "takes a sandbox whose removal was cut off for gone", seen("of a sandbox", swallow(&runtimeapi.RemovePodSandboxResponse{}, "RemovePodSandbox", cutOff))},
		{"CRI-CONC-011", "pulls an image for the first", seen("tried again", refuse("PullImage", codes.Aborted, second))},
		{"CRI-CONC-012", "removes no image", seen("of the removed image", swallow(&runtimeapi.RemoveImageResponse{}, "RemoveImage", nil))},
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

// cutOff holds for a request that has little time, and for all like it from then on.
func cutOff(c *exchange) bool {
	name := "cut off " + c.method + fmt.Sprint(c.req)
	if by, ok := c.ctx.Deadline(); ok && time.Until(by) < time.Second {
		c.note(name, true)
	}
	return c.note(name, nil) != nil
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
