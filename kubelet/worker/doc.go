// Package worker brings Pods into the state that their specs ask for. There is one
// goroutine per Pod. It observes the Pod, makes a plan (kubelet/pod.Decide), carries it
// out and observes again, until there is nothing to do. Then it sleeps until something
// changes or the plan's time to look again has come.
//
// A worker's observation is always newer than its last action, because the worker makes
// it itself and acts alone: a container cannot get two instances. A worker holds no
// state that a restart would lose: what was done is read from the runtime, and volumes
// and devices are requested again, which is idempotent.
//
// A Pod is synced until its object has a deletionTimestamp; then it terminates. Its
// containers are stopped within the grace period, everything else is removed, volumes
// after containers, and finally its object is removed. A Pod starts only after an
// earlier Pod of the same name is gone.
package worker

import (
	"context"
	"log/slog"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// Builder makes configurations, and the files on the host that they need.
type Builder interface {
	Sandbox(p *v1.Pod, attempt uint32) (*runtimeapi.PodSandboxConfig, error)
	Container(context.Context, *pod.Request) (*runtimeapi.ContainerConfig, error)
	// Update returns the resources to set on a running instance when they change.
	Update(*v1.Pod, *pod.Update) *runtimeapi.LinuxContainerResources
	// Clean removes what Container created, and RemoveDir the Pod's directory.
	Clean(*v1.Pod) error
	RemoveDir(types.UID) error
}

// Volumes mounts and unmounts a Pod's volumes. Both methods are idempotent, also after
// a crash. Mount returns a *pod.WaitError for what may still appear.
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
	// Sync starts and stops probes according to the Pod's running containers.
	Sync(*v1.Pod, *pod.Observation)
	// Results returns the results by container ID.
	Results(types.UID) map[string]pod.Probed
	Forget(types.UID)
}

// Admission reserves room on the node for Pods. All methods are idempotent and quick.
type Admission interface {
	// Admit reserves room for the Pod before its first start. It returns a
	// *pod.WaitError if terminating Pods still occupy the room, and a *pod.RejectError
	// if the Pod will not run here.
	Admit(*v1.Pod) error
	// Adopt reserves room for a Pod that an earlier process admitted.
	Adopt(*v1.Pod)
	// Ending records that an admitted Pod is to terminate.
	Ending(*v1.Pod)
	// Resize changes the room of an admitted Pod to what its spec asks for now. A
	// *pod.RejectError means that the node can never provide it. After any error the
	// Pod keeps the room that it has.
	Resize(*v1.Pod) error
	// Release frees the room of a Pod that has stopped.
	Release(types.UID)
}

// Cgroups creates and removes Pod cgroups, idempotently, also after a crash.
type Cgroups interface {
	// Apply creates the Pod's cgroup or updates it to the Pod's resources: before the
	// first container is created, and whenever the resources have changed.
	Apply(*v1.Pod) error
	Remove(types.UID) error
}

// Objects is the API to which workers report.
type Objects interface {
	// SetStatus records the changes of the Pod's status since was, the status that was
	// recorded last or found at the start. It returns fault.NotFound if the Pod's
	// object is gone.
	SetStatus(ctx context.Context, p *v1.Pod, was, now *v1.PodStatus) error
	// Remove removes the object of a terminated Pod. It must be idempotent.
	Remove(context.Context, *v1.Pod) error
}

// Config configures a Manager. A field is required unless its comment says what nil
// means.
type Config struct {
	Runtime   runtimeapi.RuntimeServiceClient
	Images    runtimeapi.ImageServiceClient
	Observe   func(context.Context, types.UID) (*pod.Observation, error)
	Status    func(*pod.View) v1.PodStatus
	Decide    func(*pod.View) pod.Plan // nil means pod.Decide; tests pass faulty ones to check themselves
	Objects   Objects
	Builder   Builder
	Volumes   Volumes
	Devices   Devices
	Probes    Probes
	Cgroups   Cgroups
	Admission Admission
	// NetworkReady returns the reason why the runtime cannot connect Pods, or nil. It
	// is called when a sandbox could not be created, to tell this cause from others.
	// Nil skips the check.
	NetworkReady func(context.Context) error
	// Handler returns the runtime handler that the Pod requests, "" for the default. It
	// is called before a sandbox is created, and returns a *pod.WaitError for what may
	// still appear and a *pod.RejectError for what the runtime cannot do. Nil means the
	// default handler.
	Handler func(context.Context, *v1.Pod) (string, error)
	// Credentials returns the credentials to pull an image with for the Pod, in the
	// order in which to try them; none leaves them to the runtime. It is called before
	// each pull. Its error names the Secrets of the Pod that cannot be used, without
	// their contents; the returned credentials are tried nevertheless. Nil means none.
	Credentials func(ctx context.Context, p *v1.Pod, image string) ([]*runtimeapi.AuthConfig, error)
	OnStep      func(pod.Step) // nil discards
	// Event is called for every Pod event for users, concurrently. It must be quick;
	// nil discards.
	Event  func(pod.Event)
	Logger *slog.Logger // nil discards
}
