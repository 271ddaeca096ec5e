package simulation_test

import (
	"context"
	"fmt"
	"maps"
	"time"

	"google.golang.org/grpc"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// sandbox is one sandbox of the simulated runtime, and what is true of it.
type sandbox struct {
	id      string
	uid     types.UID
	attempt uint32
	labels  map[string]string
	ready   bool
	created time.Time
	// done are the plain init containers that have succeeded in it, started the
	// sidecars that have run in it, with their startup probe passed.
	done, started map[string]bool
	stray         bool // a call made it that nobody waited for
}

// runtime is a CRI runtime without processes. Its fields are the world's, guarded
// by life.mu.
type runtime struct {
	life       *life
	sandboxes  []*sandbox
	containers []*container // that it has a record of, oldest first
	all        []*container // that ever were
	images     map[string]bool
	made       map[string]int // per name, for ids
	stream     *stream
}

func newRuntime(l *life) *runtime {
	return &runtime{life: l, images: map[string]bool{"image:1": true, "image:2": true}, made: map[string]int{}}
}

// newID returns the next id of the name. The caller holds life.mu.
func (r *runtime) newID(name string) string {
	r.made[name]++
	return fmt.Sprintf("%s%d", name, r.made[name])
}

func (r *runtime) sandbox(id string) *sandbox {
	for _, s := range r.sandboxes {
		if s.id == id {
			return s
		}
	}
	return nil
}

func (r *runtime) container(id string) *container {
	for _, c := range r.containers {
		if c.id == id {
			return c
		}
	}
	return nil
}

// client is the runtime as one process of the kubelet sees it.
type client struct {
	runtimeapi.RuntimeServiceClient // what the kubelet does not call is nil
	*process
}

func (c client) RunPodSandbox(ctx context.Context, in *runtimeapi.RunPodSandboxRequest, _ ...grpc.CallOption) (*runtimeapi.RunPodSandboxResponse, error) {
	r, m := c.life.runtime, in.Config.Metadata
	uid := types.UID(m.Uid)
	resp := &runtimeapi.RunPodSandboxResponse{}
	err := c.call(ctx, request{
		what: "run sandbox", about: fmt.Sprintf("%s/%d", uid, m.Attempt), most: c.life.slow("run sandbox", 300*time.Millisecond, time.Minute),
		check: func() { c.life.rules.runsSandbox(uid) },
		effect: func(stray bool) error {
			for _, s := range r.sandboxes {
				if c.life.temper.strict && s.uid == uid && s.attempt == m.Attempt {
					return fault.AlreadyExists.Errorf("sandbox %q has this name", s.id)
				}
			}
			s := &sandbox{
				id: r.newID("sandbox"), uid: uid, attempt: m.Attempt, labels: in.Config.Labels, ready: true, created: time.Now(),
				done: map[string]bool{}, started: map[string]bool{}, stray: stray,
			}
			r.sandboxes = append(r.sandboxes, s)
			r.life.note("  %s is ready", s.id)
			r.tell(s, "")
			resp.PodSandboxId = s.id
			return nil
		},
	})
	return resp, err
}

func (c client) StopPodSandbox(ctx context.Context, in *runtimeapi.StopPodSandboxRequest, _ ...grpc.CallOption) (*runtimeapi.StopPodSandboxResponse, error) {
	r, id := c.life.runtime, in.PodSandboxId
	return &runtimeapi.StopPodSandboxResponse{}, c.call(ctx, request{
		what: "stop sandbox", about: id, most: c.life.slow("stop sandbox", 100*time.Millisecond, 5*time.Second),
		effect: func(stray bool) error {
			s := r.sandbox(id)
			if s == nil {
				return fault.NotFound.Errorf("there is no sandbox %q", id)
			}
			if !stray {
				c.life.rules.endsSandbox(s)
			}
			r.end(s)
			return nil
		},
	})
}

func (c client) RemovePodSandbox(ctx context.Context, in *runtimeapi.RemovePodSandboxRequest, _ ...grpc.CallOption) (*runtimeapi.RemovePodSandboxResponse, error) {
	r, id := c.life.runtime, in.PodSandboxId
	return &runtimeapi.RemovePodSandboxResponse{}, c.call(ctx, request{
		what: "remove sandbox", about: id, most: 20 * time.Millisecond,
		effect: func(stray bool) error {
			s := r.sandbox(id)
			if s == nil {
				return nil
			}
			if !stray {
				c.life.rules.endsSandbox(s)
			}
			r.drop(s)
			return nil
		},
	})
}

// end ends a sandbox and what runs in it. The caller holds life.mu.
func (r *runtime) end(s *sandbox) {
	for _, c := range r.containers {
		if c.sandbox == s {
			c.exit(137, "SIGKILL")
		}
	}
	if s.ready {
		s.ready = false
		r.tell(s, "")
	}
}

// drop removes a sandbox and its containers. The caller holds life.mu.
func (r *runtime) drop(s *sandbox) {
	r.end(s)
	keep := r.containers[:0:0]
	for _, c := range r.containers {
		if c.sandbox == s {
			c.removed = true
		} else {
			keep = append(keep, c)
		}
	}
	r.containers = keep
	var left []*sandbox
	for _, other := range r.sandboxes {
		if other != s {
			left = append(left, other)
		}
	}
	r.sandboxes = left
	r.tell(s, "")
}

func (c client) CreateContainer(ctx context.Context, in *runtimeapi.CreateContainerRequest, _ ...grpc.CallOption) (*runtimeapi.CreateContainerResponse, error) {
	r := c.life.runtime
	name, attempt := in.Config.Metadata.Name, in.Config.Metadata.Attempt
	resp := &runtimeapi.CreateContainerResponse{}
	err := c.call(ctx, request{
		what: "create", about: fmt.Sprintf("%s/%d in %s", name, attempt, in.PodSandboxId), most: c.life.slow("create", 50*time.Millisecond, 5*time.Second),
		effect: func(stray bool) error {
			s := r.sandbox(in.PodSandboxId)
			if s == nil || !s.ready {
				return fault.NotFound.Errorf("sandbox %q is not ready", in.PodSandboxId)
			}
			for _, other := range r.containers {
				if c.life.temper.strict && other.sandbox.uid == s.uid && other.name == name && other.attempt == attempt {
					return fault.AlreadyExists.Errorf("container %q has this name", other.id)
				}
			}
			made := &container{
				life: c.life, id: r.newID(name + "-"), name: name, sandbox: s, attempt: attempt, labels: in.Config.Labels,
				annotations: maps.Clone(in.Config.Annotations), image: in.Config.Image.UserSpecifiedImage,
				state: runtimeapi.ContainerState_CONTAINER_CREATED, created: time.Now(), ended: make(chan struct{}), stray: stray,
			}
			if spec, _ := find(c.life.rules.pods[s.uid].pod, name); spec.Image != made.image {
				made.doomed = true // the image was changed meanwhile
			}
			r.containers = append(r.containers, made)
			r.all = append(r.all, made)
			r.life.note("  %s is created", made.id)
			r.tell(s, made.id)
			resp.ContainerId = made.id
			return nil
		},
	})
	return resp, err
}

func (c client) StartContainer(ctx context.Context, in *runtimeapi.StartContainerRequest, _ ...grpc.CallOption) (*runtimeapi.StartContainerResponse, error) {
	r, id := c.life.runtime, in.ContainerId
	return &runtimeapi.StartContainerResponse{}, c.call(ctx, request{
		what: "start", about: id, most: c.life.slow("start", 50*time.Millisecond, 5*time.Second),
		effect: func(stray bool) error {
			have := r.container(id)
			if have == nil || !have.sandbox.ready {
				return fault.NotFound.Errorf("there is no container %q in a ready sandbox", id)
			}
			if have.state != runtimeapi.ContainerState_CONTAINER_CREATED {
				return fault.FailedPrecondition.Errorf("container %q is not in the created state", id)
			}
			have.stray = have.stray || stray
			return have.start()
		},
	})
}

func (c client) RemoveContainer(ctx context.Context, in *runtimeapi.RemoveContainerRequest, _ ...grpc.CallOption) (*runtimeapi.RemoveContainerResponse, error) {
	r, id := c.life.runtime, in.ContainerId
	return &runtimeapi.RemoveContainerResponse{}, c.call(ctx, request{
		what: "remove", about: id, most: 20 * time.Millisecond,
		effect: func(stray bool) error {
			have := r.container(id)
			if have == nil {
				return nil
			}
			if !stray {
				c.life.rules.removes(have)
			}
			have.remove()
			return nil
		},
	})
}

// hash is what the kubelet recorded of the spec that the container is made from.
func (c *container) hash() string { return c.annotations[pod.AnnotationHash] }
