package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/spf13/cobra"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodekit-project/nodekit/internal/atomicfile"
	"github.com/nodekit-project/nodekit/internal/bench"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/kubelet/node"
	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// benchPod is the Pod of the benchmark: one container that is ready at once and ends at
// once when asked to.
const benchPod = `apiVersion: v1
kind: Pod
metadata: {name: %[1]q}
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: main
      image: %[2]q
      imagePullPolicy: Never
      args: [trap, "0"]
`

// settle is the time that the program gets between Ready and its end: the first process
// of a container ignores signals until it has installed its handlers, and a removal
// before that would measure the grace period.
const settle = 50 * time.Millisecond

// benchFlags are the flags of bench.
type benchFlags struct {
	verbosity
	rounds   int
	image    string
	endpoint string
	progress bool
}

func newBenchCommand() *cobra.Command {
	var f benchFlags
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure how long a node takes to start and remove a Pod, and other parts of a node",
		Long: `Bench runs a node and measures repeatedly how long a Pod with one container takes to
become Ready after its manifest file appears, how long its removal takes, and the steps of
both.

With --against, it alternates with a second node on another container runtime:

  nodekit bench --against unix:///run/containerd/containerd.sock`,
		Args: noArgs,
		PersistentPreRunE: func(*cobra.Command, []string) error { // of the commands below it, too
			if f.rounds < 1 {
				return fault.Invalid.Errorf("--rounds %d: want 1 or more", f.rounds)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return runBench(cmd, &f) },
	}
	fs := cmd.PersistentFlags()
	fs.BoolVarP(&f.verbose, "verbose", "v", false, "log every call of a plugin")
	fs.IntVar(&f.rounds, "rounds", 20, "`number` of measurements")
	fs.StringVar(&f.image, "image", "nodekit.dev/podtool:v1", "`image` of the container: podtool, by a name that all runtimes know")
	cmd.Flags().StringVar(&f.endpoint, "against", "", "also measure a node on the CRI runtime at this `socket`")
	fs.BoolVar(&f.progress, "progress", false, "show each round")
	cmd.AddCommand(newBenchStartCommand(&f), newBenchApplyCommand(&f), newBenchExitCommand(&f), newBenchRestartCommand(&f), newBenchAPICommand(&f),
		newBenchCNICommand(&f), newBenchCRICommand(&f))
	return cmd
}

func runBench(cmd *cobra.Command, f *benchFlags) (err error) {
	ours, err := newBenchSide(cmd.Context(), f, "nodekit", "")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ours.end()) }()
	sides := []*benchSide{ours}
	if f.endpoint != "" {
		theirs, err := newBenchSide(cmd.Context(), f, "other runtime", f.endpoint)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, theirs.end()) }()
		sides = append(sides, theirs)
	}
	var runs []bench.Side
	for _, s := range sides {
		runs = append(runs, bench.Side{Name: s.name, Run: s.run})
	}
	opts := &bench.Options{Rounds: f.rounds}
	if f.progress {
		opts.Progress = cmd.ErrOrStderr()
	}
	table, err := bench.Run(cmd.Context(), runs, opts)
	if err != nil {
		return err
	}
	fmt.Fprintln(cmd.OutOrStdout(), "manifest file to Pod Ready, and what it is made of; removal is from the file's deletion to the Pod's end")
	return table.Write(cmd.OutOrStdout())
}

// benchSide is one node under measurement.
type benchSide struct {
	name, image string
	dir         *runDir
	node        *node.Node
	count       int

	mu    sync.Mutex
	steps []bench.Step // of the current Pod
}

func newBenchSide(ctx context.Context, f *benchFlags, name, endpoint string) (*benchSide, error) {
	dir, err := makeRunDir()
	if err != nil {
		return nil, err
	}
	s := &benchSide{name: name, image: f.image, dir: dir}
	if err := os.Mkdir(s.manifests(), 0o700); err != nil {
		return nil, errors.Join(err, dir.remove())
	}
	cfg := node.Config{
		Root: dir.root(), Run: dir.run(), Manifests: s.manifests(), RuntimeEndpoint: endpoint,
		Without: node.Parts{GPU: true, Hostpath: true},
		OnStep:  s.step, Logger: f.logger(slog.LevelError),
	}
	if endpoint == "" {
		cfg.Images = builtinImages()
	}
	if s.node, err = node.Start(ctx, cfg); err != nil {
		return nil, errors.Join(err, dir.remove())
	}
	return s, nil
}

func (s *benchSide) manifests() string { return filepath.Join(s.dir.path, "manifests") }

func (s *benchSide) step(step pod.Step) {
	if step.Took == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.steps = append(s.steps, bench.Step{Name: step.What, Took: step.Took})
}

// run measures one Pod.
func (s *benchSide) run(ctx context.Context) (bench.Sample, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	s.count++
	name := fmt.Sprintf("bench-%d", s.count)
	file := filepath.Join(s.manifests(), name+".yaml")
	s.mu.Lock()
	s.steps = nil
	s.mu.Unlock()

	key := types.NamespacedName{Namespace: v1.NamespaceDefault, Name: name}
	start := time.Now()
	if err := atomicfile.Write(file, fmt.Appendf(nil, benchPod, name, s.image), 0o600); err != nil {
		return bench.Sample{}, err
	}
	if _, err := s.node.Wait(ctx, key, node.Ready); err != nil {
		return bench.Sample{}, err
	}
	sample := bench.Sample{Total: time.Since(start)}
	s.mu.Lock()
	sample.Steps = s.steps
	s.mu.Unlock()

	time.Sleep(settle)
	start = time.Now()
	if err := os.Remove(file); err != nil {
		return sample, err
	}
	_, err := s.node.Wait(ctx, key, func(*v1.Pod) bool { return false })
	if !errors.Is(err, fault.NotFound) {
		return sample, err
	}
	sample.Steps = append(sample.Steps, bench.Step{Name: "removal", Took: time.Since(start)})
	return sample, nil
}

func (s *benchSide) end() error {
	return errors.Join(s.node.Destroy(context.Background()), s.dir.remove())
}
