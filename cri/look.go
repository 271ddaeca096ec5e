package cri

import (
	"context"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri/internal/info"
	"github.com/nodekit-project/nodekit/cri/internal/metrics"
	"github.com/nodekit-project/nodekit/cri/internal/state"
	"github.com/nodekit-project/nodekit/cri/internal/stats"
)

// usage returns the author's functions for stats.
func (s *server) usage() stats.Functions {
	var f stats.Functions
	if ask := s.rt.Stats; ask != nil {
		f.Container = func(ctx context.Context, c *state.Container) (*runtimeapi.ContainerStats, error) {
			return lookAtContainer(ctx, s, c, "Stats", ask)
		}
	}
	if ask := s.rt.SandboxStats; ask != nil {
		f.Sandbox = func(ctx context.Context, sb *state.Sandbox) (*runtimeapi.LinuxPodSandboxStats, error) {
			return lookAtSandbox(ctx, s, sb, "SandboxStats", ask)
		}
	}
	return f
}

// collector returns the collector that serves Runtime.Metrics.
func (s *server) collector() *metrics.Collector {
	m := s.rt.Metrics
	if m == nil {
		return metrics.New(nil, metrics.Functions{}, s.table, s.log)
	}
	var f metrics.Functions
	if m.Sandbox != nil {
		f.Sandbox = func(ctx context.Context, sb *state.Sandbox) ([]metrics.Sample, error) {
			return convert(lookAtSandbox(ctx, s, sb, "Metrics.Sandbox", m.Sandbox))
		}
	}
	if m.Container != nil {
		f.Container = func(ctx context.Context, c *state.Container) ([]metrics.Sample, error) {
			return convert(lookAtContainer(ctx, s, c, "Metrics.Container", m.Container))
		}
	}
	descriptors := append([]*runtimeapi.MetricDescriptor{}, m.Descriptors...) // never nil
	return metrics.New(descriptors, f, s.table, s.log)
}

func convert(samples []Sample, err error) ([]metrics.Sample, error) {
	all := make([]metrics.Sample, len(samples))
	for i, one := range samples {
		all[i] = metrics.Sample(one)
	}
	return all, err
}

// lookAtContainer calls a read-only function of the author.
func lookAtContainer[T any](ctx context.Context, s *server, c *state.Container, name string, look func(context.Context, *Container) (T, error)) (got T, err error) {
	view := viewContainer(c.Copy())
	ctx = podContext(ctx, view.Sandbox.record())
	err = s.guard(name, func() (err error) {
		got, err = look(ctx, view)
		return err
	})
	return got, err
}

// lookAtSandbox is lookAtContainer for sandboxes.
func lookAtSandbox[T any](ctx context.Context, s *server, sb *state.Sandbox, name string, look func(context.Context, *Sandbox) (T, error)) (got T, err error) {
	view := viewSandbox(sb.Copy())
	ctx = podContext(ctx, view.record())
	err = s.guard(name, func() (err error) {
		got, err = look(ctx, view)
		return err
	})
	return got, err
}

// infos returns the functions for verbose statuses.
func (s *server) infos() state.Infos {
	return state.Infos{
		Sandbox: func(ctx context.Context, sb *state.Sandbox) map[string]string {
			view := viewSandbox(sb.Copy())
			own := map[string]any{"dir": view.Dir, "state": view.State}
			return info.Of(s.log, own, "Info.Sandbox", about(podContext(ctx, view.record()), s.rt.Info.Sandbox, view))
		},
		Container: func(ctx context.Context, c *state.Container) map[string]string {
			view := viewContainer(c.Copy())
			own := map[string]any{"sandboxID": view.Sandbox.ID, "dir": view.Dir, "state": view.State}
			return info.Of(s.log, own, "Info.Container", about(podContext(ctx, view.Sandbox.record()), s.rt.Info.Container, view))
		},
	}
}

// about binds the arguments of an Info function; nil stays nil.
func about[T any](ctx context.Context, ask func(context.Context, T) map[string]any, what T) func() map[string]any {
	if ask == nil {
		return nil
	}
	return func() map[string]any { return ask(ctx, what) }
}
