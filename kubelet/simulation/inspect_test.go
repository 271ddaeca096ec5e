package simulation_test

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// readMost is the most that half of a call takes which only reads.
const readMost = time.Millisecond

func selected(labels, by map[string]string) bool {
	for k, v := range by {
		if labels[k] != v {
			return false
		}
	}
	return true
}

func about(by map[string]string) string {
	if len(by) > 1 {
		return "a Pod"
	}
	return "all"
}

func (c client) ListPodSandbox(ctx context.Context, in *runtimeapi.ListPodSandboxRequest, _ ...grpc.CallOption) (*runtimeapi.ListPodSandboxResponse, error) {
	resp, by := &runtimeapi.ListPodSandboxResponse{}, in.Filter.LabelSelector
	return resp, c.call(ctx, request{
		what: "list sandboxes", about: about(by), most: readMost, reads: true,
		effect: func(bool) error {
			for _, s := range c.life.runtime.sandboxes {
				if selected(s.labels, by) {
					resp.Items = append(resp.Items, &runtimeapi.PodSandbox{Id: s.id, Labels: s.labels, State: s.state()})
				}
			}
			return nil
		},
	})
}

func (s *sandbox) state() runtimeapi.PodSandboxState {
	if s.ready {
		return runtimeapi.PodSandboxState_SANDBOX_READY
	}
	return runtimeapi.PodSandboxState_SANDBOX_NOTREADY
}

func (c client) PodSandboxStatus(ctx context.Context, in *runtimeapi.PodSandboxStatusRequest, _ ...grpc.CallOption) (*runtimeapi.PodSandboxStatusResponse, error) {
	resp := &runtimeapi.PodSandboxStatusResponse{}
	return resp, c.call(ctx, request{
		what: "status of", about: in.PodSandboxId, most: readMost, reads: true,
		effect: func(bool) error {
			s := c.life.runtime.sandbox(in.PodSandboxId)
			if s == nil {
				return fault.NotFound.Errorf("there is no sandbox %q", in.PodSandboxId)
			}
			resp.Status = &runtimeapi.PodSandboxStatus{
				Id: s.id, Metadata: &runtimeapi.PodSandboxMetadata{Uid: string(s.uid), Attempt: s.attempt}, State: s.state(),
				CreatedAt: s.created.UnixNano(), Network: &runtimeapi.PodSandboxNetworkStatus{Ip: "10.0.0.1"}, Labels: s.labels,
			}
			return nil
		},
	})
}

func (c client) ListContainers(ctx context.Context, in *runtimeapi.ListContainersRequest, _ ...grpc.CallOption) (*runtimeapi.ListContainersResponse, error) {
	resp, by := &runtimeapi.ListContainersResponse{}, in.Filter.LabelSelector
	return resp, c.call(ctx, request{
		what: "list containers", about: about(by), most: readMost, reads: true,
		effect: func(bool) error {
			for _, have := range c.life.runtime.containers {
				if selected(have.labels, by) {
					resp.Containers = append(resp.Containers, &runtimeapi.Container{
						Id: have.id, PodSandboxId: have.sandbox.id, Labels: have.labels, State: have.told(),
					})
				}
			}
			return nil
		},
	})
}

// told is the state that the runtime tells.
func (c *container) told() runtimeapi.ContainerState {
	if c.unknown {
		return runtimeapi.ContainerState_CONTAINER_UNKNOWN
	}
	return c.state
}

func (c client) ContainerStatus(ctx context.Context, in *runtimeapi.ContainerStatusRequest, _ ...grpc.CallOption) (*runtimeapi.ContainerStatusResponse, error) {
	resp := &runtimeapi.ContainerStatusResponse{}
	return resp, c.call(ctx, request{
		what: "status of", about: in.ContainerId, most: readMost, reads: true,
		effect: func(bool) error {
			have := c.life.runtime.container(in.ContainerId)
			if have == nil {
				return fault.NotFound.Errorf("there is no container %q", in.ContainerId)
			}
			resp.Status = &runtimeapi.ContainerStatus{
				Id: have.id, Metadata: &runtimeapi.ContainerMetadata{Name: have.name, Attempt: have.attempt}, State: have.told(),
				CreatedAt: nanos(have.created), StartedAt: nanos(have.started), FinishedAt: nanos(have.finished),
				ExitCode: have.code, Reason: have.reason, Labels: have.labels, Annotations: have.annotations,
				Image: &runtimeapi.ImageSpec{UserSpecifiedImage: have.image}, ImageRef: have.image,
			}
			return nil
		},
	})
}

