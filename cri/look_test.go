package cri_test

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri"
)

// items collects a server stream.
func items[M, T any](t *testing.T, recv func() (*M, error), of func(*M) []T) []T {
	t.Helper()
	var all []T
	for {
		m, err := recv()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, of(m)...)
	}
}

func TestStatsOfAPod(t *testing.T) {
	_, rt := newFake()
	rt.Stats = func(context.Context, *cri.Container) (*runtimeapi.ContainerStats, error) {
		return &runtimeapi.ContainerStats{Cpu: &runtimeapi.CpuUsage{Timestamp: 1}}, nil
	}
	rt.SandboxStats = func(_ context.Context, s *cri.Sandbox) (*runtimeapi.LinuxPodSandboxStats, error) {
		if s.Config.Metadata.Name == "bad" {
			panic("a bug")
		}
		return &runtimeapi.LinuxPodSandboxStats{Memory: &runtimeapi.MemoryUsage{Timestamp: 2}}, nil
	}
	n := serve(t, rt, t.TempDir())
	sb := n.sandbox("a")
	id := n.started(sb, "main")
	n.container(sb, "created")
	n.sandbox("bad")
	if err := n.stopSandbox(n.sandbox("stopped")); err != nil {
		t.Fatal(err)
	}
	one, err := n.Runtime.PodSandboxStats(t.Context(), &runtimeapi.PodSandboxStatsRequest{PodSandboxId: sb})
	if err != nil {
		t.Fatal(err)
	}
	want := []*runtimeapi.PodSandboxStats{{
		Attributes: &runtimeapi.PodSandboxAttributes{Id: sb, Metadata: sandboxConfig("a").Metadata, Labels: map[string]string{"pod": "a"}},
		Linux: &runtimeapi.LinuxPodSandboxStats{
			Memory: &runtimeapi.MemoryUsage{Timestamp: 2},
			Containers: []*runtimeapi.ContainerStats{{
				Attributes: &runtimeapi.ContainerAttributes{Id: id, Metadata: &runtimeapi.ContainerMetadata{Name: "main"}, Labels: map[string]string{"container": "main"}},
				Cpu:        &runtimeapi.CpuUsage{Timestamp: 1},
			}},
		},
	}}
	list, err := n.Runtime.ListPodSandboxStats(t.Context(), &runtimeapi.ListPodSandboxStatsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	stream, err := n.Runtime.StreamPodSandboxStats(t.Context(), &runtimeapi.StreamPodSandboxStatsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for how, got := range map[string][]*runtimeapi.PodSandboxStats{
		"one": {one.Stats}, "list": list.Stats, "stream": items(t, stream.Recv, (*runtimeapi.StreamPodSandboxStatsResponse).GetPodSandboxStats),
	} {
		if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", how, diff)
		}
	}
}

func TestMetrics(t *testing.T) {
	_, rt := newFake()
	rt.Metrics = &cri.Metrics{
		Descriptors: []*runtimeapi.MetricDescriptor{{Name: "up", LabelKeys: []string{"b", "a"}}},
		Container: func(_ context.Context, c *cri.Container) ([]cri.Sample, error) {
			return []cri.Sample{{Name: "up", Labels: map[string]string{"a": c.Config.Metadata.Name, "b": "x"}, Value: 1}}, nil
		},
	}
	n := serve(t, rt, t.TempDir())
	sb := n.sandbox("a")
	id := n.started(sb, "main")
	descriptors, err := n.Runtime.ListMetricDescriptors(t.Context(), &runtimeapi.ListMetricDescriptorsRequest{})
	if err != nil || len(descriptors.Descriptors) != 1 || descriptors.Descriptors[0].Name != "up" {
		t.Errorf("got %v, %v", descriptors, err)
	}
	want := []*runtimeapi.PodSandboxMetrics{{
		PodSandboxId: sb,
		ContainerMetrics: []*runtimeapi.ContainerMetrics{{
			ContainerId: id,
			Metrics:     []*runtimeapi.Metric{{Name: "up", LabelValues: []string{"x", "main"}, Value: &runtimeapi.UInt64Value{Value: 1}}},
		}},
	}}
	list, err := n.Runtime.ListPodSandboxMetrics(t.Context(), &runtimeapi.ListPodSandboxMetricsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	stream, err := n.Runtime.StreamPodSandboxMetrics(t.Context(), &runtimeapi.StreamPodSandboxMetricsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	streamed := items(t, stream.Recv, (*runtimeapi.StreamPodSandboxMetricsResponse).GetPodSandboxMetrics)
	for how, got := range map[string][]*runtimeapi.PodSandboxMetrics{"list": list.PodMetrics, "stream": streamed} {
		if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", how, diff)
		}
	}
}

func TestVerboseStatuses(t *testing.T) {
	_, rt := newFake()
	rt.Info = cri.Info{
		Runtime:   func(context.Context) map[string]any { return map[string]any{"config": []int{1}} },
		Sandbox:   func(_ context.Context, s *cri.Sandbox) map[string]any { return map[string]any{"pid": 7} },
		Container: func(context.Context, *cri.Container) map[string]any { panic("a bug") },
	}
	rt.Images = &cri.Images{
		Status: func(context.Context, *runtimeapi.ImageSpec) (*runtimeapi.Image, error) {
			return &runtimeapi.Image{Id: "id", Size: 1}, nil
		},
		Info: func(_ context.Context, i *runtimeapi.Image) map[string]any { return map[string]any{"layers": i.Id} },
	}
	n := serve(t, rt, t.TempDir())
	sb := n.sandbox("a")
	id := n.container(sb, "main")
	for _, verbose := range []bool{false, true} {
		runtime, err := n.Runtime.Status(t.Context(), &runtimeapi.StatusRequest{Verbose: verbose})
		sandbox, err2 := n.Runtime.PodSandboxStatus(t.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: sb, Verbose: verbose})
		container, err3 := n.Runtime.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: id, Verbose: verbose})
		image, err4 := n.Images.ImageStatus(t.Context(), &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: "x"}, Verbose: verbose})
		if err := errors.Join(err, err2, err3, err4); err != nil {
			t.Fatal(err)
		}
		got := []string{runtime.Info["config"], sandbox.Info["pid"], container.Info["sandboxID"], image.Info["layers"]}
		want := []string{"", "", "", ""}
		if verbose {
			want = []string{"[1]", "7", `"` + sb + `"`, `"id"`}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("verbose %v: %s", verbose, diff)
		}
	}
}

