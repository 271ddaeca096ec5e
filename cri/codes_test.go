package cri_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri"
	"github.com/nodekit-project/nodekit/cri/client"
)

// expected is the table of the package comment: what each call answers in a
// situation, "" where the situation is none of the call.
type expected struct {
	bare    codes.Code // by a runtime without any function
	empty   codes.Code // to an empty request
	unknown codes.Code // about an id that nobody has
	created codes.Code // about a container that was not started
	exited  codes.Code // about one that ended
	stopped codes.Code // about a sandbox that was stopped
}

const none = codes.OK

func expectations() map[protoreflect.Name]expected {
	no, bad, gone, state := codes.Unimplemented, codes.InvalidArgument, codes.NotFound, codes.FailedPrecondition
	listing := expected{}
	optional := expected{bare: no}
	running := expected{bare: no, empty: bad, unknown: gone, created: state, exited: state}
	ready := expected{bare: no, empty: bad, unknown: gone, stopped: state}
	ending := expected{bare: bad, empty: bad}
	looking := expected{bare: bad, empty: bad, unknown: gone}
	return map[protoreflect.Name]expected{
		"Version": listing, "Status": listing, "RuntimeConfig": listing, "UpdateRuntimeConfig": listing,
		"ListPodSandbox": listing, "StreamPodSandboxes": listing, "ListContainers": listing, "StreamContainers": listing,

		"RunPodSandbox":  {bare: no, empty: bad},
		"StopPodSandbox": ending, "RemovePodSandbox": ending, "StopContainer": ending, "RemoveContainer": ending,
		"PodSandboxStatus": looking, "ContainerStatus": looking,
		"CreateContainer":          ready,
		"StartContainer":           {bare: bad, empty: bad, unknown: gone, exited: state, stopped: state},
		"UpdateContainerResources": {bare: no, empty: bad, unknown: gone, exited: state},
		"ReopenContainerLog":       running, "ExecSync": running, "Exec": running, "Attach": running,
		"PortForward": ready, "UpdatePodSandboxResources": ready,
		"ContainerStats": running, "PodSandboxStats": ready,
		"ListContainerStats": optional, "StreamContainerStats": optional, "ListPodSandboxStats": optional, "StreamPodSandboxStats": optional,
		"ListMetricDescriptors": optional, "ListPodSandboxMetrics": optional, "StreamPodSandboxMetrics": optional,
		"CheckpointContainer": running,
		"CheckpointPod":       {bare: no, empty: bad, unknown: gone, created: state, exited: state, stopped: state},
		"RestorePod":          {bare: no, empty: bad},

		"ListImages": optional, "StreamImages": optional, "ImageFsInfo": optional,
		"ImageStatus": {bare: no, empty: bad}, "PullImage": {bare: no, empty: bad}, "RemoveImage": {bare: no, empty: bad},
	}
}

// about returns a request that is good but for what the ids mean.
func about(t *testing.T, m protoreflect.MethodDescriptor, sandbox, container string) *dynamicpb.Message {
	t.Helper()
	req := dynamicpb.NewMessage(m.Input())
	set := func(name string, v protoreflect.Value) {
		if d := m.Input().Fields().ByName(protoreflect.Name(name)); d != nil {
			req.Set(d, v)
		}
	}
	text := func(name, v string) { set(name, protoreflect.ValueOfString(v)) }
	text("pod_sandbox_id", sandbox)
	text("container_id", container)
	text("output_path", t.TempDir())
	text("location", t.TempDir()+"/x")
	if m.Name() != "PortForward" {
		set("stdout", protoreflect.ValueOfBool(true))
	}
	for name, v := range map[protoreflect.Name]string{"cmd": "true", "container_ids": container} {
		if d := m.Input().Fields().ByName(name); d != nil {
			req.Mutable(d).List().Append(protoreflect.ValueOfString(v))
		}
	}
	if d := m.Input().Fields().ByName("linux"); d != nil {
		req.Mutable(d)
	}
	if d := m.Input().Fields().ByName("config"); d != nil && m.Name() == "CreateContainer" {
		req.Set(d, protoreflect.ValueOfMessage(createRequest("", "new").Config.ProtoReflect()))
	}
	return req
}

