package oldclient_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// sigusr1 is SIGUSR1 in every version; its Go name is not.
const sigusr1 = runtimeapi.Signal(29)

// served is examples/cri-hello, and the old clients of it.
type served struct {
	runtimeapi.RuntimeServiceClient
	images runtimeapi.ImageServiceClient
	conn   *grpc.ClientConn
	logs   string
}

// serve builds cri-hello and runs it until the test ends.
func serve(t *testing.T) *served {
	t.Helper()
	dir, err := os.MkdirTemp("", "old") // short: see unix(7)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	hello, socket := filepath.Join(dir, "cri-hello"), filepath.Join(dir, "s")
	build := exec.Command("go", "build", "-o", hello, "./examples/cri-hello")
	build.Dir = "../.."
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building cri-hello: %v\n%s", err, out)
	}
	cmd := exec.Command(hello, "--endpoint", "unix://"+socket, "--root", filepath.Join(dir, "root"))
	cmd.Stderr = t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &served{runtimeapi.NewRuntimeServiceClient(conn), runtimeapi.NewImageServiceClient(conn), conn, filepath.Join(dir, "logs")}
}

// ok returns a call's answer.
func ok[Req, Resp any](t *testing.T, call func(context.Context, *Req, ...grpc.CallOption) (*Resp, error), req *Req) *Resp {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	resp, err := call(ctx, req)
	if err != nil {
		t.Fatalf("%T: %v", req, err)
	}
	return resp
}

// set sets a field that was a string and became bytes.
func set[T ~string | ~[]byte](field *T, value string) { *field = T(value) }

func (s *served) sandbox(t *testing.T) (string, *runtimeapi.PodSandboxConfig) {
	t.Helper()
	config := &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: "pod", Namespace: "default", Uid: "uid"},
		LogDirectory: s.logs, Labels: map[string]string{"pod": "yes"},
	}
	return ok(t, s.RunPodSandbox, &runtimeapi.RunPodSandboxRequest{Config: config}).PodSandboxId, config
}

func (s *served) container(t *testing.T, sandbox string, config *runtimeapi.PodSandboxConfig) string {
	t.Helper()
	env := &runtimeapi.KeyValue{Key: "K"}
	set(&env.Value, "value")
	return ok(t, s.CreateContainer, &runtimeapi.CreateContainerRequest{
		PodSandboxId: sandbox, SandboxConfig: config,
		Config: &runtimeapi.ContainerConfig{
			Metadata: &runtimeapi.ContainerMetadata{Name: "main"}, Image: &runtimeapi.ImageSpec{Image: "host"},
			Command: []string{"sh", "-c", "echo hello; exec sleep 1000"}, Envs: []*runtimeapi.KeyValue{env},
			LogPath: "main/0.log", StopSignal: sigusr1,
		},
	}).ContainerId
}

func TestLifeOfAPod(t *testing.T) {
	s := serve(t)
	if v := ok(t, s.Version, &runtimeapi.VersionRequest{}); v.RuntimeName != "cri-hello" || v.RuntimeApiVersion != "v1" {
		t.Errorf("version %v", v)
	}
	if st := ok(t, s.Status, &runtimeapi.StatusRequest{Verbose: true}); len(st.Status.Conditions) < 2 {
		t.Errorf("status %v", st)
	}
	ok(t, s.RuntimeConfig, &runtimeapi.RuntimeConfigRequest{})
	ok(t, s.UpdateRuntimeConfig, &runtimeapi.UpdateRuntimeConfigRequest{})
	ok(t, s.images.ImageFsInfo, &runtimeapi.ImageFsInfoRequest{})
	if im := ok(t, s.images.ImageStatus, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: "host"}}); im.Image.GetId() != "host" {
		t.Errorf("image %v", im)
	}
	events, err := s.GetContainerEvents(t.Context(), &runtimeapi.GetEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := events.Header(); err != nil {
		t.Fatal(err)
	}
	sandbox, config := s.sandbox(t)
	id := s.container(t, sandbox, config)
	s.runs(t, sandbox, id)
	s.ends(t, sandbox, id)
	s.seen(t, events, sandbox, id)
}

// runs starts the container and looks at it.
func (s *served) runs(t *testing.T, sandbox, id string) {
	t.Helper()
	ok(t, s.StartContainer, &runtimeapi.StartContainerRequest{ContainerId: id})
	st := ok(t, s.ContainerStatus, &runtimeapi.ContainerStatusRequest{ContainerId: id, Verbose: true}).Status
	if st.State != runtimeapi.ContainerState_CONTAINER_RUNNING || st.Image.GetImage() != "host" || st.ImageRef != "host" || st.StopSignal != sigusr1 {
		t.Errorf("container status %v", st)
	}
	pod := ok(t, s.PodSandboxStatus, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: sandbox})
	if pod.Status.State != runtimeapi.PodSandboxState_SANDBOX_READY || len(pod.ContainersStatuses) != 1 {
		t.Errorf("sandbox status %v", pod)
	}
	if l := ok(t, s.ListPodSandbox, &runtimeapi.ListPodSandboxRequest{Filter: &runtimeapi.PodSandboxFilter{LabelSelector: map[string]string{"pod": "yes"}}}); len(l.Items) != 1 {
		t.Errorf("sandboxes %v", l)
	}
	if l := ok(t, s.ListContainers, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{PodSandboxId: sandbox}}); len(l.Containers) != 1 {
		t.Errorf("containers %v", l)
	}
	line := regexp.MustCompile(`^\S+ stdout F hello\n$`)
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if log, err := os.ReadFile(st.LogPath); line.Match(log) {
			break
		} else if time.Now().After(end) {
			t.Fatalf("log %q, %v", log, err)
		}
	}
	_, err := s.ExecSync(t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"true"}})
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("what the runtime does not have: %v", err)
	}
}

// ends stops and removes everything, twice.
func (s *served) ends(t *testing.T, sandbox, id string) {
	t.Helper()
	ok(t, s.StopContainer, &runtimeapi.StopContainerRequest{ContainerId: id, Timeout: 5})
	if st := ok(t, s.ContainerStatus, &runtimeapi.ContainerStatusRequest{ContainerId: id}).Status; st.State != runtimeapi.ContainerState_CONTAINER_EXITED || st.FinishedAt == 0 {
		t.Errorf("container status %v", st)
	}
	for range 2 {
		ok(t, s.RemoveContainer, &runtimeapi.RemoveContainerRequest{ContainerId: id})
		ok(t, s.StopPodSandbox, &runtimeapi.StopPodSandboxRequest{PodSandboxId: sandbox})
		ok(t, s.RemovePodSandbox, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: sandbox})
	}
	if _, err := s.PodSandboxStatus(t.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: sandbox}); status.Code(err) != codes.NotFound {
		t.Errorf("a removed sandbox: %v", err)
	}
}

// seen reads the events of that life.
func (s *served) seen(t *testing.T, events runtimeapi.RuntimeService_GetContainerEventsClient, sandbox, id string) {
	t.Helper()
	names := map[string]string{sandbox: "sandbox", id: "container"}
	var got []string
	for range 8 {
		e, err := events.Recv()
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%s %d", names[e.ContainerId], e.ContainerEventType))
	}
	want := "[sandbox 0 sandbox 1 container 0 container 1 container 2 container 3 sandbox 2 sandbox 3]"
	if fmt.Sprint(got) != want {
		t.Errorf("events %v, want %v", got, want)
	}
}
