package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/spf13/cobra"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodekit-project/nodekit/internal/bench"
	"github.com/nodekit-project/nodekit/internal/call"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/kubelet/client"
	"github.com/nodekit-project/nodekit/kubelet/node"
)

func newBenchStartCommand(f *benchFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "start",
		Short: "Measure how long a node takes to start",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.table(cmd, "node start until Pods can run, with the Kubernetes API up: at a new root, and again at the same",
				bench.Side{Name: "new root", Run: func(ctx context.Context) (bench.Sample, error) { return f.start(ctx, false) }},
				bench.Side{Name: "again", Run: func(ctx context.Context) (bench.Sample, error) { return f.start(ctx, true) }})
		},
	}
}

// table runs the sides and prints their times.
func (f *benchFlags) table(cmd *cobra.Command, title string, sides ...bench.Side) error {
	opts := &bench.Options{Rounds: f.rounds}
	if f.progress {
		opts.Progress = cmd.ErrOrStderr()
	}
	table, err := bench.Run(cmd.Context(), sides, opts)
	if err != nil {
		return err
	}
	fmt.Fprintln(cmd.OutOrStdout(), title)
	return table.Write(cmd.OutOrStdout())
}

// config returns the configuration of a node under measurement: what comes with
// nodekit, without the parts that a Pod of the benchmark does not use.
func (f *benchFlags) config(dir *runDir) node.Config {
	return node.Config{
		Root: dir.root(), Run: dir.run(), Without: node.Parts{GPU: true, Hostpath: true},
		Images: builtinImages(), Logger: f.logger(slog.LevelError),
	}
}

// node starts a node that is measured while it runs.
func (f *benchFlags) node(ctx context.Context, observe *call.Observer) (*runDir, *node.Node, error) {
	dir, err := makeRunDir()
	if err != nil {
		return nil, nil, err
	}
	cfg := f.config(dir)
	cfg.Observe = observe
	n, err := node.Start(ctx, cfg)
	if err != nil {
		return nil, nil, errors.Join(err, dir.remove())
	}
	return dir, n, nil
}

// pod returns benchPod as an object.
func (f *benchFlags) pod(name string) *v1.Pod {
	return &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: v1.NamespaceDefault},
		Spec: v1.PodSpec{
			TerminationGracePeriodSeconds: new(int64(1)),
			Containers:                    []v1.Container{{Name: "main", Image: f.image, ImagePullPolicy: v1.PullNever, Args: []string{"trap", "0"}}},
		},
	}
}

// start measures one start, of a new node or of one that existed before.
func (f *benchFlags) start(ctx context.Context, again bool) (s bench.Sample, err error) {
	dir, err := makeRunDir()
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, dir.remove()) }()
	if again {
		n, err := node.Start(ctx, f.config(dir))
		if err != nil {
			return s, err
		}
		if err := n.Stop(); err != nil {
			return s, err
		}
	}
	var n *node.Node
	s, err = bench.Timed(func() error {
		n, err = node.Start(ctx, f.config(dir))
		return err
	})
	if err != nil {
		return s, err
	}
	return s, n.Destroy(ctx)
}

func newBenchApplyCommand(f *benchFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "apply",
		Short: "Measure the time from kubectl apply, or an API request, to a running container",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			b, err := newApplyBench(cmd.Context(), f)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, b.node.Destroy(context.Background()), b.dir.remove()) }()
			return f.table(cmd, "until the API shows the container running: from the start of a kubectl process, and from one POST; and what a kubectl takes that asks no server",
				bench.Side{Name: "kubectl apply", Run: b.kubectl}, bench.Side{Name: "POST", Run: b.post}, bench.Side{Name: "kubectl alone", Run: b.alone})
		},
	}
}

// applyBench is a node to which Pods are applied.
type applyBench struct {
	node    *node.Node
	dir     *runDir
	flags   *benchFlags
	program string
	count   int
}

func newApplyBench(ctx context.Context, f *benchFlags) (*applyBench, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	b := &applyBench{flags: f, program: filepath.Join(filepath.Dir(self), "kubectl")}
	b.dir, b.node, err = f.node(ctx, nil)
	return b, err
}

func (b *applyBench) next() string {
	b.count++
	return fmt.Sprintf("apply-%d", b.count)
}

func (b *applyBench) kubectl(ctx context.Context) (bench.Sample, error) {
	name := b.next()
	file := filepath.Join(b.dir.path, name+".yaml")
	if err := os.WriteFile(file, fmt.Appendf(nil, benchPod, name, b.flags.image), 0o600); err != nil {
		return bench.Sample{}, err
	}
	return b.measure(ctx, name, func() error {
		cmd := exec.CommandContext(ctx, b.program, "apply", "-f", file) //nolint:gosec // the kubectl beside this program
		cmd.Env = append(os.Environ(), "KUBECONFIG="+node.Kubeconfig(b.dir.run()), "HOME="+b.dir.path)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("kubectl apply: %w: %s", err, out)
		}
		return nil
	})
}

// alone measures the part of kubectl apply that no server can change.
func (b *applyBench) alone(ctx context.Context) (bench.Sample, error) {
	return bench.Timed(func() error {
		return exec.CommandContext(ctx, b.program, "version", "--client").Run() //nolint:gosec // the kubectl beside this program
	})
}

func (b *applyBench) post(ctx context.Context) (bench.Sample, error) {
	name := b.next()
	return b.measure(ctx, name, func() error { return b.node.Client().Create(ctx, b.flags.pod(name)) })
}

