package cri_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri"
	"github.com/nodekit-project/nodekit/internal/protofill"
)

// complete is a fake that has every function, none of which fails.
func complete() *cri.Runtime {
	_, rt := checkpointing()
	rt.Handlers = []cri.Handler{{RecursiveReadOnlyMounts: true, UserNamespaces: true}}
	rt.Features = cri.Features{SupplementalGroupsPolicy: true, UserNamespacesHostNetwork: true, MountOptions: true}
	rt.StopContainer = func(_ context.Context, c *cri.Container, _ time.Duration) error {
		c.Exit = &cri.Exit{Code: 137}
		return nil
	}
	rt.UpdateContainer = func(context.Context, *cri.Container, *runtimeapi.LinuxContainerResources) error { return nil }
	rt.UpdateSandbox = func(context.Context, *cri.Sandbox, *runtimeapi.LinuxContainerResources, *runtimeapi.LinuxContainerResources) error {
		return nil
	}
	rt.ReopenLog = func(context.Context, *cri.Container) error { return nil }
	rt.Exec = func(context.Context, *cri.Container, []string, cri.Streams) (int32, error) { return 0, nil }
	rt.Attach = func(context.Context, *cri.Container, cri.Streams) error { return nil }
	rt.PortForward = func(_ context.Context, _ *cri.Sandbox, _ int32, c io.ReadWriteCloser) error { return c.Close() }
	rt.Stats = func(context.Context, *cri.Container) (*runtimeapi.ContainerStats, error) {
		return &runtimeapi.ContainerStats{}, nil
	}
	rt.SandboxStats = func(context.Context, *cri.Sandbox) (*runtimeapi.LinuxPodSandboxStats, error) {
		return &runtimeapi.LinuxPodSandboxStats{}, nil
	}
	rt.Metrics = &cri.Metrics{Descriptors: []*runtimeapi.MetricDescriptor{{Name: "up"}}}
	rt.Images = &cri.Images{
		List: func(context.Context) ([]*runtimeapi.Image, error) {
			return []*runtimeapi.Image{{Id: "id", Size: 1}}, nil
		},
		Status: func(context.Context, *runtimeapi.ImageSpec) (*runtimeapi.Image, error) {
			return &runtimeapi.Image{Id: "id", Size: 1}, nil
		},
		Pull:   func(context.Context, *runtimeapi.PullImageRequest) (string, error) { return "id", nil },
		Remove: func(context.Context, *runtimeapi.ImageSpec) error { return nil },
		FsInfo: func(context.Context) (*runtimeapi.FilesystemUsage, error) { return &runtimeapi.FilesystemUsage{}, nil },
	}
	return rt
}

// methods are all calls of both services, by their full names.
func methods() map[string]protoreflect.MethodDescriptor {
	all := map[string]protoreflect.MethodDescriptor{}
	services := runtimeapi.File_staging_src_k8s_io_cri_api_pkg_apis_runtime_v1_api_proto.Services()
	for i := range services.Len() {
		for j := range services.Get(i).Methods().Len() {
			m := services.Get(i).Methods().Get(j)
			all[fmt.Sprintf("/%s/%s", services.Get(i).FullName(), m.Name())] = m
		}
	}
	return all
}

// goodRequests are what a round changes a little; other requests are filled.
func goodRequests(sandbox, container, logs, data string) map[protoreflect.Name]proto.Message {
	config := sandboxConfig("good")
	config.LogDirectory = logs
	create := createRequest(sandbox, "good")
	create.Config.LogPath = "good/0.log"
	return map[protoreflect.Name]proto.Message{
		"RunPodSandbox":   &runtimeapi.RunPodSandboxRequest{Config: config},
		"CreateContainer": create,
		"RestorePod":      &runtimeapi.RestorePodRequest{CheckpointPath: data, Config: config, ContainerConfigs: []*runtimeapi.ContainerConfig{create.Config}},
		"CheckpointPod":   &runtimeapi.CheckpointPodRequest{PodSandboxId: sandbox, OutputPath: data, ContainerIds: []string{container}},
		"UpdateContainerResources": &runtimeapi.UpdateContainerResourcesRequest{
			ContainerId: container, Linux: &runtimeapi.LinuxContainerResources{CpuShares: 2},
		},
		"UpdatePodSandboxResources": &runtimeapi.UpdatePodSandboxResourcesRequest{
			PodSandboxId: sandbox, Resources: &runtimeapi.LinuxContainerResources{CpuShares: 2},
		},
		"StartContainer":     &runtimeapi.StartContainerRequest{ContainerId: container},
		"ReopenContainerLog": &runtimeapi.ReopenContainerLogRequest{ContainerId: container},
	}
}

