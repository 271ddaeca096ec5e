package crisuite_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// tellStatus edits statuses of containers.
func tellStatus(change func(*runtimeapi.ContainerStatus)) fault {
	return tell(func(r *runtimeapi.ContainerStatusResponse) { change(r.Status) })
}

// tellList edits containers in lists.
func tellList(change func(*runtimeapi.Container)) fault {
	return tell(func(r *runtimeapi.ListContainersResponse) {
		for _, c := range r.Containers {
			change(c)
		}
	})
}

func containerMutants() []mutant {
	return []mutant{
		{"CRI-CTR-001", "stops a container once", refuse("StopContainer", codes.NotFound, second)},
		{"CRI-CTR-001", "removes a container once", refuse("RemoveContainer", codes.NotFound, second)},
		{"CRI-CTR-001", "lists what is removed", seen("still in ListContainers", listsRemoved())},
		{"CRI-CTR-002", "reports success for every end", tellStatus(func(s *runtimeapi.ContainerStatus) { s.ExitCode = 0 })},
		{"CRI-CTR-003", "knows no images of containers", tellStatus(func(s *runtimeapi.ContainerStatus) { s.Image = nil })},
		{"CRI-CTR-004", "lists without annotations", tellList(func(c *runtimeapi.Container) { c.Annotations = nil })},
		{"CRI-CTR-004", "forgets labels at the end", seen("has ended", tellStatus(func(s *runtimeapi.ContainerStatus) {
			if s.State == runtimeapi.ContainerState_CONTAINER_EXITED {
				s.Labels = nil
			}
		}))},
		{"CRI-CTR-005", "removes no stranger", seen("RemoveContainer", refuse("RemoveContainer", codes.NotFound, unknownBox))},
		{"CRI-CTR-005", "starts a stranger", seen("never was succeeded", whitewash("StartContainer", &runtimeapi.StartContainerResponse{}))},
		{"CRI-CTR-006", "removes nothing", swallow(&runtimeapi.RemoveContainerResponse{}, "RemoveContainer", nil)},
		{"CRI-CTR-007", "makes a container for each request", create(func(c *runtimeapi.ContainerConfig) { c.Metadata.Name += fmt.Sprint(rand.Uint32()) })},
		{"CRI-CTR-008", "does not look at attempts", create(func(c *runtimeapi.ContainerConfig) { c.Metadata.Attempt = 0 })},
		{"CRI-CTR-008", "lists no attempts", seen("ListContainers shows", tellList(func(c *runtimeapi.Container) { c.Metadata.Attempt = 0 }))},
		{"CRI-CTR-009", "reports a relative log path", tellStatus(func(s *runtimeapi.ContainerStatus) { s.LogPath = filepath.Base(s.LogPath) })},
		{"CRI-CTR-009", "forgets the log at the end", seen("has ended", tellStatus(func(s *runtimeapi.ContainerStatus) {
			if s.State == runtimeapi.ContainerState_CONTAINER_EXITED {
				s.LogPath = ""
			}
		}))},
		{"CRI-CTR-010", "ends before it starts", tellStatus(func(s *runtimeapi.ContainerStatus) {
			if s.FinishedAt != 0 {
				s.FinishedAt = s.CreatedAt
			}
		})},
		{"CRI-CTR-010", "ends again and again", seen("and then", tellStatus(func(s *runtimeapi.ContainerStatus) {
			if s.FinishedAt != 0 {
				s.FinishedAt = time.Now().UnixNano()
			}
		}))},
		{"CRI-CTR-011", "reports the signal", tellStatus(func(s *runtimeapi.ContainerStatus) { s.ExitCode %= 128 })},
		{"CRI-CTR-012", "is always verbose about containers", tell(func(r *runtimeapi.ContainerStatusResponse) { r.Info = info() })},
		{"CRI-CTR-013", "starts anything", whitewash("StartContainer", &runtimeapi.StartContainerResponse{})},
		{"CRI-CTR-014", "starts again", seen("want one", startsAgain())},
		{"CRI-CTR-016", "removes nothing that did not run", seen("never started", refuse("RemoveContainer", codes.FailedPrecondition, neverStarted))},
		{"CRI-CTR-016", "removes no sandbox with what did not run", seen("StopPodSandbox", refuse("StopPodSandbox", codes.FailedPrecondition, holdsUnstarted))},
		{"CRI-CTR-015", "lists from a cache", tellList(func(c *runtimeapi.Container) { c.State = runtimeapi.ContainerState_CONTAINER_RUNNING })},
	}
}