// measure times from the start of apply until the container is first seen running, and
// removes the Pod.
func (b *applyBench) measure(ctx context.Context, name string, apply func() error) (bench.Sample, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	key := types.NamespacedName{Namespace: v1.NamespaceDefault, Name: name}
	applied := make(chan error, 1)
	s, err := bench.Timed(func() error {
		go func() { applied <- apply() }()
		_, err := b.node.Wait(ctx, key, func(p *v1.Pod) bool {
			return len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].State.Running != nil
		})
		return err
	})
	if err := errors.Join(err, <-applied); err != nil {
		return s, err
	}
	time.Sleep(settle)
	return s, takeAway(ctx, b.node, key)
}

// takeAway deletes a Pod and waits until it is gone.
func takeAway(ctx context.Context, n *node.Node, key types.NamespacedName) error {
	gone := make(chan error, 1)
	go func() {
		_, err := n.Wait(ctx, key, func(*v1.Pod) bool { return false })
		gone <- err
	}()
	time.Sleep(settle) // it watches now
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}}
	if err := n.Client().Delete(ctx, p, nil); err != nil {
		return err
	}
	if err := <-gone; !errors.Is(err, fault.NotFound) {
		return err
	}
	return nil
}

func newBenchRestartCommand(f *benchFlags) *cobra.Command {
	pods := 100
	cmd := &cobra.Command{
		Use:   "restart",
		Short: "Measure the restart of a node with running Pods",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			b := &restartBench{flags: f, pods: pods, looked: map[string]bool{}, all: make(chan struct{})}
			if err := b.fill(cmd.Context()); err != nil {
				return errors.Join(err, b.end())
			}
			defer func() { err = errors.Join(err, b.end()) }()
			return f.table(cmd, fmt.Sprintf("node start under %d running Pods, until every one of them was looked at and its status is right", pods),
				bench.Side{Name: "restart", Run: b.run})
		},
	}
	cmd.Flags().IntVar(&pods, "pods", pods, "`number` of running Pods")
	return cmd
}

// restartBench is a node with Pods that is restarted repeatedly.
type restartBench struct {
	flags *benchFlags
	pods  int
	dir   *runDir
	node  *node.Node
	ids   map[string]string // container ids by Pod

	mu     sync.Mutex
	looked map[string]bool // Pods whose container the new process has asked for
	all    chan struct{}   // closed when that is all of them
}

func (b *restartBench) config() node.Config {
	cfg := b.flags.config(b.dir)
	cfg.Observe = &call.Observer{Done: func(_ context.Context, c call.Call) {
		if c.Method != "ContainerStatus" || c.Err != nil {
			return
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.looked[c.Pod.UID] = true; len(b.looked) == b.pods {
			select {
			case <-b.all:
			default:
				close(b.all)
			}
		}
	}}
	return cfg
}

// fill starts the node and its Pods.
func (b *restartBench) fill(ctx context.Context) (err error) {
	if b.dir, err = makeRunDir(); err != nil {
		return err
	}
	if b.node, err = node.Start(ctx, b.config()); err != nil {
		return err
	}
	for i := range b.pods {
		if _, err := b.node.Apply(ctx, fmt.Appendf(nil, benchPod, fmt.Sprintf("pod-%d", i), b.flags.image)); err != nil {
			return err
		}
	}
	for i := range b.pods {
		if _, err := b.node.Wait(ctx, types.NamespacedName{Namespace: v1.NamespaceDefault, Name: fmt.Sprintf("pod-%d", i)}, node.Ready); err != nil {
			return err
		}
	}
	b.ids, err = b.containers(ctx)
	return err
}

// containers returns the IDs of all containers, which must be running and Ready and
// must never have been restarted.
func (b *restartBench) containers(ctx context.Context) (map[string]string, error) {
	pods, err := client.List[*v1.Pod](ctx, b.node.Client(), "")
	ids := map[string]string{}
	for _, p := range pods {
		if len(p.Status.ContainerStatuses) != 1 || !node.Ready(p) || p.Status.ContainerStatuses[0].RestartCount != 0 {
			return nil, fault.Internal.Errorf("Pod %q is not as it was: %+v", p.Name, p.Status)
		}
		ids[p.Name] = p.Status.ContainerStatuses[0].ContainerID
	}
	return ids, err
}

func (b *restartBench) run(ctx context.Context) (bench.Sample, error) {
	if err := b.node.Stop(); err != nil {
		return bench.Sample{}, err
	}
	b.mu.Lock()
	b.looked, b.all = map[string]bool{}, make(chan struct{})
	all := b.all
	b.mu.Unlock()
	var ready time.Duration
	s, err := bench.Timed(func() (err error) {
		begun := time.Now()
		if b.node, err = node.Start(ctx, b.config()); err != nil {
			return err
		}
		ready = time.Since(begun)
		select {
		case <-all:
			return nil
		case <-time.After(time.Minute):
			return fault.Unavailable.Errorf("%d of %d Pods were looked at within a minute", len(b.looked), b.pods)
		}
	})
	if err != nil {
		return s, err
	}
	s.Steps = []bench.Step{{Name: "API and runtime up", Took: ready}}
	time.Sleep(settle) // a wrong status would be written by now
	now, err := b.containers(ctx)
	if err != nil {
		return s, err
	}
	for name, id := range b.ids {
		if now[name] != id {
			return s, fault.Internal.Errorf("the container of Pod %q was %s and is %s", name, id, now[name])
		}
	}
	return s, nil
}

func (b *restartBench) end() error {
	var err error
	if b.node != nil {
		err = b.node.Destroy(context.Background())
	}
	return errors.Join(err, b.dir.remove())
}
