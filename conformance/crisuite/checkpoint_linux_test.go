package crisuite_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/conformance"
	"github.com/nodekit-project/nodekit/conformance/crisuite"
	"github.com/nodekit-project/nodekit/cri"
	"github.com/nodekit-project/nodekit/internal/procmark"
)

// checkpointingName makes the test binary a runtime that checkpoints without CRIU.
const checkpointingName = "CRISUITE_CHECKPOINTING"

// checkpointing is a runtime whose containers are processes of the host and whose
// checkpoints hold the containers' names: what the SDK does around them is real.
func checkpointing(t testing.TB) crisuite.Target {
	dir := tools(t)
	return crisuite.Target{
		Exec: []string{os.Args[0], "--endpoint", crisuite.Endpoint, "--root", crisuite.Root},
		Env:  []string{checkpointingName + "=yes"}, Image: "host", Tool: filepath.Join(dir, "podtool"),
	}
}

func checkpointer() *cri.Runtime {
	host := cri.NewProcesses((*cri.Container).HostCommand)
	sandbox := func(context.Context, *cri.Sandbox) error { return nil }
	container := func(context.Context, *cri.Container) error { return nil }
	return &cri.Runtime{
		Name: "checkpointer", Version: "0.1.0", CgroupDriver: runtimeapi.CgroupDriver_CGROUPFS,
		RunSandbox: sandbox, StopSandbox: sandbox, RemoveSandbox: sandbox,
		CreateContainer: container, RemoveContainer: container,
		StartContainer: host.Start, StopContainer: host.Stop, Watch: host.Watch, Recover: host.Recover,
		NetworkReady: func(context.Context) error { return errors.New("the host's network only") },
		Images: &cri.Images{Status: func(_ context.Context, spec *runtimeapi.ImageSpec) (*runtimeapi.Image, error) {
			return &runtimeapi.Image{Id: spec.GetImage(), Size: 1}, nil
		}},
		Checkpoints: &cri.Checkpoints{
			Container: func(_ context.Context, c *cri.Container, file string) error {
				return writeNames(file, []*cri.Container{c})
			},
			Pause:  func(_ context.Context, c *cri.Container) error { return signalContainer(c.ID, syscall.SIGSTOP) },
			Resume: func(_ context.Context, c *cri.Container) error { return signalContainer(c.ID, syscall.SIGCONT) },
			Dump: func(_ context.Context, _ *cri.Sandbox, all []*cri.Container, dir string, _ map[string]string) error {
				return writeNames(filepath.Join(dir, "names"), all)
			},
			Restore: restoreNames,
		},
	}
}

// signalContainer signals the processes that cri.Processes has marked.
func signalContainer(id string, sig syscall.Signal) error {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil && procmark.Carries(pid, "NODEKIT_CONTAINER="+id) {
			_ = syscall.Kill(pid, sig) // it may have ended
		}
	}
	return nil
}

func names(all []*cri.Container) (list []string) {
	for _, c := range all {
		list = append(list, c.Config.GetMetadata().GetName())
	}
	slices.Sort(list)
	return list
}

func writeNames(file string, all []*cri.Container) error {
	data, err := json.Marshal(names(all))
	if err != nil {
		return err
	}
	return os.WriteFile(file, data, 0o600)
}

func restoreNames(_ context.Context, _ *cri.Sandbox, all []*cri.Container, dir string, _ map[string]string) error {
	data, err := os.ReadFile(filepath.Join(dir, "names"))
	if err != nil {
		return cri.ErrInvalid.Errorf("no checkpoint: %w", err)
	}
	var have []string
	if err := json.Unmarshal(data, &have); err != nil {
		return err
	}
	if want := names(all); !slices.Equal(have, want) {
		return cri.ErrInvalid.Errorf("the checkpoint has the containers %q, and the request %q", have, want)
	}
	return nil
}

