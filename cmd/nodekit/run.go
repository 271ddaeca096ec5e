package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	v1 "k8s.io/api/core/v1"

	"github.com/nodekit-project/nodekit/internal/call"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/kubelet/manifest"
	"github.com/nodekit-project/nodekit/kubelet/node"
	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// interrupted is the exit code of a run that was ended with Ctrl-C.
const interrupted = 130

func newRunCommand() *cobra.Command {
	var v verbosity
	var parts partFlags
	cmd := &cobra.Command{
		Use:   "run FILE",
		Short: "Run the Pods of a file on a temporary node, and remove everything at the end",
		Long: `Run starts a node with its own directories, bridge and subnet, runs the Pods of the file
(- means standard input) on it, shows each step and the output of the containers, and
removes everything when all Pods have ended, or at Ctrl-C. If a plugin does not answer a
call within five seconds, and again after thirty, run shows that the Pod waits for it.

The exit code is 0 if all Pods succeeded, otherwise that of the first container that
failed. It is 130 after Ctrl-C, and 1 after any other error.

  nodekit run examples/pod.yaml
  nodekit run --plugin ./my-driver --plugin-args '--endpoint=$(CSI_ENDPOINT)' pod.yaml`,
		Args: oneArg("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			objects, err := readManifest(cmd, args[0])
			if err != nil {
				return err
			}
			cfg := node.Config{Logger: v.logger(slog.LevelError)}
			if err := parts.apply(&cfg); err != nil {
				return err
			}
			// For a permanent node it may still appear.
			if fi, err := os.Stat(cfg.CNIConfDir); cfg.CNIConfDir != "" && (err != nil || !fi.IsDir()) {
				return fault.Invalid.Errorf("--cni-conf-dir %q: there is no such directory (%s)", parts.cniConfDir, cfg.CNIConfDir)
			}
			return runObjects(cmd, cfg, objects)
		},
	}
	v.addTo(cmd)
	parts.addTo(cmd)
	return cmd
}

// readManifest reads a whole file before anything on the machine is changed.
func readManifest(cmd *cobra.Command, path string) ([]manifest.Object, error) {
	raw, err := os.ReadFile(path)
	if path == "-" {
		raw, err = io.ReadAll(io.LimitReader(cmd.InOrStdin(), manifest.MaxFile+1))
	}
	if err != nil {
		return nil, err
	}
	objects, notices, err := manifest.Decode(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	for _, n := range notices {
		fmt.Fprintln(cmd.ErrOrStderr(), "note:", n)
	}
	if len(podsOf(objects)) == 0 {
		return nil, fault.Invalid.Errorf("%s contains no Pod: there is nothing to run", path)
	}
	return objects, nil
}

func podsOf(objects []manifest.Object) []*v1.Pod {
	var pods []*v1.Pod
	for _, o := range objects {
		if p, ok := o.(*v1.Pod); ok {
			pods = append(pods, p)
		}
	}
	return pods
}

// builtinImages are the archives that were built beside this program.
func builtinImages() []string {
	self, err := os.Executable()
	if err != nil {
		return nil
	}
	archives, _ := filepath.Glob(filepath.Join(filepath.Dir(self), "images", "*.tar"))
	return archives
}

// session is one execution of `nodekit run`.
type session struct {
	node *node.Node
	view *view
	logs sync.WaitGroup
}

// runObjects runs the objects' Pods and returns their exit code as its error, nil for
// success. Other errors are printed, and do not hide that code.
func runObjects(cmd *cobra.Command, cfg node.Config, objects []manifest.Object) error {
	if err := node.CheckHost(&cfg); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(cmd.Context())
	defer cancel()
	s := &session{view: newView(cmd.OutOrStdout(), len(podsOf(objects)), cancel)}
	code, err := s.run(ctx, cfg, objects)
	if code == nil {
		return err
	}
	if err != nil {
		fmt.Fprintln(cmd.ErrOrStderr(), "nodekit:", err)
	}
	return code
}

// run is a node's whole life: cleaning up after earlier ones, the start, the Pods, the
// end.
func (s *session) run(ctx context.Context, cfg node.Config, objects []manifest.Object) (code, err error) {
	sweep(ctx, node.Config{Keeper: cfg.Keeper, Logger: cfg.Logger, OCIRuntime: cfg.OCIRuntime, RuntimeEndpoint: cfg.RuntimeEndpoint}, func(text string) {
		s.view.line(text + "\n")
	})
	dir, err := makeRunDir()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, dir.remove()) }()
	start := time.Now()
	if s.node, err = s.start(ctx, cfg, dir); err != nil {
		if ctx.Err() != nil {
			code = exitCode(interrupted)
		}
		return code, err
	}
	s.view.line(fmt.Sprintf("%9s  %-9s  %s\n", took(time.Since(start)), "node", s.node))
	code, err = s.runPods(ctx, objects)
	return code, errors.Join(err, s.end(ctx))
}