// FuzzRequests sends every request with every field filled to a runtime whose
// functions all succeed: whatever goes wrong is the request's fault and is
// answered so.
func FuzzRequests(f *testing.F) {
	for seed := range uint64(40) {
		f.Add(seed)
	}
	n := serve(f, complete(), f.TempDir())
	logs, data := f.TempDir(), f.TempDir()
	conn := dial(f, n.endpoint)
	all := methods()
	var order []string
	for name := range all {
		order = append(order, name)
	}
	slices.Sort(order)
	f.Fuzz(func(t *testing.T, seed uint64) {
		sb := n.sandboxOf(t, fmt.Sprint("s", seed))
		c := n.containerOf(t, sb, "c")
		_, _ = n.Runtime.StartContainer(t.Context(), &runtimeapi.StartContainerRequest{ContainerId: c})
		fill := protofill.New(seed, data, map[protoreflect.Name][]string{
			"pod_sandbox_id": {sb}, "container_id": {c}, "container_ids": {c}, "name": {"a", "b"}, "uid": {"u1", "u2"}, "namespace": {"ns"},
			"log_directory": {logs}, "log_path": {"c/0.log"}, "output_path": {data}, "checkpoint_path": {data}, "location": {data + "/x.tar"},
			"image": {"busybox"}, "container_path": {"/c"}, "host_path": {"/h"}, "working_dir": {"/"}, "runtime_handler": {""}, "pod_cidr": {"10.0.0.0/24"},
			"key": {"K"}, "cmd": {"true"}, "host_ip": {"127.0.0.1"}, "image_sub_path": {""}, "options": {"tcp"},
		})
		good := goodRequests(sb, c, logs, data)
		for _, i := range fill.Perm(len(order)) {
			name := order[i]
			req := dynamicpb.NewMessage(all[name].Input())
			if g := good[all[name].Name()]; g != nil && fill.IntN(4) > 0 {
				wire, err := proto.Marshal(g)
				if err != nil || proto.Unmarshal(wire, req) != nil {
					t.Fatal(err)
				}
				for range fill.IntN(4) {
					fill.Change(req)
				}
			} else {
				fill.Fill(req)
			}
			allowed(t, name, req, invoke(t, conn, name, all[name], req))
		}
		removed(t, n)
	})
}

// allowed fails the test for an answer that is not about the request.
func allowed(t *testing.T, name string, req proto.Message, err error) {
	t.Helper()
	switch status.Code(err) {
	case codes.OK, codes.InvalidArgument, codes.NotFound, codes.AlreadyExists, codes.FailedPrecondition:
	case codes.DeadlineExceeded, codes.Canceled:
		if !strings.HasSuffix(name, "Events") {
			t.Errorf("%s never ends: %.2000v", name, req)
		}
	default:
		t.Errorf("%s: %.300v\n%.2000v", name, err, req)
	}
}

