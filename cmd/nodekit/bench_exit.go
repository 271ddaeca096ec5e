package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodekit-project/nodekit/cri/oci/keeper"
	"github.com/nodekit-project/nodekit/internal/bench"
	"github.com/nodekit-project/nodekit/internal/call"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/kubelet/node"
)

func newBenchExitCommand(f *benchFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "exit",
		Short: "Measure how fast a node reacts to the end of a container",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			b := &exitBench{flags: f}
			if b.dir, b.node, err = f.node(cmd.Context(), &call.Observer{Done: b.observe}); err != nil {
				return err
			}
			defer func() { err = errors.Join(err, b.node.Destroy(context.Background()), b.dir.remove()) }()
			return f.table(cmd, "from SIGKILL to a container's process until the kubelet's first call for its Pod, and until the API shows the end",
				bench.Side{Name: "first call", Run: b.call}, bench.Side{Name: "status", Run: b.status})
		},
	}
}

// exitBench is a node whose containers are killed from outside.
type exitBench struct {
	flags *benchFlags
	dir   *runDir
	node  *node.Node
	count int

	mu    sync.Mutex
	uid   string         // the Pod whose calls are awaited
	since time.Time      // earlier ones do not count
	first chan time.Time // receives the start of the first; holds one
}

func (b *exitBench) observe(_ context.Context, c call.Call) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.uid == "" || c.Pod.UID != b.uid || c.Start.Before(b.since) {
		return
	}
	b.uid = ""
	b.first <- c.Start
}

// call measures the time until the kubelet begins to look.
func (b *exitBench) call(ctx context.Context) (s bench.Sample, err error) {
	p, pid, err := b.run(ctx)
	if err != nil {
		return s, err
	}
	first := make(chan time.Time, 1)
	b.mu.Lock()
	b.uid, b.since, b.first = string(p.UID), time.Now(), first
	killed := b.since
	b.mu.Unlock()
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		return s, err
	}
	select {
	case at := <-first:
		s.Total = at.Sub(killed)
	case <-time.After(time.Minute):
		return s, fault.Unavailable.Errorf("the kubelet made no call for Pod %q within a minute of its container's death", p.Name)
	}
	return s, takeAway(ctx, b.node, nameOf(p))
}

// status measures the time until a client of the API sees the end.
func (b *exitBench) status(ctx context.Context) (s bench.Sample, err error) {
	p, pid, err := b.run(ctx)
	if err != nil {
		return s, err
	}
	ended := make(chan error, 1)
	go func() {
		_, err := b.node.Wait(ctx, nameOf(p), func(p *v1.Pod) bool { return p.Status.ContainerStatuses[0].State.Terminated != nil })
		ended <- err
	}()
	time.Sleep(settle) // by now it watches
	s, err = bench.Timed(func() error {
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			return err
		}
		return <-ended
	})
	return s, errors.Join(err, takeAway(ctx, b.node, nameOf(p)))
}

// run returns a running Pod that will not be restarted, and the process of its
// container.
func (b *exitBench) run(ctx context.Context) (*v1.Pod, int, error) {
	b.count++
	p := b.flags.pod(fmt.Sprintf("exit-%d", b.count))
	p.Spec.RestartPolicy = v1.RestartPolicyNever
	if err := b.node.Client().Create(ctx, p); err != nil {
		return nil, 0, err
	}
	p, err := b.node.Wait(ctx, nameOf(p), node.Ready)
	if err != nil {
		return nil, 0, err
	}
	time.Sleep(settle) // what belongs to the start is over
	list, err := keeper.NewClient(filepath.Join(b.dir.run(), "oci")).List(ctx)
	if err != nil {
		return nil, 0, err
	}
	for _, c := range list {
		if strings.HasSuffix(p.Status.ContainerStatuses[0].ContainerID, "://"+c.ID) && c.PID != 0 {
			return p, c.PID, nil
		}
	}
	return nil, 0, fault.NotFound.Errorf("the keeper has no running container of Pod %q", p.Name)
}

func nameOf(p *v1.Pod) types.NamespacedName {
	return types.NamespacedName{Namespace: p.Namespace, Name: p.Name}
}
