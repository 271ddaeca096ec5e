package worker_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/kubelet/pod"
	"github.com/nodekit-project/nodekit/kubelet/worker"
)

// world is everything around a worker, in memory, with a diary of what was
// asked of it. Each part of it may be made to fail.
type world struct {
	runtimeapi.RuntimeServiceClient // what a worker does not call is nil
	runtimeapi.ImageServiceClient

	manager *worker.Manager

	mu       sync.Mutex
	diary    []string
	pods     map[types.UID]*pod.Observation
	statuses []v1.PodStatus
	steps    []string
	events   []string
	adopted  []types.UID
	fail     map[string]error // by the first word of a diary entry
	n        int
	// stubborn containers end only when their grace is over.
	stubborn bool
	// deaf is a runtime that says it stopped a container and did not.
	deaf bool
	// recording is a runtime that records a failed start as an exit, as CRI wants.
	recording bool
	probed    map[types.UID]map[string]pod.Probed // verdicts by Pod and container, once it is synced
	synced    map[types.UID]bool
	refresh   time.Duration // of the volume
	onRelease func()        // what happens when devices are released
	// ring is what images may be pulled with, and lacking what is wrong with the rest.
	ring    []*runtimeapi.AuthConfig
	lacking error
	onPull  func() // what happens during a pull
}

func (w *world) note(format string, args ...any) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	line := fmt.Sprintf(format, args...)
	w.diary = append(w.diary, line)
	word, _, _ := strings.Cut(line, " ")
	return w.fail[word]
}

func (w *world) did() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	did := w.diary
	w.diary = nil
	return did
}

func (w *world) failing(what string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fail[what] = err
}

func (w *world) seen(uid types.UID) *pod.Observation {
	if w.pods[uid] == nil {
		w.pods[uid] = &pod.Observation{}
	}
	return w.pods[uid]
}

func (w *world) observe(_ context.Context, uid types.UID) (*pod.Observation, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	have := w.seen(uid)
	copied := &pod.Observation{Sandboxes: slices.Clone(have.Sandboxes), Containers: slices.Clone(have.Containers)}
	copied.Sort()
	return copied, w.fail["observe"]
}

func (w *world) RunPodSandbox(_ context.Context, r *runtimeapi.RunPodSandboxRequest, _ ...grpc.CallOption) (*runtimeapi.RunPodSandboxResponse, error) {
	if err := w.note("%s", strings.TrimSpace("sandbox "+r.RuntimeHandler)); err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.n++
	id := fmt.Sprintf("s%d", w.n)
	seen := w.seen(types.UID(r.Config.Metadata.Uid))
	seen.Sandboxes = append(seen.Sandboxes, pod.Sandbox{ID: id, Ready: true, Attempt: r.Config.Metadata.Attempt, IPs: []string{"127.0.0.1"}, CreatedAt: time.Now()})
	return &runtimeapi.RunPodSandboxResponse{PodSandboxId: id}, nil
}

func (w *world) StopPodSandbox(_ context.Context, r *runtimeapi.StopPodSandboxRequest, _ ...grpc.CallOption) (*runtimeapi.StopPodSandboxResponse, error) {
	err := w.note("stopsandbox")
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, o := range w.pods {
		for i := range o.Sandboxes {
			if o.Sandboxes[i].ID == r.PodSandboxId {
				o.Sandboxes[i].Ready = false
			}
		}
	}
	return &runtimeapi.StopPodSandboxResponse{}, err
}

func (w *world) RemovePodSandbox(_ context.Context, r *runtimeapi.RemovePodSandboxRequest, _ ...grpc.CallOption) (*runtimeapi.RemovePodSandboxResponse, error) {
	if err := w.note("removesandbox"); err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, o := range w.pods {
		o.Sandboxes = slices.DeleteFunc(o.Sandboxes, func(s pod.Sandbox) bool { return s.ID == r.PodSandboxId })
		o.Containers = slices.DeleteFunc(o.Containers, func(c pod.Container) bool { return c.SandboxID == r.PodSandboxId })
	}
	return &runtimeapi.RemovePodSandboxResponse{}, nil
}

