package kubelet

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"

	"golang.org/x/sync/errgroup"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodekit-project/nodekit/internal/cgroup"
	"github.com/nodekit-project/nodekit/internal/registration"
	"github.com/nodekit-project/nodekit/kubelet/admission"
	"github.com/nodekit-project/nodekit/kubelet/criconfig"
	"github.com/nodekit-project/nodekit/kubelet/manifest"
	"github.com/nodekit-project/nodekit/kubelet/observer"
	"github.com/nodekit-project/nodekit/kubelet/pod"
	"github.com/nodekit-project/nodekit/kubelet/probe"
	"github.com/nodekit-project/nodekit/kubelet/qos"
	"github.com/nodekit-project/nodekit/kubelet/server"
	"github.com/nodekit-project/nodekit/kubelet/status"
	"github.com/nodekit-project/nodekit/kubelet/worker"
)

// Run runs Pods until ctx ends, and then returns nil; the Pods keep running. It returns
// the first error of a part that cannot continue. The runtime and the plugins may
// become unavailable and come back at any time.
func (k *Kubelet) Run(ctx context.Context) error {
	defer close(k.over)
	group, ctx := errgroup.WithContext(ctx)
	synced := make(chan struct{})
	again := func() {}
	if k.config.ManifestDir == "" {
		close(synced)
	} else {
		dir, err := manifest.NewDirectory(k.config.ManifestDir, files{objects{k.client}}, &manifest.Options{Report: k.config.OnManifest, Logger: k.config.Logger})
		if err != nil {
			return err
		}
		again = dir.Again
		group.Go(func() error {
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			defer context.AfterFunc(k.sources, cancel)()
			done := sync.OnceFunc(func() { close(synced) })
			defer done() // Drain may have come first: existing Pods still have to be terminated
			return dir.Run(ctx, done)
		})
	}
	group.Go(func() error {
		return registration.Watch(ctx, k.registry(), map[string]registration.Handler{
			registration.CSIPlugin: k.volumes.Handler(), registration.DevicePlugin: k.devices.Handler(),
		}, &registration.Options{Logger: k.config.Logger})
	})
	group.Go(func() error { return k.devices.Run(ctx) })
	group.Go(func() error {
		return server.Serve(ctx, server.Config{
			Socket: filepath.Join(k.config.RunDir, "nodekit.sock"), NodeName: k.config.NodeName, NodeID: k.config.ID, Pods: k.pods.list, Pod: k.pod,
			Healthy: k.healthy, LogDir: k.logDir(), Ended: k.ended, Runtime: k.cri.Runtime, Sandbox: k.sandbox, Logger: k.config.Logger,
		})
	})
	group.Go(func() error { return k.runPods(ctx, synced, again) })
	return group.Wait()
}

// runPods runs the workers. It starts when every source has been read and the runtime
// answers: a Pod whose file is gone must not be started first, and nothing may be
// treated as an orphan before all Pods are known. Pods wait until the runtime reports
// ready; until then the Node object says that it is not.
func (k *Kubelet) runPods(ctx context.Context, synced <-chan struct{}, again func()) error {
	select {
	case <-synced:
	case <-ctx.Done():
		return nil
	}
	runtime, err := k.meet(ctx)
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return fmt.Errorf("connecting to the runtime: %w", err)
	}
	admitted, err := k.listPods(ctx)
	if err != nil {
		return nil // it ended before the API answered
	}
	p := k.wire(ctx, runtime, admitted)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		if err := k.awaitReady(ctx); err != nil {
			return nil // it ended before the runtime was
		}
		return k.followPods(ctx, p, again)
	})
	group.Go(func() error { return p.observer.Run(ctx) })
	group.Go(func() error { return k.retry(ctx, p.workers) })
	group.Go(func() error { return k.register(ctx, runtime.version) })
	err = group.Wait()
	p.workers.Wait()
	p.probes.Wait()
	return err
}

// parts are the components that live as long as one call of Run.
type parts struct {
	workers  *worker.Manager
	observer *observer.Observer
	probes   *probe.Manager
	cgroups  *qos.Tree
	stray    chan struct{} // holds a token when the runtime reported a Pod that has no worker
}

// wire creates the components that need the runtime, and connects them. Pods that were
// admitted before have their room.
func (k *Kubelet) wire(ctx context.Context, runtime facts, pods []*v1.Pod) *parts {
	p := &parts{stray: make(chan struct{}, 1)}
	p.cgroups = qos.New(qos.Config{
		Parent: k.config.CgroupParent, Systemd: runtime.systemd, PIDs: k.config.PodPIDs, Pods: k.pods.list,
	})
	log := k.config.Logger
	tell := k.recorder(ctx)
	wake := func(uid types.UID) {
		if !p.workers.Wake(uid) {
			select {
			case p.stray <- struct{}{}:
			default:
			}
		}
	}
	ips := nodeIPs()
	builder := criconfig.New(criconfig.Node{
		Name: k.config.NodeName, ID: k.config.ID, IPs: ips, PodsDir: k.podsDir(), LogDir: k.logDir(),
		SeccompDir: filepath.Join(k.config.Root, "seccomp"), ResolvConf: "/etc/resolv.conf", PodCgroup: p.cgroups.PodPath,
		GroupOOMKill: cgroup.Version() == 2 && !k.config.SingleProcessOOMKill,
		CPUs:         cpus(), Memory: memory(),
	}, objects{k.client})
	p.observer = observer.New(observer.Config{Runtime: k.cri.Runtime, NodeID: k.config.ID, Changed: wake, Logger: log})
	p.probes = probe.New(ctx, probe.Config{Exec: k.exec, Changed: wake, Event: tell, Logger: log})
	node := status.Node{IPs: ips, Runtime: runtime.version.RuntimeName}
	p.workers = worker.New(ctx, worker.Config{
		Runtime: k.cri.Runtime, Images: k.cri.Images, Observe: p.observer.Observe,
		Status:  func(v *pod.View) v1.PodStatus { return status.Compute(v, node) },
		Objects: objects{k.client}, Builder: builder, Volumes: k.volumes, Devices: k.devices, Probes: p.probes,
		Cgroups: p.cgroups, Admission: admission.New(k.admits(ctx), pods),
		NetworkReady: k.networkReady, Handler: k.handler, Credentials: k.credentials, OnStep: k.config.OnStep, Event: tell, Logger: log,
	})
	k.workers.Store(p.workers)
	close(k.ready)
	return p
}