// listsRemoved lists each container that it has made, also when it is removed.
func listsRemoved() fault {
	return fault{answer: func(c *exchange, resp proto.Message, err error) (proto.Message, error) {
		switch r := resp.(type) {
		case *runtimeapi.CreateContainerResponse:
			if all, listed := c.rt.ListContainers(c.ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{Id: r.GetContainerId()}}); err == nil && listed == nil {
				c.note("made", all.Containers[0])
			}
		case *runtimeapi.ListContainersResponse:
			made, _ := c.note("made", nil).(*runtimeapi.Container)
			if err == nil && made != nil && !slices.ContainsFunc(r.Containers, func(one *runtimeapi.Container) bool { return one.Id == made.Id }) {
				r.Containers = append(r.Containers, made)
			}
		}
		return resp, err
	}}
}

// neverStarted holds for a call about a container that is made and no more.
func neverStarted(c *exchange) bool {
	id := c.req.(interface{ GetContainerId() string }).GetContainerId()
	resp, err := c.rt.ContainerStatus(c.ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id})
	return err == nil && resp.Status.State == runtimeapi.ContainerState_CONTAINER_CREATED
}

// holdsUnstarted holds for a call about a sandbox with such a container.
func holdsUnstarted(c *exchange) bool {
	id := c.req.(interface{ GetPodSandboxId() string }).GetPodSandboxId()
	all, err := c.rt.ListContainers(c.ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{PodSandboxId: id}})
	return err == nil && slices.ContainsFunc(all.Containers, func(one *runtimeapi.Container) bool {
		return one.State == runtimeapi.ContainerState_CONTAINER_CREATED
	})
}

// startsAgain runs the program a second time.
func startsAgain() fault {
	return fault{answer: func(c *exchange, resp proto.Message, err error) (proto.Message, error) {
		if r, ok := c.req.(*runtimeapi.StartContainerRequest); ok && c.calls > 1 {
			go func() {
				_, _ = c.rt.ExecSync(context.Background(), &runtimeapi.ExecSyncRequest{ContainerId: r.ContainerId, Cmd: []string{"/podtool", "sleep", "5"}})
			}()
			for range 500 { // or the rule looks before it runs
				if len(containerPIDs(c, r.ContainerId)) > 1 {
					break
				}
				time.Sleep(10 * time.Millisecond)
			}
		}
		return resp, err
	}}
}

func configMutants() []mutant {
	return []mutant{
		{"CRI-CONF-001", "forgets the image's command", create(func(c *runtimeapi.ContainerConfig) {
			if len(c.Command)+len(c.Args) == 0 {
				c.Args = []string{"env"}
			}
		})},
		{"CRI-CONF-002", "forgets args", create(func(c *runtimeapi.ContainerConfig) { c.Args = nil })},
		{"CRI-CONF-003", "appends the image's command", create(func(c *runtimeapi.ContainerConfig) {
			if len(c.Args) == 0 {
				c.Args = []string{"of", "the", "image"}
			}
		})},
		{"CRI-CONF-004", "forgets args of a command", create(func(c *runtimeapi.ContainerConfig) { c.Args = nil })},
		{"CRI-CONF-005", "prefers the image's variables", create(func(c *runtimeapi.ContainerConfig) {
			c.Envs = slices.DeleteFunc(c.Envs, func(e *runtimeapi.KeyValue) bool { return e.Key == "BOTH" })
		})},
		{"CRI-CONF-006", "runs at the root", create(func(c *runtimeapi.ContainerConfig) { c.WorkingDir = "" })},
		{"CRI-CONF-007", "has no terminals", create(func(c *runtimeapi.ContainerConfig) { c.Tty = false })},
		{"CRI-CONF-009", "forgets variables", seen("is not set", create(func(c *runtimeapi.ContainerConfig) {
			c.Envs = slices.DeleteFunc(c.Envs, func(e *runtimeapi.KeyValue) bool { return e.Key == "SUITE_ODD" })
		}))},
		{"CRI-CONF-008", "demands a log path", refuse("CreateContainer", codes.InvalidArgument, func(c *exchange) bool {
			return c.req.(*runtimeapi.CreateContainerRequest).Config.LogPath == ""
		})},
	}
}

