package crisuite_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// programMutants are started by the suite, which kills them or looks at their processes.
// One of a name is served when several have it: they are the same.
func programMutants() []mutant {
	again := func(method string) fault { return seen("does not want to", refuse(method, codes.Internal, afterKill)) }
	forgets := tellAgain(func(_ *exchange, r *runtimeapi.ContainerStatusResponse) { r.Status.Resources = nil })
	return append([]mutant{
		{"CRI-CRASH-001", "gives sandboxes new ids when it starts", seen("want sandbox", tellAgain(func(_ *exchange, r *runtimeapi.ListPodSandboxResponse) {
			for _, item := range r.Items {
				item.Id = "new" + item.Id
			}
		}))},
		{"CRI-CRASH-001", "lists what it does not know", seen("is listed", refuse("PodSandboxStatus", codes.NotFound, afterKill))},
		{"CRI-CRASH-002", "makes a second sandbox of a retry", seen("sandboxes are ready", tellAgain(func(_ *exchange, r *runtimeapi.ListPodSandboxResponse) {
			for _, item := range r.Items {
				double := proto.Clone(item).(*runtimeapi.PodSandbox)
				double.Id += "again"
				r.Items = append(r.Items, double)
			}
		}))},
		{"CRI-CRASH-003", "lists each container twice when it starts", seen("containers", tellAgain(func(_ *exchange, r *runtimeapi.ListContainersResponse) {
			r.Containers = append(r.Containers, &runtimeapi.Container{Id: "another"}, &runtimeapi.Container{Id: "third"})
		}))},
		{"CRI-CRASH-004", "takes all containers for running when it starts", seen("its processes are", tellAgain(func(c *exchange, r *runtimeapi.ContainerStatusResponse) {
			r.Status.State = runtimeapi.ContainerState_CONTAINER_RUNNING
			if containerPID(c, r.Status.Id) != "" {
				r.Status.State = runtimeapi.ContainerState_CONTAINER_EXITED
			}
		}))},
		{"CRI-CRASH-005", "cannot stop what is from before", again("StopContainer")},
		{"CRI-CRASH-005", "runs where nobody sees it", hides()},
		{"CRI-CRASH-006", "cannot remove what is from before", again("RemoveContainer")},
		{"CRI-CRASH-007", "cannot stop sandboxes from before", again("StopPodSandbox")},
		{"CRI-CRASH-008", "cannot remove sandboxes from before", again("RemovePodSandbox")},
		{"CRI-CRASH-009", "cannot pull when it has started again", again("PullImage")},
		{"CRI-CRASH-010", "ends its containers when it starts", seen("want CONTAINER_RUNNING", endsAll())},
		{"CRI-CRASH-011", "takes 255 for a code that it did not see", seen("has code 255", tellAgain(func(_ *exchange, r *runtimeapi.ContainerStatusResponse) {
			r.Status.ExitCode = 255
		}))},
		{"CRI-CRASH-012", "loses lines from before", seen("behind line", losesLine())},
		{"CRI-CRASH-013", "forgets its images", seen("is not there", tellAgain(func(_ *exchange, r *runtimeapi.ImageStatusResponse) { r.Image = nil }))},
		{"CRI-CRASH-014", "forgets new limits", seen("want 100663296", forgets)},
		{"CRI-CRASH-015", "executes nothing in containers from before", again("ExecSync")},
		{"CRI-CRASH-016", "cannot remove sandboxes from before", again("RemovePodSandbox")},
		{"CRI-CRASH-017", "executes nothing in containers from before", again("ExecSync")},
		{"CRI-CRASH-018", "forgets new limits", seen("ContainerStatus has a limit of 0", forgets)},
		{"CRI-CRASH-018", "updates no container from before", again("UpdateContainerResources")},
		{"CRI-CRASH-019", "opens no log from before again", again("ReopenContainerLog")},
		{"CRI-CRASH-019", "loses lines from before", losesLine()},
		{"CRI-CRASH-020", "removes no image from before", again("RemoveImage")},
		{"CRI-CRASH-021", "updates no sandbox from before", again("UpdatePodSandboxResources")},
		{"CRI-NRI-023", "tells plugins of nothing from before", seen("is not told of container", forgetsForPlugins())},
	}, slices.Concat(sessionMutants(), processMutants())...)
}

// tellAgain edits answers of one kind when the mutant was killed before.
func tellAgain[M proto.Message](change func(*exchange, M)) fault {
	return fault{answer: func(c *exchange, resp proto.Message, err error) (proto.Message, error) {
		if m, ok := resp.(M); ok && c.again && err == nil {
			change(c, m)
		}
		return resp, err
	}}
}

// losesLine takes one out of each log when the container's end is first told.
func losesLine() fault {
	return rewriteLog(eachLine(func(i int, line string) string {
		if i == 40 {
			return ""
		}
		return line
	}))
}

func endsAll() fault {
	return fault{open: func(p *proxy) {
		all, err := p.rt.ListContainers(context.Background(), &runtimeapi.ListContainersRequest{})
		if !p.again || err != nil {
			return
		}
		for _, c := range all.Containers {
			_, _ = p.rt.StopContainer(context.Background(), &runtimeapi.StopContainerRequest{ContainerId: c.Id})
		}
	}}
}

// processMutants are seen at the machine.
func processMutants() []mutant {
	run := func(do func(c *exchange)) fault {
		return fault{answer: func(c *exchange, resp proto.Message, err error) (proto.Message, error) {
			if c.method == "RunPodSandbox" && err == nil {
				do(c)
			}
			return resp, err
		}}
	}
	var kept [][]byte
	return []mutant{
		{"CRI-STATUS-006", "ends in a call", seen("the runtime ended during this rule", endsIn("UpdateRuntimeConfig"))},
		{"CRI-LEAK-001", "leaves a process of its own", seen("process", run(func(c *exchange) { haunt("shim", "ROOT="+c.root) }))},
		{"CRI-LEAK-001", "leaves a link", seen("link", run(func(*exchange) {
			_ = exec.Command("ip", "link", "add", fmt.Sprintf("left%x", rand.Uint32()), "type", "bridge").Run()
		}))},
		{"CRI-LEAK-002", "leaves files open", seen("open files", run(func(*exchange) {
			if f, err := os.Open(os.DevNull); err == nil {
				keepOpen(f)
			}
		}))},
		{"CRI-TIME-004", "takes much memory", seen("bytes of memory", run(func(*exchange) { kept = append(kept, []byte(strings.Repeat("x", 25<<20))) }))},
	}
}

// endsIn ends the mutant in a call, a moment behind the connection, as a program does that
// prints why. It takes the runtime behind it down first.
func endsIn(method string) fault {
	return fault{request: func(c *exchange, _ proto.Message) (proto.Message, error) {
		if c.method != method {
			return nil, nil
		}
		time.AfterFunc(100*time.Millisecond, func() { _ = syscall.Kill(os.Getpid(), syscall.SIGTERM) })
		return nil, status.Error(codes.Unavailable, "error reading from server: EOF")
	}}
}

// keepOpen keeps a file from the garbage collector, which would close it.
func keepOpen(f *os.File) { go func() { time.Sleep(time.Hour); _ = f.Close() }() }