func (w *world) CreateContainer(_ context.Context, r *runtimeapi.CreateContainerRequest, _ ...grpc.CallOption) (*runtimeapi.CreateContainerResponse, error) {
	name := r.Config.Metadata.Name
	if target := r.Config.GetLinux().GetSecurityContext().GetNamespaceOptions().GetTargetId(); target != "" {
		name += " of " + target
	}
	if err := w.note("create %s", name); err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.n++
	c := pod.Container{
		ID: fmt.Sprintf("c%d", w.n), Name: r.Config.Metadata.Name, SandboxID: r.PodSandboxId, Attempt: r.Config.Metadata.Attempt,
		Resources: &v1.ResourceRequirements{}, State: pod.Created, Hash: r.Config.Annotations[pod.AnnotationHash], CreatedAt: time.Now(),
	}
	if err := json.Unmarshal([]byte(r.Config.Annotations[pod.AnnotationResources]), c.Resources); err != nil {
		return nil, err
	}
	c.Delay, _ = time.ParseDuration(r.Config.Annotations[pod.AnnotationDelay])
	for _, o := range w.pods {
		if s := o.Sandbox(); s != nil && s.ID == r.PodSandboxId {
			o.Containers = append(o.Containers, c)
		}
	}
	return &runtimeapi.CreateContainerResponse{ContainerId: c.ID}, nil
}

// change changes a container in place and wakes its worker.
func (w *world) change(id string, do func(*pod.Container)) {
	w.mu.Lock()
	var owner types.UID
	for uid, o := range w.pods {
		for i := range o.Containers {
			if o.Containers[i].ID == id {
				do(&o.Containers[i])
				owner = uid
			}
		}
	}
	w.mu.Unlock()
	w.manager.Wake(owner)
}

func (w *world) StartContainer(_ context.Context, r *runtimeapi.StartContainerRequest, _ ...grpc.CallOption) (*runtimeapi.StartContainerResponse, error) {
	if err := w.note("start"); err != nil {
		if w.recording {
			w.change(r.ContainerId, func(c *pod.Container) {
				c.State, c.ExitCode, c.Reason, c.FinishedAt = pod.Exited, 128, "StartError", time.Now()
			})
		}
		return nil, err
	}
	w.change(r.ContainerId, func(c *pod.Container) { c.State, c.StartedAt = pod.Running, time.Now() })
	return &runtimeapi.StartContainerResponse{}, nil
}

