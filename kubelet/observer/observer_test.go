package observer_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/kubelet/observer"
	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// runtime has one Pod "u" with one container, and events if it is told so.
type runtime struct {
	runtimeapi.RuntimeServiceClient
	mu     sync.Mutex
	events chan *runtimeapi.ContainerEventResponse // nil: it has no events
	state  runtimeapi.ContainerState
	status *runtimeapi.ContainerStatus
	gone   bool // the container is removed between list and status
	lists  int
}

type stream struct {
	grpc.ClientStream
	ctx    context.Context
	events chan *runtimeapi.ContainerEventResponse
}

func (s *stream) Recv() (*runtimeapi.ContainerEventResponse, error) {
	if s.events == nil {
		return nil, grpcstatus.Error(codes.Unimplemented, "unknown method GetContainerEvents")
	}
	select {
	case e, ok := <-s.events:
		if !ok {
			return nil, grpcstatus.Error(codes.Unavailable, "gone")
		}
		return e, nil
	case <-s.ctx.Done():
		return nil, s.ctx.Err()
	}
}

func (r *runtime) GetContainerEvents(ctx context.Context, _ *runtimeapi.GetEventsRequest, _ ...grpc.CallOption) (grpc.ServerStreamingClient[runtimeapi.ContainerEventResponse], error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return &stream{ctx: ctx, events: r.events}, nil
}

func labels() map[string]string {
	return map[string]string{pod.LabelPodUID: "u", pod.LabelNode: "n", pod.LabelPodName: "web", pod.LabelPodNamespace: "ns", pod.LabelContainerName: "c"}
}

func (r *runtime) ListPodSandbox(context.Context, *runtimeapi.ListPodSandboxRequest, ...grpc.CallOption) (*runtimeapi.ListPodSandboxResponse, error) {
	return &runtimeapi.ListPodSandboxResponse{Items: []*runtimeapi.PodSandbox{{Id: "s", Labels: labels()}}}, nil
}

func (r *runtime) PodSandboxStatus(context.Context, *runtimeapi.PodSandboxStatusRequest, ...grpc.CallOption) (*runtimeapi.PodSandboxStatusResponse, error) {
	return &runtimeapi.PodSandboxStatusResponse{Status: &runtimeapi.PodSandboxStatus{
		Id: "s", Metadata: &runtimeapi.PodSandboxMetadata{Uid: "u", Attempt: 1},
		Network: &runtimeapi.PodSandboxNetworkStatus{Ip: "10.0.0.2", AdditionalIps: []*runtimeapi.PodIP{{Ip: "fd00::2"}}},
	}}, nil
}

func (r *runtime) ListContainers(context.Context, *runtimeapi.ListContainersRequest, ...grpc.CallOption) (*runtimeapi.ListContainersResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lists++
	return &runtimeapi.ListContainersResponse{Containers: []*runtimeapi.Container{{Id: "c1", PodSandboxId: "s", State: r.state, Labels: labels()}}}, nil
}

func (r *runtime) ContainerStatus(context.Context, *runtimeapi.ContainerStatusRequest, ...grpc.CallOption) (*runtimeapi.ContainerStatusResponse, error) {
	if r.gone {
		return nil, fault.NotFound.Errorf("gone")
	}
	return &runtimeapi.ContainerStatusResponse{Status: r.status}, nil
}

// follow runs an observer in a bubble of synctest and returns what it tells.
func follow(t *testing.T, r *runtime) <-chan types.UID {
	told := make(chan types.UID, 100)
	o := observer.New(observer.Config{Runtime: r, NodeID: "n", Changed: func(uid types.UID) { told <- uid }})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- o.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return told
}

func wait(t *testing.T, told <-chan types.UID, within time.Duration, what string) {
	t.Helper()
	begun := time.Now()
	if uid := <-told; uid != "u" {
		t.Errorf("%s: told of Pod %q", what, uid)
	}
	if took := time.Since(begun); took > within {
		t.Errorf("%s: told after %s, want %s at most", what, took, within)
	}
}

func TestEventsAreToldAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &runtime{events: make(chan *runtimeapi.ContainerEventResponse)}
		told := follow(t, r)
		wait(t, told, 0, "the first list")
		r.events <- &runtimeapi.ContainerEventResponse{ContainerId: "c1", PodSandboxStatus: &runtimeapi.PodSandboxStatus{Metadata: &runtimeapi.PodSandboxMetadata{Uid: "u"}}}
		wait(t, told, 0, "an event")
		r.events <- &runtimeapi.ContainerEventResponse{ContainerId: "c1"}
		wait(t, told, 0, "an event that names only the container")

		// The runtime restarts, and the container ends while nobody looks.
		r.mu.Lock()
		lost := r.events
		r.events, r.state = make(chan *runtimeapi.ContainerEventResponse), runtimeapi.ContainerState_CONTAINER_EXITED
		r.mu.Unlock()
		close(lost)
		wait(t, told, 100*time.Millisecond, "what happened while the runtime was away")
	})
}

func TestRuntimeWithoutEventsIsListed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &runtime{}
		told := follow(t, r)
		wait(t, told, 0, "the first list")
		r.mu.Lock()
		r.state = runtimeapi.ContainerState_CONTAINER_EXITED
		r.mu.Unlock()
		wait(t, told, time.Second, "a change")
	})
}