func TestUpdateSandbox(t *testing.T) {
	_, rt := newFake()
	var fail error
	var got []*runtimeapi.LinuxContainerResources
	rt.UpdateSandbox = func(_ context.Context, _ *cri.Sandbox, overhead, resources *runtimeapi.LinuxContainerResources) error {
		got = append(got, overhead, resources)
		return fail
	}
	var seen *runtimeapi.PodSandboxConfig
	rt.StopSandbox = func(_ context.Context, s *cri.Sandbox) error { seen = s.Config; return nil }
	dir := t.TempDir()
	n := serve(t, rt, dir)
	sb := n.sandbox("a")
	update := func(overhead, resources *runtimeapi.LinuxContainerResources) error {
		_, err := n.Runtime.UpdatePodSandboxResources(t.Context(), &runtimeapi.UpdatePodSandboxResourcesRequest{PodSandboxId: sb, Overhead: overhead, Resources: resources})
		return err
	}
	err := errors.Join(
		update(nil, &runtimeapi.LinuxContainerResources{CpuShares: 2, MemoryLimitInBytes: 10}),
		update(&runtimeapi.LinuxContainerResources{CpuShares: 1}, nil),
		update(nil, &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 20}))
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 6 || got[0] != nil || got[1].CpuShares != 2 || got[2].CpuShares != 1 {
		t.Errorf("the author got %v", got)
	}
	fail = errors.New("no")
	if err := update(nil, &runtimeapi.LinuxContainerResources{CpuShares: 99}); err == nil {
		t.Error("a failed update succeeded")
	}
	if err := update(nil, &runtimeapi.LinuxContainerResources{CpuShares: -1}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("negative shares: %v", err)
	}
	n.stop()
	n = serve(t, rt, dir)
	if err := n.stopSandbox(sb); err != nil {
		t.Fatal(err)
	}
	want := &runtimeapi.LinuxPodSandboxConfig{
		Overhead:  &runtimeapi.LinuxContainerResources{CpuShares: 1},
		Resources: &runtimeapi.LinuxContainerResources{CpuShares: 2, MemoryLimitInBytes: 20},
	}
	if diff := cmp.Diff(want, seen.Linux, protocmp.Transform()); diff != "" {
		t.Errorf("recorded (-want +got):\n%s", diff)
	}
	if err := update(nil, nil); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("a stopped sandbox: %v", err)
	}
}

func TestPodCIDR(t *testing.T) {
	_, rt := newFake()
	var got [][]netip.Prefix
	rt.SetPodCIDR = func(_ context.Context, ranges []netip.Prefix) error { got = append(got, ranges); return nil }
	n := serve(t, rt, t.TempDir())
	set := func(cidr string) error {
		_, err := n.Runtime.UpdateRuntimeConfig(t.Context(), &runtimeapi.UpdateRuntimeConfigRequest{
			RuntimeConfig: &runtimeapi.RuntimeConfig{NetworkConfig: &runtimeapi.NetworkConfig{PodCidr: cidr}},
		})
		return err
	}
	if err := errors.Join(set("10.1.0.0/24,fd00::/64"), set("")); err != nil {
		t.Error(err)
	}
	if err := set("10.1"); status.Code(err) != codes.InvalidArgument {
		t.Errorf("not a range: %v", err)
	}
	want := [][]netip.Prefix{{netip.MustParsePrefix("10.1.0.0/24"), netip.MustParsePrefix("fd00::/64")}}
	if len(got) != 1 || len(got[0]) != 2 || got[0][0] != want[0][0] || got[0][1] != want[0][1] {
		t.Errorf("the author got %v, want %v", got, want)
	}
	_, rt = newFake()
	n = serve(t, rt, t.TempDir())
	if err := set("10.1.0.0/24"); err != nil {
		t.Errorf("nobody uses it: %v", err)
	}
}