func (w *world) StopContainer(ctx context.Context, r *runtimeapi.StopContainerRequest, _ ...grpc.CallOption) (*runtimeapi.StopContainerResponse, error) {
	err := w.note("stop %d", r.Timeout)
	if err != nil {
		return nil, err
	}
	if w.stubborn {
		select {
		case <-time.After(time.Duration(r.Timeout) * time.Second):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	w.mu.Lock()
	deaf := w.deaf
	w.mu.Unlock()
	if !deaf {
		w.exit(r.ContainerId, 143)
	}
	return &runtimeapi.StopContainerResponse{}, nil
}

func (w *world) exit(id string, code int32) {
	w.change(id, func(c *pod.Container) {
		if c.State != pod.Exited {
			c.State, c.ExitCode, c.FinishedAt = pod.Exited, code, time.Now()
		}
	})
}

func (w *world) RemoveContainer(_ context.Context, r *runtimeapi.RemoveContainerRequest, _ ...grpc.CallOption) (*runtimeapi.RemoveContainerResponse, error) {
	err := w.note("remove")
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, o := range w.pods {
		o.Containers = slices.DeleteFunc(o.Containers, func(c pod.Container) bool { return c.ID == r.ContainerId })
	}
	return &runtimeapi.RemoveContainerResponse{}, err
}

// ExecSync knows one program: "sleep", which only ctx ends.
func (w *world) ExecSync(ctx context.Context, r *runtimeapi.ExecSyncRequest, _ ...grpc.CallOption) (*runtimeapi.ExecSyncResponse, error) {
	err := w.note("exec %s", strings.Join(r.Cmd, " "))
	if r.Cmd[0] == "sleep" {
		<-ctx.Done()
		err = ctx.Err()
	}
	return &runtimeapi.ExecSyncResponse{}, err
}

func (w *world) ImageStatus(_ context.Context, r *runtimeapi.ImageStatusRequest, _ ...grpc.CallOption) (*runtimeapi.ImageStatusResponse, error) {
	if strings.HasPrefix(r.Image.Image, "absent") {
		return &runtimeapi.ImageStatusResponse{}, nil
	}
	return &runtimeapi.ImageStatusResponse{Image: &runtimeapi.Image{Id: r.Image.Image}}, nil
}

func (w *world) PullImage(_ context.Context, r *runtimeapi.PullImageRequest, _ ...grpc.CallOption) (*runtimeapi.PullImageResponse, error) {
	as, who := "", " as nobody"
	if r.Auth != nil {
		as = " as " + r.Auth.Username
		who = as
	}
	err := w.note("pull %s%s", r.Image.Image, as)
	if w.onPull != nil {
		w.onPull()
	}
	if err == nil {
		err = w.quietly("pull" + who)
	}
	return &runtimeapi.PullImageResponse{ImageRef: "pulled"}, err
}

func (w *world) credentials(_ context.Context, p *v1.Pod, _ string) ([]*runtimeapi.AuthConfig, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(p.Spec.ImagePullSecrets) == 0 {
		return nil, nil
	}
	return w.ring, w.lacking
}

func (w *world) Sandbox(p *v1.Pod, attempt uint32) (*runtimeapi.PodSandboxConfig, error) {
	return &runtimeapi.PodSandboxConfig{Metadata: &runtimeapi.PodSandboxMetadata{Uid: string(p.UID), Attempt: attempt}}, nil
}

func (w *world) Container(_ context.Context, r *pod.Request) (*runtimeapi.ContainerConfig, error) {
	resources, err := json.Marshal(r.Container.Resources)
	if err != nil {
		return nil, err
	}
	return &runtimeapi.ContainerConfig{
		Metadata:    &runtimeapi.ContainerMetadata{Name: r.Container.Name, Attempt: r.Start.Attempt},
		Annotations: map[string]string{pod.AnnotationHash: pod.Hash(r.Container), pod.AnnotationDelay: r.Start.Delay.String(), pod.AnnotationResources: string(resources)},
		Linux: &runtimeapi.LinuxContainerConfig{SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
			NamespaceOptions: &runtimeapi.NamespaceOption{TargetId: r.Target},
		}},
	}, nil
}
func (w *world) Clean(*v1.Pod) error       { return w.note("clean") }
func (w *world) RemoveDir(types.UID) error { return w.note("rmdir") }

func (w *world) Mount(context.Context, *v1.Pod) (pod.Volumes, error) {
	return pod.Volumes{"v": {Refresh: w.refresh}}, w.note("mount")
}
func (w *world) Unmount(context.Context, types.UID) error { return w.note("unmount") }

func (w *world) Allocate(context.Context, *v1.Pod) (map[string]pod.Devices, error) {
	return nil, w.note("allocate")
}
func (w *world) PreStart(context.Context, *v1.Pod, string) error { return nil }

func (w *world) Release(context.Context, types.UID) error {
	if w.onRelease != nil {
		w.onRelease()
	}
	return w.note("release")
}
func (w *world) Forget(types.UID) {}

func (w *world) Sync(p *v1.Pod, _ *pod.Observation) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.synced[p.UID] = true
}

func (w *world) Results(uid types.UID) map[string]pod.Probed {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.synced[uid] {
		return nil
	}
	return w.probed[uid]
}

func (w *world) Apply(*v1.Pod) error { return w.note("cgroup") }

func (w *world) Update(_ *v1.Pod, u *pod.Update) *runtimeapi.LinuxContainerResources {
	return &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: u.To.Limits.Memory().Value()}
}

func (w *world) UpdateContainerResources(_ context.Context, r *runtimeapi.UpdateContainerResourcesRequest, _ ...grpc.CallOption) (*runtimeapi.UpdateContainerResourcesResponse, error) {
	return &runtimeapi.UpdateContainerResourcesResponse{}, w.note("update %s %d", r.ContainerId, r.Linux.MemoryLimitInBytes)
}

func (w *world) ContainerStats(context.Context, *runtimeapi.ContainerStatsRequest, ...grpc.CallOption) (*runtimeapi.ContainerStatsResponse, error) {
	return &runtimeapi.ContainerStatsResponse{Stats: &runtimeapi.ContainerStats{Memory: &runtimeapi.MemoryUsage{
		WorkingSetBytes: &runtimeapi.UInt64Value{Value: 10 << 20},
	}}}, nil
}

func (w *world) SetStatus(_ context.Context, _ *v1.Pod, _, now *v1.PodStatus) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.statuses = append(w.statuses, *now)
	return w.fail["status"]
}

// desk is an admission that answers what failing("admit") and ("resize") say,
// until a Pod gives back its room.
type desk struct{ *world }

func (d desk) Admit(p *v1.Pod) error { return d.quietly("admit") }
func (d desk) Adopt(p *v1.Pod)       { d.adopted = append(d.adopted, p.UID) }
func (d desk) Ending(*v1.Pod)        {}
func (d desk) Resize(*v1.Pod) error  { return d.quietly("resize") }
func (d desk) Release(types.UID) {
	d.failing("admit", nil)
	d.failing("resize", nil)
}