func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

// stream is the runtime's event stream to one process.
type stream struct {
	grpc.ClientStream
	ctx    context.Context
	events chan *runtimeapi.ContainerEventResponse
	broken chan struct{}
}

func (c client) GetContainerEvents(ctx context.Context, _ *runtimeapi.GetEventsRequest, _ ...grpc.CallOption) (grpc.ServerStreamingClient[runtimeapi.ContainerEventResponse], error) {
	s := &stream{ctx: ctx, events: make(chan *runtimeapi.ContainerEventResponse, 1000), broken: make(chan struct{})}
	return s, c.call(ctx, request{
		what: "events of", about: "the runtime", most: readMost, reads: true,
		effect: func(stray bool) error {
			if c.life.temper.noEvents {
				return fault.Unimplemented.Errorf("this runtime has no events")
			}
			if !stray {
				c.life.runtime.stream = s
			}
			return nil
		},
	})
}

// Recv returns the next event.
func (s *stream) Recv() (*runtimeapi.ContainerEventResponse, error) {
	select {
	case e := <-s.events:
		return e, nil
	case <-s.broken:
		return nil, grpcstatus.Error(codes.Unavailable, "the runtime is down")
	case <-s.ctx.Done():
		return nil, s.ctx.Err()
	}
}

// tell sends an event, late, or never. The caller holds life.mu.
func (r *runtime) tell(s *sandbox, id string) {
	l, to := r.life, r.stream
	key := "event of " + s.id + id
	if to == nil || !l.quiet.Load() && l.dice.chance(key, l.temper.losesEvent) {
		return
	}
	if id == "" {
		id = s.id
	}
	e := &runtimeapi.ContainerEventResponse{
		ContainerId: id, PodSandboxStatus: &runtimeapi.PodSandboxStatus{Metadata: &runtimeapi.PodSandboxMetadata{Uid: string(s.uid)}},
	}
	time.AfterFunc(l.dice.spread(key, 10*time.Microsecond, 20*time.Millisecond), func() {
		select {
		case to.events <- e:
		default: // nobody reads any more
		}
	})
}

// breakStream ends the event stream. The caller holds life.mu.
func (r *runtime) breakStream() {
	if r.stream != nil {
		close(r.stream.broken)
		r.stream = nil
	}
}

func (c client) ImageStatus(ctx context.Context, in *runtimeapi.ImageStatusRequest, _ ...grpc.CallOption) (*runtimeapi.ImageStatusResponse, error) {
	resp := &runtimeapi.ImageStatusResponse{}
	return resp, c.call(ctx, request{
		what: "status of", about: in.Image.Image, most: readMost, reads: true,
		effect: func(bool) error {
			if c.life.runtime.images[in.Image.Image] {
				resp.Image = &runtimeapi.Image{Id: in.Image.Image}
			}
			return nil
		},
	})
}

// images is the image service of a process.
type images struct {
	runtimeapi.ImageServiceClient
	client
}

func (i images) ImageStatus(ctx context.Context, in *runtimeapi.ImageStatusRequest, o ...grpc.CallOption) (*runtimeapi.ImageStatusResponse, error) {
	return i.client.ImageStatus(ctx, in, o...)
}

// PullImage pulls. No image that Pods name fails for good.
func (i images) PullImage(ctx context.Context, in *runtimeapi.PullImageRequest, _ ...grpc.CallOption) (*runtimeapi.PullImageResponse, error) {
	l, image := i.life, in.Image.Image
	return &runtimeapi.PullImageResponse{ImageRef: image}, i.call(ctx, request{
		what: "pull", about: image, most: l.slow("pull", time.Second, time.Minute),
		effect: func(bool) error {
			l.runtime.images[image] = true
			return nil
		},
	})
}
