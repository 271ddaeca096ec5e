// Package worker brings Pods into the state that their specs ask for: one
// goroutine per Pod, which looks at the Pod, makes a plan (kubelet/pod.Decide),
// carries it out and looks again, until there is nothing to do; then it sleeps
// until something changes or the plan said to look again.
//
// A worker's observation is always newer than its last action, because it takes
// it itself and acts alone: two instances of one container cannot come about. It
// holds no state that a restart would miss: what was done is read from the
// runtime, and volumes and devices are asked for again, which is idempotent.
//
// A Pod syncs until its object has a deletionTimestamp, then it terminates:
// containers are stopped within the grace, then everything of it is taken away,
// volumes after containers, and last its object is removed. Pods of one name
// follow each other.
package worker

import (
	"context"
	"log/slog"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// Builder makes configurations and what they need on the host.
type Builder interface {
	Sandbox(p *v1.Pod, attempt uint32) (*runtimeapi.PodSandboxConfig, error)
	Container(context.Context, *pod.Request) (*runtimeapi.ContainerConfig, error)
	// Update returns what a running instance is told when its resources change.
	Update(*v1.Pod, *pod.Update) *runtimeapi.LinuxContainerResources
	// Clean takes away what Container made, RemoveDir the Pod's directory.
	Clean(*v1.Pod) error
	RemoveDir(types.UID) error
}

// Volumes mounts and unmounts a Pod's volumes. Both are idempotent, also after
// a crash. Mount returns a *pod.WaitError for what may still come.
type Volumes interface {
	Mount(context.Context, *v1.Pod) (pod.Volumes, error)
	Unmount(context.Context, types.UID) error
}

// Devices allocates and releases a Pod's devices, durably and idempotently.
type Devices interface {
	Allocate(context.Context, *v1.Pod) (map[string]pod.Devices, error)
	PreStart(ctx context.Context, p *v1.Pod, container string) error
	Release(context.Context, types.UID) error
}

// Probes runs the probes of running containers.
type Probes interface {
	// Sync starts and stops probes as the Pod's running containers ask for.
	Sync(*v1.Pod, *pod.Observation)
	// Results returns the verdicts by container id.
	Results(types.UID) map[string]pod.Probed
	Forget(types.UID)
}

// Admission gives Pods room on the node. All methods are idempotent and quick.
type Admission interface {
	// Admit gives the Pod room before its first start. It returns a
	// *pod.WaitError when others have it and are ending, and a *pod.RejectError
	// when the Pod will not run here.
	Admit(*v1.Pod) error
	// Adopt gives room to a Pod that was admitted by an earlier process.
	Adopt(*v1.Pod)
	// Ending notes that an admitted Pod shall end.
	Ending(*v1.Pod)
	// Resize gives an admitted Pod the room that its spec asks for now. A
	// *pod.RejectError says that the node can never give it; after any error the
	// Pod keeps what it has.
	Resize(*v1.Pod) error
	// Release takes the room of a Pod that has stopped.
	Release(types.UID)
}

// Cgroups makes and removes Pod cgroups, idempotently, also after a crash.
type Cgroups interface {
	// Apply makes the Pod's cgroup, or brings it up to the Pod's resources: before
	// the first container is made, and whenever the resources have changed.
	Apply(*v1.Pod) error
	Remove(types.UID) error
}

// Objects is where workers write what became of their Pods.
type Objects interface {
	// SetStatus records what changed of the Pod's status since was, which is what
	// was recorded last, or was there at the start. It returns fault.NotFound when
	// the Pod's object is gone.
	SetStatus(ctx context.Context, p *v1.Pod, was, now *v1.PodStatus) error
	// Remove removes the object of an ended Pod. Idempotent.
	Remove(context.Context, *v1.Pod) error
}

// Config is what workers work with. Everything is required but what says what
// nil does.
type Config struct {
	Runtime   runtimeapi.RuntimeServiceClient
	Images    runtimeapi.ImageServiceClient
	Observe   func(context.Context, types.UID) (*pod.Observation, error)
	Status    func(*pod.View) v1.PodStatus
	Decide    func(*pod.View) pod.Plan // nil is pod.Decide; a wrong one shows what a test sees
	Objects   Objects
	Builder   Builder
	Volumes   Volumes
	Devices   Devices
	Probes    Probes
	Cgroups   Cgroups
	Admission Admission
	// NetworkReady says why the runtime cannot connect Pods, or nil. It is asked
	// when a sandbox could not be made, to tell that from other causes; nil is
	// not asked.
	NetworkReady func(context.Context) error
	// Handler returns the runtime's handler that the Pod asks for, "" for the default
	// one. It is asked before a sandbox is made, and returns a *pod.WaitError for what
	// may still come and a *pod.RejectError for what the runtime cannot do. Nil is the
	// default one.
	Handler func(context.Context, *v1.Pod) (string, error)
	// Credentials returns what an image may be pulled with for the Pod, in the order
	// in which it is to be tried; none leaves it to the runtime. It is asked before
	// each pull. Its error says which of the Secrets that the Pod names cannot be used,
	// and nothing of what is in them; the credentials beside it are tried all the same.
	// Nil is none.
	Credentials func(ctx context.Context, p *v1.Pod, image string) ([]*runtimeapi.AuthConfig, error)
	OnStep      func(pod.Step) // nil tells nobody
	// Event is told what users shall hear of a Pod, from many goroutines. It must
	// be quick; nil discards.
	Event  func(pod.Event)
	Logger *slog.Logger // nil discards
}