// invoke makes one call and reads all of its answer.
func invoke(t *testing.T, conn *grpc.ClientConn, name string, m protoreflect.MethodDescriptor, req proto.Message) error {
	limit := 5 * time.Second
	if m.IsStreamingServer() && strings.HasSuffix(name, "Events") {
		limit = 20 * time.Millisecond
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	if !m.IsStreamingServer() {
		return conn.Invoke(ctx, name, req, dynamicpb.NewMessage(m.Output()))
	}
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, name)
	if err != nil {
		return err
	}
	if err := stream.SendMsg(req); err != nil {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	for {
		err := stream.RecvMsg(dynamicpb.NewMessage(m.Output()))
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func dial(t testing.TB, endpoint string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// removed takes away every sandbox that a round made.
func removed(t *testing.T, n *node) {
	t.Helper()
	list, err := n.Runtime.ListPodSandbox(t.Context(), &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range list.Items {
		if _, err := n.Runtime.RemovePodSandbox(t.Context(), &runtimeapi.RemovePodSandboxRequest{PodSandboxId: s.Id}); err != nil {
			t.Errorf("removing what a round made: %v", err)
		}
	}
}

func (n *node) sandboxOf(t *testing.T, name string) string {
	t.Helper()
	resp, err := n.Runtime.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: sandboxConfig(name)})
	if err != nil {
		t.Fatal(err)
	}
	return resp.PodSandboxId
}

func (n *node) containerOf(t *testing.T, sandbox, name string) string {
	t.Helper()
	resp, err := n.Runtime.CreateContainer(t.Context(), createRequest(sandbox, name))
	if err != nil {
		t.Fatal(err)
	}
	return resp.ContainerId
}

// Text that is not UTF-8 does not decode: gRPC answers, and nobody else sees it.
func TestTextThatIsNotUTF8(t *testing.T) {
	f, rt := newFake()
	n := serve(t, rt, t.TempDir())
	conn := dial(t, n.endpoint)
	raw := []byte{0x12, 0x02, 0xff, 0xfe} // runtime_handler
	err := conn.Invoke(t.Context(), "/runtime.v1.RuntimeService/RunPodSandbox", raw, &runtimeapi.RunPodSandboxResponse{}, grpc.ForceCodec(rawCodec{}))
	if c := status.Code(err); c != codes.Internal || !strings.Contains(err.Error(), "UTF-8") {
		t.Errorf("got %v", err)
	}
	if calls := f.noted(); len(calls) > 0 {
		t.Errorf("the author was called: %q", calls)
	}
	n.sandbox("a") // it goes on
}

// rawCodec sends bytes as they are.
type rawCodec struct{}

func (rawCodec) Marshal(v any) ([]byte, error)   { return v.([]byte), nil }
func (rawCodec) Unmarshal(b []byte, v any) error { return proto.Unmarshal(b, v.(proto.Message)) }
func (rawCodec) Name() string                    { return "proto" }

// An answer about a text that is too long for an answer is one all the same.
// TestAuthorsTextThatIsNotUTF8: what an author passes on of a program's output or a file's
// name costs no answer, above all not that about everything else.
func TestAuthorsTextThatIsNotUTF8(t *testing.T) {
	_, rt := newFake()
	rt.NetworkReady = func(context.Context) error { return errors.New("plugin said \xff") }
	rt.CreateContainer = func(_ context.Context, c *cri.Container) error {
		c.ImageRef = "image\xff"
		return nil
	}
	rt.StartContainer = func(context.Context, *cri.Container) error { return errors.New("runtime said \xff") }
	n := serve(t, rt, t.TempDir())
	id := n.container(n.sandbox("a"), "c")
	if err := n.start(id); err == nil || !strings.Contains(err.Error(), "runtime said") {
		t.Errorf("start answers %v", err)
	}
	if st := n.status(id); st.GetMessage() != "runtime said \uFFFD" || st.GetImageRef() != "image\uFFFD" {
		t.Errorf("the container's status is %v", st)
	}
	if list, err := n.Runtime.ListContainers(t.Context(), &runtimeapi.ListContainersRequest{}); err != nil || len(list.GetContainers()) != 1 {
		t.Errorf("the list is %v, %v", list, err)
	}
	resp, err := n.Runtime.Status(t.Context(), &runtimeapi.StatusRequest{})
	if err != nil || !strings.Contains(fmt.Sprint(resp.GetStatus().GetConditions()), "plugin said \uFFFD") {
		t.Errorf("the runtime's status is %v, %v", resp, err)
	}
}

func TestHugeText(t *testing.T) {
	_, rt := newFake()
	n := serve(t, rt, t.TempDir())
	huge := strings.Repeat("é", 4<<20)
	_, err := n.Runtime.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: sandboxConfig("a"), RuntimeHandler: huge})
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("a handler: %.300v", err)
	}
	_, err = n.Runtime.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: huge})
	if status.Code(err) != codes.NotFound {
		t.Errorf("an id: %.300v", err)
	}
	if len(err.Error()) > 1<<14 {
		t.Errorf("the answer has %d bytes", len(err.Error()))
	}
}