// A runtime without events is listed every second, and more often while Pods
// are worked on, so that nobody waits a second for a short container to end.
func TestRuntimeWithoutEventsIsListedOftenWhileSomethingGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &runtime{}
		told := make(chan time.Time, 10)
		o := observer.New(observer.Config{Runtime: r, NodeID: "n", Changed: func(types.UID) { told <- time.Now() }})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() { _ = o.Run(ctx) }() // its end is nobody's concern here
		lists := func() int {
			synctest.Wait()
			r.mu.Lock()
			defer r.mu.Unlock()
			return r.lists
		}
		count := func(d time.Duration) int {
			before := lists()
			time.Sleep(d)
			return lists() - before
		}
		count(time.Minute)
		<-told
		if n := count(10 * time.Second); n < 9 || n > 11 {
			t.Errorf("%d lists in 10 idle seconds", n)
		}
		if _, err := o.Observe(ctx, "u"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(150 * time.Millisecond)
		r.mu.Lock()
		r.state = runtimeapi.ContainerState_CONTAINER_EXITED
		r.mu.Unlock()
		ended := time.Now()
		if n := count(10 * time.Second); n > 20 {
			t.Errorf("%d lists in the 10 seconds after a change", n)
		}
		if late := (<-told).Sub(ended); late > 300*time.Millisecond {
			t.Errorf("the end was noticed after %v", late)
		}
	})
}

func TestObserve(t *testing.T) {
	dir := t.TempDir()
	message, log := filepath.Join(dir, "message"), filepath.Join(dir, "0.log")
	if err := os.WriteFile(log, []byte("2026-11-23T12:00:00Z stdout F hello\n2026-11-23T12:00:01Z stderr F bad luck\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := &runtime{status: &runtimeapi.ContainerStatus{
		Id: "c1", Metadata: &runtimeapi.ContainerMetadata{Name: "c", Attempt: 2}, State: runtimeapi.ContainerState_CONTAINER_EXITED,
		ExitCode: 3, FinishedAt: 5, Labels: labels(), LogPath: log, Image: &runtimeapi.ImageSpec{Image: "sha256:1", UserSpecifiedImage: "i:1"}, ImageRef: "sha256:1",
		Annotations: map[string]string{pod.AnnotationDelay: "20s", pod.AnnotationTerminationFile: message, pod.AnnotationTerminationPolicy: "FallbackToLogsOnError"},
	}}
	o := observer.New(observer.Config{Runtime: r, NodeID: "n"})
	seen, err := o.Observe(t.Context(), "u")
	if err != nil {
		t.Fatal(err)
	}
	s, c := seen.Sandbox(), seen.Latest("c")
	if s == nil || len(s.IPs) != 2 || s.Attempt != 1 || c == nil {
		t.Fatalf("observed %+v", seen)
	}
	if c.Attempt != 2 || c.State != pod.Exited || c.ExitCode != 3 || c.Delay != 20*time.Second || c.Image != "i:1" || !c.StartedAt.IsZero() || c.Message != "hello\nbad luck\n" {
		t.Errorf("observed %+v", c)
	}
	if err := os.WriteFile(message, []byte("my last words"), 0o600); err != nil {
		t.Fatal(err)
	}
	if seen, err = o.Observe(t.Context(), "u"); err != nil || seen.Latest("c").Message != "my last words" {
		t.Errorf("the message is %q (%v)", seen.Latest("c").Message, err)
	}
	r.gone = true
	if seen, err = o.Observe(t.Context(), "u"); err != nil || len(seen.Containers) != 0 {
		t.Errorf("a container that was removed meanwhile: %+v (%v)", seen, err)
	}
	found, err := o.Found(t.Context())
	if err != nil || found["u"].String() != "ns/web" {
		t.Errorf("found %v (%v)", found, err)
	}
}

// absent is a runtime whose lists say that nothing is there, and after an
// observation has seen a container nothing is there again.
type absent struct {
	*runtime
	there atomic.Bool
	deaf  bool
}

func (a *absent) ListPodSandbox(ctx context.Context, in *runtimeapi.ListPodSandboxRequest, o ...grpc.CallOption) (*runtimeapi.ListPodSandboxResponse, error) {
	if a.deaf {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if !a.there.Load() {
		return &runtimeapi.ListPodSandboxResponse{}, nil
	}
	return a.runtime.ListPodSandbox(ctx, in, o...)
}

func (a *absent) ListContainers(ctx context.Context, in *runtimeapi.ListContainersRequest, o ...grpc.CallOption) (*runtimeapi.ListContainersResponse, error) {
	if !a.there.Load() {
		return &runtimeapi.ListContainersResponse{}, nil
	}
	return a.runtime.ListContainers(ctx, in, o...)
}

// TestWhatIsGoneBetweenTwoListsIsTold holds what comes and goes between two lists:
// who has observed it is told that it went.
func TestWhatIsGoneBetweenTwoListsIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &absent{runtime: &runtime{status: &runtimeapi.ContainerStatus{}}}
		told := make(chan types.UID, 10)
		o := observer.New(observer.Config{Runtime: r, NodeID: "n", Changed: func(uid types.UID) { told <- uid }})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() { _ = o.Run(ctx) }() // its end is nobody's concern here
		synctest.Wait()
		r.there.Store(true)
		if _, err := o.Observe(ctx, "u"); err != nil {
			t.Fatal(err)
		}
		r.there.Store(false)
		time.Sleep(2 * time.Second)
		if len(told) == 0 {
			t.Error("nobody was told")
		}
	})
}

func TestALookThatIsNeverAnsweredEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := observer.New(observer.Config{Runtime: &absent{deaf: true}, NodeID: "n"})
		if _, err := o.Observe(t.Context(), "u"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("observing: %v", err)
		}
		if _, err := o.Found(t.Context()); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("looking for Pods: %v", err)
		}
	})
}