func stopMutants() []mutant {
	grace := func(change func(int64) int64) fault {
		return edit(func(r *runtimeapi.StopContainerRequest) { r.Timeout = change(r.Timeout) })
	}
	return []mutant{
		{"CRI-STOP-001", "always kills", grace(func(int64) int64 { return 0 })},
		{"CRI-STOP-002", "is impatient", grace(func(int64) int64 { return 0 })},
		{"CRI-STOP-002", "has a second for all", seen("is 137, want 9", grace(func(t int64) int64 { return min(t, 1) }))},
		{"CRI-STOP-003", "is patient", grace(func(int64) int64 { return 3 })},
		{"CRI-STOP-004", "always sends SIGTERM", create(func(c *runtimeapi.ContainerConfig) { c.StopSignal = runtimeapi.Signal_SIGNAL_SIGTERM })},
		{"CRI-STOP-005", "has no signals of containers", create(func(c *runtimeapi.ContainerConfig) { c.StopSignal = runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT })},
		{"CRI-STOP-006", "stops once at a time", swallow(&runtimeapi.StopContainerResponse{}, "StopContainer", func(c *exchange) bool {
			return !c.once(c.req.(*runtimeapi.StopContainerRequest).ContainerId)
		})},
		{"CRI-STOP-007", "leaves children", haunts("StartContainer")},
		{"CRI-STOP-008", "stops behind its answer", fault{request: func(c *exchange, req proto.Message) (proto.Message, error) {
			r, ok := req.(*runtimeapi.StopContainerRequest)
			if !ok {
				return nil, nil
			}
			go func() {
				time.Sleep(2 * time.Second) // not to be as fast as the rule looks on a busy machine
				_, _ = c.rt.StopContainer(context.Background(), r)
			}()
			return &runtimeapi.StopContainerResponse{}, nil
		}}},
	}
}

// haunts leaves a process with the container's environment.
func haunts(method string) fault {
	return fault{answer: func(c *exchange, resp proto.Message, err error) (proto.Message, error) {
		if r, ok := c.req.(interface{ GetContainerId() string }); ok && c.method == method && err == nil {
			haunt("child", containerMark(c, r.GetContainerId()))
		}
		return resp, err
	}}
}

func listMutants() []mutant {
	return []mutant{
		{"CRI-LIST-001", "filters containers by one field alone", edit(func(r *runtimeapi.ListContainersRequest) {
			if r.Filter.GetId() != "" {
				r.Filter = &runtimeapi.ContainerFilter{Id: r.Filter.Id}
			}
		})},
		{"CRI-LIST-002", "lists another time", tellList(func(c *runtimeapi.Container) { c.CreatedAt++ })},
		{"CRI-LIST-002", "lists what is made as running", seen("CONTAINER_CREATED", tellList(func(c *runtimeapi.Container) {
			if c.State == runtimeapi.ContainerState_CONTAINER_CREATED {
				c.State = runtimeapi.ContainerState_CONTAINER_RUNNING
			}
		}))},
		{"CRI-LIST-008", "lists another reference", seen("has the image reference", tellList(func(c *runtimeapi.Container) { c.ImageRef = "another" }))},
		{"CRI-LIST-009", "streams a Pod's stats twice", twice[*runtimeapi.StreamPodSandboxStatsResponse]()},
		{"CRI-LIST-010", "streams a Pod's metrics twice", twice[*runtimeapi.StreamPodSandboxMetricsResponse]()},
		{"CRI-LIST-003", "streams sandboxes twice", twice[*runtimeapi.StreamPodSandboxesResponse]()},
		{"CRI-LIST-004", "streams containers twice", twice[*runtimeapi.StreamContainersResponse]()},
		{"CRI-LIST-005", "streams images twice", twice[*runtimeapi.StreamImagesResponse]()},
		{"CRI-LIST-006", "streams stats twice", twice[*runtimeapi.StreamContainerStatsResponse]()},
		{"CRI-LIST-007", "streams an empty message", swallow(&runtimeapi.StreamPodSandboxesResponse{}, "StreamPodSandboxes", nil)},
	}
}

func twice[M proto.Message]() fault {
	return seen("and the stream", send(func(m M) []proto.Message { return []proto.Message{m, m} }))
}

func codeMutants() []mutant {
	return []mutant{
		{"CRI-CODE-001", "hides that a sandbox is gone", recode("PodSandboxStatus", codes.Unknown)},
		{"CRI-CODE-002", "hides that a container is gone", recode("ContainerStatus", codes.Unknown)},
		{"CRI-CODE-003", "hides that it finds nothing", recode("ReopenContainerLog", codes.Internal)},
		{"CRI-CODE-003", "streams from nowhere", seen("Exec of an id", whitewash("Exec", &runtimeapi.ExecResponse{Url: "http://127.0.0.1:1/exec"}))},
		{"CRI-CODE-004", "takes an empty id for any", whitewash("ContainerStatus", &runtimeapi.ContainerStatusResponse{Status: &runtimeapi.ContainerStatus{Id: "any"}})},
		{"CRI-CODE-005", "makes containers nowhere", whitewash("CreateContainer", &runtimeapi.CreateContainerResponse{ContainerId: "made"})},
		{"CRI-CODE-006", "makes containers of nothing", whitewash("CreateContainer", &runtimeapi.CreateContainerResponse{ContainerId: "made"})},
	}
}