func (s *session) start(ctx context.Context, cfg node.Config, dir *runDir) (*node.Node, error) {
	cfg.Root, cfg.Run = dir.root(), dir.run()
	cfg.Images = append(builtinImages(), cfg.Images...)
	cfg.OnPlugin, cfg.OnPull, cfg.OnStderr = s.view.plugin, s.view.pull, s.view.said
	cfg.Observe = &call.Observer{Done: s.view.call, Waits: s.view.waits}
	for i := range cfg.Plugins {
		cfg.Plugins[i].Stderr = s.view.lines(filepath.Base(cfg.Plugins[i].Path))
	}
	started := make(chan struct{})
	var n *node.Node
	cfg.OnStep = func(step pod.Step) {
		<-started // steps of a Pod follow the start of the node
		s.step(ctx, n, step)
	}
	n, err := node.Start(ctx, cfg)
	close(started)
	return n, err
}

// step prints a step and, for the start of a container, the container's output.
func (s *session) step(ctx context.Context, n *node.Node, step pod.Step) {
	s.view.step(step)
	if step.What != pod.StepContainer || step.Err != nil {
		return
	}
	s.logs.Go(func() {
		prefix := step.Name
		if s.view.many {
			prefix = step.Pod.Name + " " + step.Name
		}
		out := s.view.lines(prefix)
		defer out.Close()
		// A container that is gone by now has nothing more to show.
		_ = n.Logs(context.WithoutCancel(ctx), step.Pod, step.Name, out)
	})
}

// runPods creates the objects and waits until all Pods have ended, the node fails or
// the user interrupts. The exit code is nil for success.
func (s *session) runPods(ctx context.Context, objects []manifest.Object) (code, err error) {
	finished, err := s.node.Run(ctx, objects)
	switch {
	case ctx.Err() != nil:
		return exitCode(interrupted), nil
	case err != nil:
		return exitCode(1), err
	}
	s.logs.Wait()
	for _, p := range finished {
		if c := exitCodeOf(p); c != 0 {
			return exitCode(c), nil
		}
	}
	return nil, nil
}

// exitCodeOf returns the exit code of the Pod's container that failed first, 0 for a
// Pod that succeeded, and 1 for one that failed for another reason.
func exitCodeOf(p *v1.Pod) int {
	if p.Status.Phase == v1.PodSucceeded {
		return 0
	}
	var first *v1.ContainerStateTerminated
	for _, list := range [][]v1.ContainerStatus{p.Status.InitContainerStatuses, p.Status.ContainerStatuses} {
		for _, c := range list {
			t := c.State.Terminated
			if t != nil && t.ExitCode != 0 && (first == nil || t.FinishedAt.Before(&first.FinishedAt)) {
				first = t
			}
		}
	}
	if first == nil {
		return 1
	}
	return int(first.ExitCode)
}

// end destroys the node. After an interrupt Pods still get their grace period, until
// the next interrupt.
func (s *session) end(ctx context.Context) error {
	patient, stop := signal.NotifyContext(context.WithoutCancel(ctx), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if ctx.Err() != nil {
		s.view.line("interrupted: waiting for the Pods to end; interrupt again to kill them at once\n")
	}
	start := time.Now()
	err := s.node.Destroy(patient)
	s.logs.Wait()
	done := "everything is taken down"
	if err != nil {
		done = "not everything could be taken down"
	}
	s.view.line(fmt.Sprintf("%9s  %-9s  %s\n", took(time.Since(start)), "node", done))
	return err
}
