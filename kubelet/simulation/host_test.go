package simulation_test

import (
	"context"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// host is what Pods have on the node beside the runtime: volumes, devices,
// cgroups and files. life.mu guards it.
type host struct {
	life *life
	// has is what is there, as "volumes of <uid>". A reboot keeps the devices'
	// records and the files, the death of a process everything but the Pod's room.
	has map[string]bool
}

// hosts is the host as one process sees it.
type hosts struct{ *process }

// local makes a call to the host.
func (h hosts) local(ctx context.Context, what string, uid types.UID, effect func() error) error {
	return h.call(ctx, request{
		what: what, about: string(uid), most: h.life.slow(what, 10*time.Millisecond, time.Second), local: true,
		effect: func(bool) error { return effect() },
	})
}

func (h hosts) set(what string, uid types.UID, there bool) error {
	if there {
		h.life.host.has[what+" of "+string(uid)] = true
	} else {
		delete(h.life.host.has, what+" of "+string(uid))
	}
	return nil
}

func (h hosts) Mount(ctx context.Context, p *v1.Pod) (pod.Volumes, error) {
	l := h.life
	return pod.Volumes{"v": {HostPath: "/v"}}, h.local(ctx, "mount volumes", p.UID, func() error {
		if !l.quiet.Load() && l.dice.chance("volume comes", l.temper.waits) {
			return &pod.WaitError{Reason: "FailedMount", For: "its driver"}
		}
		return h.set("volumes", p.UID, true)
	})
}

func (h hosts) Unmount(ctx context.Context, uid types.UID) error {
	return h.local(ctx, "unmount volumes", uid, func() error {
		h.life.rules.takes("volumes", uid)
		return h.set("volumes", uid, false)
	})
}

func (h hosts) Allocate(ctx context.Context, p *v1.Pod) (map[string]pod.Devices, error) {
	return nil, h.local(ctx, "allocate devices", p.UID, func() error {
		if h.life.rejected {
			return &pod.RejectError{Reason: "UnexpectedAdmissionError", Message: "there will never be enough devices"}
		}
		return h.set("devices", p.UID, true)
	})
}

func (h hosts) PreStart(context.Context, *v1.Pod, string) error { return nil }

func (h hosts) Release(ctx context.Context, uid types.UID) error {
	return h.local(ctx, "release devices", uid, func() error {
		h.life.rules.takes("devices", uid)
		return h.set("devices", uid, false)
	})
}

// Sandbox returns what the kubelet's own builder does of what matters here.
func (h hosts) Sandbox(p *v1.Pod, attempt uint32) (*runtimeapi.PodSandboxConfig, error) {
	return &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: p.Name, Namespace: p.Namespace, Uid: string(p.UID), Attempt: attempt}, Labels: labels(p, ""),
	}, nil
}

func labels(p *v1.Pod, container string) map[string]string {
	all := map[string]string{
		pod.LabelPodName: p.Name, pod.LabelPodNamespace: p.Namespace, pod.LabelPodUID: string(p.UID), pod.LabelNode: nodeID,
	}
	if container != "" {
		all[pod.LabelContainerName] = container
	}
	return all
}

func (h hosts) Container(ctx context.Context, r *pod.Request) (*runtimeapi.ContainerConfig, error) {
	err := h.local(ctx, "make files", r.Pod.UID, func() error { return h.set("files", r.Pod.UID, true) })
	if err != nil {
		return nil, &pod.StartError{Reason: "CreateContainerConfigError", Err: err}
	}
	return &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: r.Container.Name, Attempt: r.Start.Attempt},
		Image:    &runtimeapi.ImageSpec{Image: r.ImageID, UserSpecifiedImage: r.Container.Image}, Labels: labels(r.Pod, r.Container.Name),
		Annotations: map[string]string{pod.AnnotationHash: pod.Hash(r.Container), pod.AnnotationDelay: r.Start.Delay.String()},
	}, nil
}

// Update is of no use here: no resources change.
func (h hosts) Update(*v1.Pod, *pod.Update) *runtimeapi.LinuxContainerResources { return nil }

func (h hosts) Clean(*v1.Pod) error { return nil }

func (h hosts) RemoveDir(uid types.UID) error {
	return h.local(h.ctx, "remove files", uid, func() error { return h.set("files", uid, false) })
}

// cgroups are the host's cgroups as one process sees them.
type cgroups struct{ hosts }

func (c cgroups) Apply(p *v1.Pod) error {
	return c.local(c.ctx, "make cgroup", p.UID, func() error { return c.set("cgroup", p.UID, true) })
}

func (c cgroups) Remove(uid types.UID) error {
	return c.local(c.ctx, "remove cgroup", uid, func() error {
		c.life.rules.takes("cgroup", uid)
		if c.life.runs(uid) {
			return fault.FailedPrecondition.Errorf("the cgroup has processes")
		}
		return c.set("cgroup", uid, false)
	})
}

// admission is the room on the node, which one process keeps.
type admission struct{ hosts }

// room changes what the Pod has, unless the process is dead.
func (a admission) room(uid types.UID, there bool) {
	a.life.mu.Lock()
	defer a.life.mu.Unlock()
	if !a.dead() {
		_ = a.set("room", uid, there) // there is always place in a map
	}
}

func (a admission) Admit(p *v1.Pod) error {
	l := a.life
	if !l.quiet.Load() && l.dice.chance("room comes", l.temper.waits) {
		return &pod.WaitError{Reason: "OutOfcpu", For: "room on the node"}
	}
	a.room(p.UID, true)
	return nil
}

func (a admission) Adopt(p *v1.Pod) { a.room(p.UID, true) }

func (a admission) Ending(*v1.Pod) {}

func (a admission) Resize(*v1.Pod) error { return nil }

func (a admission) Release(uid types.UID) {
	a.life.mu.Lock()
	a.life.rules.takes("room", uid)
	a.life.mu.Unlock()
	a.room(uid, false)
}
