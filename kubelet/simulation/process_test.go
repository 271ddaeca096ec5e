package simulation_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/internal/call"
	"github.com/nodekit-project/nodekit/kubelet/observer"
	"github.com/nodekit-project/nodekit/kubelet/pod"
	"github.com/nodekit-project/nodekit/kubelet/probe"
	"github.com/nodekit-project/nodekit/kubelet/status"
	"github.com/nodekit-project/nodekit/kubelet/worker"
)

const nodeID = "node"

// process is one process of the kubelet: its real parts, wired as kubelet.Run
// wires them.
type process struct {
	life     *life
	ctx      context.Context
	cancel   context.CancelFunc
	killed   atomic.Bool
	manager  *worker.Manager
	observer *observer.Observer
	probes   *probe.Manager
	stray    chan struct{}
	group    sync.WaitGroup
}

// boot starts a process.
func (l *life) boot() *process {
	p := &process{life: l, stray: make(chan struct{}, 1)}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	c := client{process: p}
	wake := func(uid types.UID) {
		if !p.manager.Wake(uid) {
			select {
			case p.stray <- struct{}{}:
			default:
			}
		}
	}
	p.observer = observer.New(observer.Config{Runtime: c, NodeID: nodeID, Changed: wake})
	p.probes = probe.New(p.ctx, probe.Config{Exec: p.exec(c), Changed: wake})
	node := status.Node{IPs: []string{"10.0.0.2"}, Runtime: runtimeName}
	config := worker.Config{
		Runtime: c, Images: images{client: c}, Observe: p.observer.Observe,
		Status:  func(v *pod.View) v1.PodStatus { return status.Compute(v, node) },
		Objects: objects{p}, Builder: hosts{p}, Volumes: hosts{p}, Devices: hosts{p}, Probes: p.probes, Cgroups: cgroups{hosts{p}},
		Admission: admission{hosts{p}},
	}
	if l.mutate != nil {
		l.mutate(&config)
	}
	p.manager = worker.New(p.ctx, config)
	l.mu.Lock()
	l.process = p
	have := l.store.pod
	l.mu.Unlock()
	l.note("the process begins")
	if have != nil {
		p.manager.Update(have)
	}
	p.group.Go(p.endOrphans)
	p.group.Go(func() { p.observer.Run(p.ctx) })
	return p
}

const runtimeName = "simulated"

// exec runs a probe's command, as the kubelet does.
func (p *process) exec(c client) probe.Exec {
	return func(ctx context.Context, id string, command []string, timeout time.Duration) (int32, string, error) {
		resp, err := c.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: command, Timeout: int64(timeout / time.Second)})
		if errors.Is(err, context.DeadlineExceeded) {
			p.life.mu.Lock()
			defer p.life.mu.Unlock()
			if have := p.life.runtime.container(id); have != nil { // a timeout is a failure
				have.fails(command[0])
			}
		}
		return resp.GetExitCode(), "", err
	}
}

// endOrphans ends what belongs to no object: everything at the beginning, and
// sandboxes whenever the runtime tells of one. It follows kubelet.endOrphans and
// kubelet.endStrays.
func (p *process) endOrphans() {
	for first := true; ; first = false {
		known := types.UID("")
		if have := p.life.store.get(); have != nil {
			known = have.UID
		}
		found, err := p.observer.Found(p.ctx)
		for err != nil {
			if !wait(p.ctx, time.Second) {
				return
			}
			found, err = p.observer.Found(p.ctx)
		}
		p.end(known, found, first)
		select {
		case <-p.ctx.Done():
			return
		case <-p.stray:
		}
	}
}

func (p *process) end(known types.UID, found map[types.UID]call.Pod, onDisk bool) {
	for _, uid := range p.life.uids() {
		id, there := found[uid]
		if !there && onDisk && p.life.onDisk(uid) {
			id, there = call.Pod{Name: string(uid), UID: string(uid)}, true
		}
		if there && uid != known && !p.dead() {
			p.life.note("%s is an orphan", uid)
			p.manager.Orphan(id)
		}
	}
}

func (p *process) dead() bool { return p.killed.Load() }

// dies ends the process in the middle of a call, as kill -9 does, if the life has
// a death left.
func (p *process) dies(why string) bool {
	l := p.life
	l.mu.Lock()
	enough := l.deaths >= l.temper.deaths
	l.deaths++
	l.mu.Unlock()
	if enough {
		return false
	}
	p.kill(why)
	return true
}

// kill ends the process: from now on nothing that it does has an effect. It does
// not wait for its goroutines.
func (p *process) kill(why string) {
	l := p.life
	l.mu.Lock()
	defer l.mu.Unlock()
	if p.killed.Swap(true) {
		return
	}
	l.note("the process dies: %s", why)
	l.store.crash()
	l.rules.crashed()
	for uid := range l.rules.pods {
		delete(l.host.has, "room of "+string(uid))
	}
	if l.process == p {
		l.process = nil
	}
	p.cancel()
}

// wait returns when nothing of the dead process runs any more.
func (p *process) wait() {
	p.group.Wait()
	p.manager.Wait()
	p.probes.Wait()
}

// supervise keeps a process running until the life is over.
func (l *life) supervise() {
	for {
		p := l.boot()
		<-p.ctx.Done()
		p.wait()
		if l.over.Load() {
			return
		}
		most := 20 * time.Second
		if l.quiet.Load() {
			most = time.Second
		}
		time.Sleep(l.dice.spread("restart", 10*time.Millisecond, most))
		l.mu.Lock()
		up := l.rebooted.Add(reboots)
		l.mu.Unlock()
		time.Sleep(time.Until(up))
	}
}