func TestCodes(t *testing.T) {
	bare := serve(t, &cri.Runtime{Name: "bare", Version: "1"}, t.TempDir())
	n := serve(t, complete(), t.TempDir())
	bareConn, conn := dial(t, bare.endpoint), dial(t, n.endpoint)
	sb, stopped := n.sandbox("a"), n.sandbox("stopped")
	created, exited, inStopped := n.container(sb, "created"), n.started(sb, "exited"), n.container(stopped, "c")
	if err := n.stopContainer(exited, 0); err != nil {
		t.Fatal(err)
	}
	if err := n.stopSandbox(stopped); err != nil {
		t.Fatal(err)
	}
	want := expectations()
	for name, m := range methods() {
		if m.Name() == "GetContainerEvents" {
			continue // it has no answer until something happens
		}
		w, ok := want[m.Name()]
		if !ok {
			t.Errorf("%s: nobody says what it answers", name)
		}
		check := func(situation string, want codes.Code, err error) {
			t.Helper()
			if got := status.Code(err); got != want {
				t.Errorf("%s, %s: %v, want %v", m.Name(), situation, err, want)
			}
		}
		check("no functions", w.bare, invoke(t, bareConn, name, m, dynamicpb.NewMessage(m.Input())))
		check("empty", w.empty, invoke(t, conn, name, m, dynamicpb.NewMessage(m.Input())))
		ids := m.Input().Fields().ByName("pod_sandbox_id") != nil || m.Input().Fields().ByName("container_id") != nil
		if ids {
			check("unknown", w.unknown, invoke(t, conn, name, m, about(t, m, "unknown", "unknown")))
		}
		if w.created != none {
			check("created", w.created, invoke(t, conn, name, m, about(t, m, sb, created)))
		}
		if w.exited != none {
			check("exited", w.exited, invoke(t, conn, name, m, about(t, m, sb, exited)))
		}
		if w.stopped != none {
			check("stopped", w.stopped, invoke(t, conn, name, m, about(t, m, stopped, inStopped)))
		}
	}
}

// Every log says what the runtime does not have.
func TestUnsupportedIsLogged(t *testing.T) {
	var log strings.Builder
	rt := &cri.Runtime{Name: "bare", Version: "1"}
	logged(t, rt, &log)
	for _, want := range []string{"RunSandbox", "Watch", "SandboxStats", "Metrics", "UpdateSandbox", "Checkpoints.Dump", "Images.FsInfo"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("no %s in %s", want, &log)
		}
	}
	log.Reset()
	logged(t, complete(), &log)
	if !strings.Contains(log.String(), "unsupported=[]") {
		t.Errorf("of a complete runtime: %s", &log)
	}
}

// A status says all that the config did, and what became of it.
func TestContainerStatusIsComplete(t *testing.T) {
	rt := complete()
	n := serve(t, rt, t.TempDir())
	config := sandboxConfig("a")
	config.LogDirectory = t.TempDir()
	sb, err := n.Runtime.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: config})
	if err != nil {
		t.Fatal(err)
	}
	req := createRequest(sb.PodSandboxId, "main")
	req.Config.LogPath = "main/0.log"
	req.Config.Annotations = map[string]string{"a": "b"}
	req.Config.Mounts = []*runtimeapi.Mount{
		{ContainerPath: "/x", HostPath: "/y", Readonly: true},
		{ContainerPath: "/z", Image: &runtimeapi.ImageSpec{Image: "volume"}, Readonly: true},
	}
	req.Config.Image.UserSpecifiedImage = "busybox:latest"
	req.Config.Linux = &runtimeapi.LinuxContainerConfig{Resources: &runtimeapi.LinuxContainerResources{CpuShares: 7}}
	c, err := n.Runtime.CreateContainer(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.start(c.ContainerId); err != nil {
		t.Fatal(err)
	}
	st := n.status(c.ContainerId)
	for what, ok := range map[string]bool{
		"image id":    st.ImageId == "id" && st.ImageRef == "id",
		"user's name": st.Image.Image == "any" && st.Image.UserSpecifiedImage == "busybox:latest",
		"log path":    st.LogPath == config.LogDirectory+"/main/0.log",
		"mounts":      len(st.Mounts) == 2 && st.Mounts[0].HostPath == "/y" && st.Mounts[0].Image == nil,
		"volume":      st.Mounts[1].GetImage().GetImage() == "volume" && st.Mounts[1].Image.ImageRef == "id",
		"resources":   st.Resources.GetLinux().GetCpuShares() == 7,
		"labels":      st.Labels["container"] == "main" && st.Annotations["a"] == "b",
		"times":       st.CreatedAt > 0 && st.StartedAt >= st.CreatedAt && st.FinishedAt == 0,
	} {
		if !ok {
			t.Errorf("%s: %v", what, st)
		}
	}
	pod := n.sandboxStatus(sb.PodSandboxId)
	if pod.Timestamp < st.StartedAt || len(pod.ContainersStatuses) != 1 || pod.ContainersStatuses[0].Id != c.ContainerId {
		t.Errorf("pod %v", pod)
	}
}

// logged serves rt until it answers and writes what it logged.
func logged(t *testing.T, rt *cri.Runtime, log io.Writer) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	endpoint := filepath.Join(t.TempDir(), "s")
	done := make(chan error, 1)
	go func() {
		done <- cri.Serve(ctx, endpoint, rt, &cri.Options{StateDir: t.TempDir(), Logger: slog.New(slog.NewTextHandler(log, nil))})
	}()
	c, err := client.Dial(endpoint, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Wait(bounded(t))
	cancel()
	if err := errors.Join(err, c.Close(), <-done); err != nil {
		t.Fatal(err)
	}
}