// quietly is note without the diary.
func (w *world) quietly(what string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.fail[what]
}

// objects and cgroups have a Remove each.
type objects struct{ *world }

func (o objects) Remove(context.Context, *v1.Pod) error { return o.note("gone") }

type cgroups struct{ *world }

func (c cgroups) Remove(types.UID) error { return c.note("rmcgroup") }

// inWorld runs a test in a bubble of virtual time.
func inWorld(t *testing.T, test func(w *world)) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		w := &world{pods: map[types.UID]*pod.Observation{}, fail: map[string]error{}, synced: map[types.UID]bool{}}
		w.manager = worker.New(ctx, worker.Config{
			Runtime: w, Images: w, Observe: w.observe, Objects: objects{w}, Builder: w, Volumes: w, Devices: w,
			Probes: w, Cgroups: cgroups{w}, Admission: desk{w},
			Status: func(v *pod.View) v1.PodStatus {
				s := v1.PodStatus{Phase: pod.Phase(v), ContainerStatuses: containersOf(v)}
				if v.Pending != nil {
					s.Conditions = []v1.PodCondition{{Type: v1.PodResizePending, Status: v1.ConditionTrue, Reason: v.Pending.Reason, Message: v.Pending.Message}}
				}
				for _, b := range v.Blocks {
					s.Message = b.Reason
				}
				if v.Wait != nil {
					s.Message = v.Wait.Error()
				}
				for _, probed := range v.Probes {
					s.Message = fmt.Sprintf("readiness %d", probed.Readiness)
				}
				if v.Failed != nil {
					s.Reason = v.Failed.Reason
				}
				return s
			},
			NetworkReady: func(context.Context) error { return w.note("network?") },
			Handler: func(_ context.Context, p *v1.Pod) (string, error) {
				if p.Spec.RuntimeClassName == nil {
					return "", nil
				}
				return *p.Spec.RuntimeClassName, w.quietly("handler")
			},
			Credentials: w.credentials,
			Event: func(e pod.Event) {
				w.mu.Lock()
				defer w.mu.Unlock()
				w.events = append(w.events, strings.TrimSpace(e.Type+" "+e.Reason+" "+e.Field)+": "+e.Message)
			},
			OnStep: func(s pod.Step) {
				w.mu.Lock()
				defer w.mu.Unlock()
				w.steps = append(w.steps, strings.TrimSpace(s.What+" "+s.Name))
			},
		})
		test(w)
		cancel()
		w.manager.Wait()
	})
}

// containersOf has what is allocated to containers, and which wait to be
// restarted.
func containersOf(v *pod.View) []v1.ContainerStatus {
	var list []v1.ContainerStatus
	for i := range v.Pod.Spec.Containers {
		c := &v.Pod.Spec.Containers[i]
		s := v1.ContainerStatus{Name: c.Name, Resources: c.Resources.DeepCopy(), AllocatedResources: c.Resources.Requests}
		last := v.Seen.Latest(c.Name)
		if v.Ending == nil && last != nil && last.State == pod.Exited && pod.Restarts(v.Pod, c, last.ExitCode) && pod.RestartAt(last).After(v.Now) {
			s.ContainerID = last.ID
			s.State.Waiting = &v1.ContainerStateWaiting{Reason: "CrashLoopBackOff", Message: "back-off " + last.Delay.String() + " restarting container " + c.Name}
		}
		list = append(list, s)
	}
	return list
}

func (w *world) last() v1.PodStatus {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.statuses) == 0 {
		return v1.PodStatus{}
	}
	return w.statuses[len(w.statuses)-1]
}

func somePod(uid types.UID, change ...func(*v1.PodSpec)) *v1.Pod {
	grace := int64(30)
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p", UID: uid}, Spec: v1.PodSpec{
		RestartPolicy:                 v1.RestartPolicyAlways,
		TerminationGracePeriodSeconds: &grace, Containers: []v1.Container{{Name: "a", Image: "image:1"}},
	}}
	for _, c := range change {
		c(&p.Spec)
	}
	return p
}

func ending(p *v1.Pod, seconds int64) *v1.Pod {
	p = p.DeepCopy()
	p.DeletionTimestamp = &metav1.Time{Time: time.Now().Add(time.Duration(seconds) * time.Second)}
	p.DeletionGracePeriodSeconds = &seconds
	return p
}

var errDown = fault.Unavailable.Errorf("it is down")