// TestCheckpoints holds a runtime that has all kinds of checkpoints to every rule about
// them.
func TestCheckpoints(t *testing.T) {
	report, err := crisuite.Suite().Run(t.Context(), checkpointing(t), &conformance.Options{Only: []string{"CRI-CKPT-*"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range report.Results {
		if r.Status != conformance.Pass {
			t.Errorf("%s: %s: %s", r.ID, r.Status, r.Message)
		}
	}
}

// freezes stops the processes of a request's containers once it is answered.
func freezes(method string) fault {
	return fault{answer: func(c *exchange, resp proto.Message, err error) (proto.Message, error) {
		if c.method != method || err != nil {
			return resp, err
		}
		var ids []string
		switch r := c.req.(type) {
		case *runtimeapi.CheckpointContainerRequest:
			ids = []string{r.ContainerId}
		case *runtimeapi.CheckpointPodRequest:
			ids = r.ContainerIds
		}
		for _, id := range ids {
			if pid, err := strconv.Atoi(containerPID(c, id)); err == nil {
				_ = syscall.Kill(pid, syscall.SIGSTOP)
			}
		}
		return resp, err
	}}
}

// checkpointMutants have the checkpointing runtime behind them.
func checkpointMutants() []mutant {
	checkpoint := func(change func(*runtimeapi.CheckpointPodRequest)) fault { return edit(change) }
	restore := func(change func(*runtimeapi.RestorePodRequest)) fault { return edit(change) }
	empties := func(r *runtimeapi.CheckpointPodRequest) {
		files, _ := filepath.Glob(r.OutputPath + "/*")
		for _, file := range files {
			_ = os.Remove(file)
		}
	}
	return []mutant{
		{"CRI-CKPT-001", "writes no checkpoint", seen("CheckpointContainer succeeded", swallow(&runtimeapi.CheckpointContainerResponse{}, "CheckpointContainer", nil))},
		{"CRI-CKPT-001", "leaves a container frozen", seen("does not run on", freezes("CheckpointContainer"))},
		{"CRI-CKPT-002", "takes a checkpoint of nothing", seen("never was succeeded", swallow(&runtimeapi.CheckpointPodResponse{}, "CheckpointPod", nil))},
		{"CRI-CKPT-003", "takes a container twice", seen("of a container twice", checkpoint(func(r *runtimeapi.CheckpointPodRequest) {
			slices.Sort(r.ContainerIds)
			r.ContainerIds = slices.Compact(r.ContainerIds)
		}))},
		{"CRI-CKPT-003", "takes the containers that it likes", seen("of a container that never was", checkpoint(func(r *runtimeapi.CheckpointPodRequest) {
			if len(r.ContainerIds) > 2 && r.ContainerIds[2] == unknownID {
				r.ContainerIds = r.ContainerIds[:2]
			}
		}))},
		{"CRI-CKPT-003", "leaves what it has written", seen("the directory has", leavesFile())},
		{"CRI-CKPT-004", "passes over options", seen("an option that nobody knows", checkpoint(func(r *runtimeapi.CheckpointPodRequest) { r.Options = nil }))},
		{"CRI-CKPT-005", "empties the directory", seen("not empty succeeded", checkpoint(empties))},
		{"CRI-CKPT-006", "leaves a Pod frozen", seen("does not run on", freezes("CheckpointPod"))},
		{"CRI-CKPT-007", "takes any handler for the default", seen("by a handler that nobody knows", restore(func(r *runtimeapi.RestorePodRequest) { r.RuntimeHandler = "" }))},
		{"CRI-CKPT-007", "passes over options", seen("an option that nobody knows", restore(func(r *runtimeapi.RestorePodRequest) { r.Options = nil }))},
		{"CRI-CKPT-008", "restores anything", seen("without containers made", whitewash("RestorePod", &runtimeapi.RestorePodResponse{PodSandboxId: "made"}))},
		{"CRI-CKPT-009", "leaves a sandbox", seen("failed and left", leavesSandbox())},
		{"CRI-CKPT-010", "starts what it restores", seen("want CONTAINER_CREATED", startsRestored())},
		{"CRI-CKPT-010", "forgets a container", seen("of 2 containers answered", tell(func(r *runtimeapi.RestorePodResponse) {
			r.RestoredContainers = r.RestoredContainers[:1]
		}))},
	}
}

// leavesFile leaves a part of a checkpoint that failed.
func leavesFile() fault {
	return fault{answer: func(c *exchange, resp proto.Message, err error) (proto.Message, error) {
		if r, ok := c.req.(*runtimeapi.CheckpointPodRequest); ok && err != nil && strings.HasSuffix(r.OutputPath, "checkpoint") {
			_ = os.WriteFile(filepath.Join(r.OutputPath, "partial"), nil, 0o600)
		}
		return resp, err
	}}
}

// leavesSandbox makes the sandbox of a restore that failed.
func leavesSandbox() fault {
	return fault{answer: func(c *exchange, resp proto.Message, err error) (proto.Message, error) {
		if r, ok := c.req.(*runtimeapi.RestorePodRequest); ok && err != nil {
			_, _ = c.rt.RunPodSandbox(c.ctx, &runtimeapi.RunPodSandboxRequest{Config: r.Config})
		}
		return resp, err
	}}
}

func startsRestored() fault {
	return fault{answer: func(c *exchange, resp proto.Message, err error) (proto.Message, error) {
		if r, ok := resp.(*runtimeapi.RestorePodResponse); ok && err == nil {
			for _, one := range r.RestoredContainers {
				_, _ = c.rt.StartContainer(c.ctx, &runtimeapi.StartContainerRequest{ContainerId: one.ContainerId})
			}
		}
		return resp, err
	}}
}