func has(c *exchange, word string) bool {
	cmd, ok := c.req.(interface{ GetCmd() []string })
	return ok && slices.Contains(cmd.GetCmd(), word)
}

func execMutants() []mutant {
	var one sync.Mutex
	return []mutant{
		{"CRI-EXEC-001", "executes with success only", tell(func(r *runtimeapi.ExecSyncResponse) { r.ExitCode = 0 })},
		{"CRI-EXEC-001", "has codes of seven bits", seen("want 200", tell(func(r *runtimeapi.ExecSyncResponse) { r.ExitCode &= 127 }))},
		{"CRI-EXEC-001", "prints nothing of what fails", seen("complains", tell(func(r *runtimeapi.ExecSyncResponse) {
			if r.ExitCode != 0 {
				r.Stdout, r.Stderr = nil, nil
			}
		}))},
		{"CRI-EXEC-002", "takes a timeout for an end", whitewash("ExecSync", &runtimeapi.ExecSyncResponse{})},
		{"CRI-EXEC-003", "has no code for timeouts", recode("ExecSync", codes.Unknown)},
		{"CRI-EXEC-004", "mixes stderr into stdout", tell(func(r *runtimeapi.ExecSyncResponse) {
			r.Stdout, r.Stderr = append(r.Stdout, r.Stderr...), nil
		})},
		{"CRI-EXEC-005", "fails for much output", fault{answer: func(c *exchange, resp proto.Message, err error) (proto.Message, error) {
			if r, ok := resp.(*runtimeapi.ExecSyncResponse); ok && len(r.Stdout) > 1<<20 {
				return nil, status.Error(codes.ResourceExhausted, "too much")
			}
			return resp, err
		}}},
		{"CRI-EXEC-006", "waits for all that holds stdout", fault{request: func(c *exchange, _ proto.Message) (proto.Message, error) {
			if has(c, "leave") {
				<-c.ctx.Done()
			}
			return nil, nil
		}}},
		{"CRI-EXEC-007", "lets a command go on", seen("want its own alone", timesOutWith(func(*exchange, *runtimeapi.ExecSyncRequest) {}))},
		{"CRI-EXEC-008", "kills the container with the command", timesOutWith(func(c *exchange, r *runtimeapi.ExecSyncRequest) {
			_, _ = c.rt.StopContainer(context.Background(), &runtimeapi.StopContainerRequest{ContainerId: r.ContainerId})
		})},
		{"CRI-EXEC-009", "executes in the void", whitewash("ExecSync", &runtimeapi.ExecSyncResponse{})},
		{"CRI-EXEC-010", "executes nothing with success", whitewash("ExecSync", &runtimeapi.ExecSyncResponse{})},
		{"CRI-EXEC-011", "executes with all rights", tell(func(r *runtimeapi.ExecSyncResponse) {
			r.Stdout = []byte("Uid:\t0\t0\t0\t0\nCapEff:\t000001ffffffffff\n")
		})},
		{"CRI-EXEC-012", "executes one command at a time", seen("one has not met the other", fault{request: func(c *exchange, req proto.Message) (proto.Message, error) {
			r, ok := req.(*runtimeapi.ExecSyncRequest)
			if !ok {
				return nil, nil
			}
			one.Lock()
			defer one.Unlock()
			return c.rt.ExecSync(c.ctx, r)
		}})},
	}
}

// timesOutWith does not end commands whose time is up, and does something else.
func timesOutWith(do func(*exchange, *runtimeapi.ExecSyncRequest)) fault {
	return fault{request: func(c *exchange, req proto.Message) (proto.Message, error) {
		r, ok := req.(*runtimeapi.ExecSyncRequest)
		if !ok || r.Timeout == 0 {
			return nil, nil
		}
		limit := time.Duration(r.Timeout) * time.Second
		r.Timeout = 0
		go func() { _, _ = c.rt.ExecSync(context.Background(), r) }()
		time.Sleep(limit)
		do(c, r)
		return nil, status.Error(codes.DeadlineExceeded, "the time is up")
	}}
}
