package crisuite

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"

	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const onceSentence = "Each item must appear in exactly one response and must not be duplicated across responses in the same stream."

func listRules() []rule {
	return []rule{
		must("CRI-LIST-001", "combines the fields of a container filter with AND",
			"ContainerFilter", "ContainerFilter is used to filter containers. All those fields are combined with 'AND'", checkContainerFilter, Containers),
		relied("CRI-LIST-002", "lists a container as its status describes it",
			"PLEG", "The kubelet lists containers every second, and takes their Pod, name, attempt, state and age from there.", checkListAgrees, Containers),
		must("CRI-LIST-003", "streams the sandboxes that it lists, each once",
			"StreamPodSandboxes", onceSentence, checkStreamSandboxes),
		must("CRI-LIST-004", "streams the containers that it lists, each once",
			"StreamContainers", onceSentence, checkStreamContainers, Containers),
		must("CRI-LIST-005", "streams the images that it lists, each once",
			"StreamImages", onceSentence, checkStreamImages, Pull),
		must("CRI-LIST-006", "streams the stats of the containers that it lists, each once",
			"StreamContainerStats", onceSentence, checkStreamStats, Stats),
		should("CRI-LIST-008", "lists a container with the image reference that its status has",
			"PullImageResponse", identitySentence, checkListedRef, Containers),
		must("CRI-LIST-009", "streams the stats of the sandboxes that it lists, each once",
			"StreamPodSandboxStats", onceSentence, checkStreamPodStats),
		must("CRI-LIST-010", "streams the metrics of the sandboxes that it lists, each once",
			"StreamPodSandboxMetrics", onceSentence, checkStreamMetrics),
		must("CRI-LIST-007", "streams no message without an item, and ends",
			"StreamPodSandboxes", "This is an alternative to ListPodSandbox that streams results in lists of at least one item, avoiding the gRPC message size limit for nodes with many pods. [...] The server must close the stream with EOF after all items have been sent.", checkStreamEmpty),
	}
}

func checkContainerFilter(ctx context.Context, s *subject) error {
	p, err := s.pod(ctx)
	if err != nil {
		return err
	}
	one, err := p.start(ctx, forever)
	if err != nil {
		return err
	}
	two, err := p.create(ctx, forever)
	if err != nil {
		return err
	}
	running := &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING}
	mine := map[string]string{label: s.mark}
	for _, c := range []struct {
		filter *runtimeapi.ContainerFilter
		want   []string
	}{
		{&runtimeapi.ContainerFilter{PodSandboxId: p.id}, []string{one.id, two.id}},
		{&runtimeapi.ContainerFilter{LabelSelector: mine, State: running}, []string{one.id}},
		{&runtimeapi.ContainerFilter{Id: two.id, PodSandboxId: p.id, LabelSelector: mine}, []string{two.id}},
		{&runtimeapi.ContainerFilter{Id: two.id, State: running}, nil},
		{&runtimeapi.ContainerFilter{Id: one.id, PodSandboxId: unknownID}, nil},
		{&runtimeapi.ContainerFilter{PodSandboxId: p.id, LabelSelector: map[string]string{label: "none"}}, nil},
	} {
		all, err := s.containers(ctx, c.filter)
		if err == nil {
			err = exactly(all, c.want...)
		}
		if err != nil {
			return fmt.Errorf("ListContainers with filter %v: %w", c.filter, err)
		}
	}
	return nil
}

func checkListAgrees(ctx context.Context, s *subject) error {
	p, err := s.pod(ctx)
	if err != nil {
		return err
	}
	made, err := p.create(ctx, forever)
	if err != nil {
		return err
	}
	running, err := p.start(ctx, forever)
	if err != nil {
		return err
	}
	return errors.Join(made.listedAsIs(ctx), running.listedAsIs(ctx))
}

// listedAsIs returns nil when the list shows the container as its status does.
func (b *box) listedAsIs(ctx context.Context) error {
	st, err := b.status(ctx)
	if err != nil {
		return err
	}
	all, err := b.s.containers(ctx, &runtimeapi.ContainerFilter{Id: b.id})
	if err != nil {
		return err
	}
	if len(all) != 1 {
		return fmt.Errorf("ListContainers shows %d containers of one id", len(all))
	}
	c := all[0]
	for _, f := range []struct {
		name      string
		same      bool
		got, want any
	}{
		{"pod_sandbox_id", c.GetPodSandboxId() == b.pod.id, c.GetPodSandboxId(), b.pod.id},
		{"metadata", proto.Equal(c.GetMetadata(), st.GetMetadata()), c.GetMetadata(), st.GetMetadata()},
		{"state", c.GetState() == st.GetState(), c.GetState(), st.GetState()},
		{"created_at", c.GetCreatedAt() == st.GetCreatedAt(), c.GetCreatedAt(), st.GetCreatedAt()},
	} {
		if !f.same {
			return fmt.Errorf("ListContainers shows container %q with the %s %v, want %v, as ContainerStatus and CreateContainer had it", b.id, f.name, f.got, f.want)
		}
	}
	return nil
}

func checkListedRef(ctx context.Context, s *subject) error {
	b, err := s.box(ctx, forever)
	if err != nil {
		return err
	}
	st, err := b.status(ctx)
	if err != nil {
		return err
	}
	all, err := s.containers(ctx, &runtimeapi.ContainerFilter{Id: b.id})
	if err == nil && (len(all) != 1 || all[0].GetImageRef() != st.GetImageRef()) {
		return fmt.Errorf("ListContainers shows %v, and the status has the image reference %q", all, st.GetImageRef())
	}
	return err
}

// received reads a stream to its end.
func received[M any, I interface{ GetId() string }](from interface{ Recv() (*M, error) }, items func(*M) []I) (all []I, err error) {
	for {
		m, err := from.Recv()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		if len(items(m)) == 0 {
			return nil, errors.New("a message of the stream has no items")
		}
		all = append(all, items(m)...)
	}
}

// sameIDs returns nil when both lists have the same ids equally often. Others may come and
// go meanwhile: only those that mine accepts count.
func sameIDs[I interface{ GetId() string }](listed, streamed []I, mine func(I) bool) error {
	count := func(items []I) map[string]int {
		n := map[string]int{}
		for _, item := range items {
			if mine(item) {
				n[item.GetId()]++
			}
		}
		return n
	}
	a, b := count(listed), count(streamed)
	if !maps.Equal(a, b) || len(a) == 0 {
		return fmt.Errorf("the list has %v, and the stream %v", a, b)
	}
	return nil
}

func checkStreamSandboxes(ctx context.Context, s *subject) error {
	for range 3 {
		if _, err := s.pod(ctx); err != nil {
			return err
		}
	}
	filter := &runtimeapi.PodSandboxFilter{LabelSelector: map[string]string{label: s.mark}}
	listed, err := s.Runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{Filter: filter})
	if err != nil {
		return fmt.Errorf("ListPodSandbox: %w", err)
	}
	stream, err := s.Runtime.StreamPodSandboxes(ctx, &runtimeapi.StreamPodSandboxesRequest{Filter: filter})
	if err != nil {
		return unimplemented("StreamPodSandboxes", err)
	}
	streamed, err := received(stream, (*runtimeapi.StreamPodSandboxesResponse).GetPodSandboxes)
	if err != nil {
		return unimplemented("StreamPodSandboxes", err)
	}
	return sameIDs(listed.GetItems(), streamed, func(*runtimeapi.PodSandbox) bool { return true })
}

func checkStreamContainers(ctx context.Context, s *subject) error {
	p, err := s.pod(ctx)
	if err != nil {
		return err
	}
	for range 3 {
		if _, err := p.create(ctx, forever); err != nil {
			return err
		}
	}
	filter := &runtimeapi.ContainerFilter{PodSandboxId: p.id}
	listed, err := s.containers(ctx, filter)
	if err != nil {
		return err
	}
	stream, err := s.Runtime.StreamContainers(ctx, &runtimeapi.StreamContainersRequest{Filter: filter})
	if err != nil {
		return unimplemented("StreamContainers", err)
	}
	streamed, err := received(stream, (*runtimeapi.StreamContainersResponse).GetContainers)
	if err != nil {
		return unimplemented("StreamContainers", err)
	}
	return sameIDs(listed, streamed, func(*runtimeapi.Container) bool { return true })
}

func checkStreamImages(ctx context.Context, s *subject) error {
	id, err := s.pull(ctx, s.images.ref(uniqueRepo+s.mark+":v1"))
	if err != nil {
		return err
	}
	defer s.unpull(ctx, uniqueRepo+s.mark+":v1")
	listed, err := s.Images.ListImages(ctx, &runtimeapi.ListImagesRequest{})
	if err != nil {
		return fmt.Errorf("ListImages: %w", err)
	}
	stream, err := s.Images.StreamImages(ctx, &runtimeapi.StreamImagesRequest{})
	if err != nil {
		return unimplemented("StreamImages", err)
	}
	streamed, err := received(stream, (*runtimeapi.StreamImagesResponse).GetImages)
	if err != nil {
		return unimplemented("StreamImages", err)
	}
	return sameIDs(listed.GetImages(), streamed, func(im *runtimeapi.Image) bool { return im.GetId() == id })
}

// item stands for a message without a GetId of its own.
type item struct{ id string }

func (i item) GetId() string { return i.id } //nolint:staticcheck // as the messages have it

// items returns the items of a list of messages.
func items[M any](all []M, id func(M) string) []item {
	var list []item
	for _, one := range all {
		list = append(list, item{id(one)})
	}
	return list
}

func statItems(all []*runtimeapi.ContainerStats) []item {
	return items(all, func(st *runtimeapi.ContainerStats) string { return st.GetAttributes().GetId() })
}

func podItems(all []*runtimeapi.PodSandboxStats) []item {
	return items(all, func(st *runtimeapi.PodSandboxStats) string { return st.GetAttributes().GetId() })
}

func metricItems(all []*runtimeapi.PodSandboxMetrics) []item {
	return items(all, (*runtimeapi.PodSandboxMetrics).GetPodSandboxId)
}

func checkStreamStats(ctx context.Context, s *subject) error {
	p, err := s.pod(ctx)
	if err != nil {
		return err
	}
	for range 2 {
		if _, err := p.start(ctx, forever); err != nil {
			return err
		}
	}
	filter := &runtimeapi.ContainerStatsFilter{PodSandboxId: p.id}
	listed, err := s.Runtime.ListContainerStats(ctx, &runtimeapi.ListContainerStatsRequest{Filter: filter})
	if err != nil {
		return fmt.Errorf("ListContainerStats: %w", err)
	}
	stream, err := s.Runtime.StreamContainerStats(ctx, &runtimeapi.StreamContainerStatsRequest{Filter: filter})
	if err != nil {
		return unimplemented("StreamContainerStats", err)
	}
	streamed, err := received(stream, func(m *runtimeapi.StreamContainerStatsResponse) []item { return statItems(m.GetContainerStats()) })
	if err != nil {
		return unimplemented("StreamContainerStats", err)
	}
	return sameIDs(statItems(listed.GetStats()), streamed, func(item) bool { return true })
}

// ownPods runs sandboxes as the kubelet does, each with a container if the runtime has
// them, and returns a function that says which ids are theirs.
func (s *subject) ownPods(ctx context.Context, n int) (mine func(id string) bool, err error) {
	ids := map[string]bool{}
	for range n {
		_, in, err := s.cgroupParent(ctx)
		if err != nil {
			return nil, err
		}
		p, err := s.pod(ctx, in)
		if err != nil {
			return nil, err
		}
		ids[p.id] = true
		if s.target.missing([]Feature{Containers}) == nil {
			if _, err := p.start(ctx, forever); err != nil {
				return nil, err
			}
		}
	}
	return func(id string) bool { return ids[id] }, nil
}

func checkStreamPodStats(ctx context.Context, s *subject) error {
	nobody := &runtimeapi.PodSandboxStatsFilter{Id: unknownID}
	if _, err := s.Runtime.ListPodSandboxStats(ctx, &runtimeapi.ListPodSandboxStatsRequest{Filter: nobody}); err != nil {
		return unimplemented("ListPodSandboxStats", err)
	}
	mine, err := s.ownPods(ctx, 2)
	if err != nil {
		return err
	}
	filter := &runtimeapi.PodSandboxStatsFilter{LabelSelector: map[string]string{label: s.mark}}
	listed, err := s.Runtime.ListPodSandboxStats(ctx, &runtimeapi.ListPodSandboxStatsRequest{Filter: filter})
	if err != nil {
		return fmt.Errorf("ListPodSandboxStats: %w", err)
	}
	stream, err := s.Runtime.StreamPodSandboxStats(ctx, &runtimeapi.StreamPodSandboxStatsRequest{Filter: filter})
	if err != nil {
		return unimplemented("StreamPodSandboxStats", err)
	}
	streamed, err := received(stream, func(m *runtimeapi.StreamPodSandboxStatsResponse) []item { return podItems(m.GetPodSandboxStats()) })
	if err != nil {
		return unimplemented("StreamPodSandboxStats", err)
	}
	return sameIDs(podItems(listed.GetStats()), streamed, func(p item) bool { return mine(p.id) })
}

func checkStreamMetrics(ctx context.Context, s *subject) error {
	if _, err := s.Runtime.ListPodSandboxMetrics(ctx, &runtimeapi.ListPodSandboxMetricsRequest{}); err != nil {
		return unimplemented("ListPodSandboxMetrics", err)
	}
	mine, err := s.ownPods(ctx, 2)
	if err != nil {
		return err
	}
	listed, err := s.Runtime.ListPodSandboxMetrics(ctx, &runtimeapi.ListPodSandboxMetricsRequest{})
	if err != nil {
		return fmt.Errorf("ListPodSandboxMetrics: %w", err)
	}
	stream, err := s.Runtime.StreamPodSandboxMetrics(ctx, &runtimeapi.StreamPodSandboxMetricsRequest{})
	if err != nil {
		return unimplemented("StreamPodSandboxMetrics", err)
	}
	streamed, err := received(stream, func(m *runtimeapi.StreamPodSandboxMetricsResponse) []item {
		return metricItems(m.GetPodSandboxMetrics())
	})
	if err != nil {
		return unimplemented("StreamPodSandboxMetrics", err)
	}
	return sameIDs(metricItems(listed.GetPodMetrics()), streamed, func(m item) bool { return mine(m.id) })
}

func checkStreamEmpty(ctx context.Context, s *subject) error {
	stream, err := s.Runtime.StreamPodSandboxes(ctx, &runtimeapi.StreamPodSandboxesRequest{Filter: &runtimeapi.PodSandboxFilter{Id: unknownID}})
	if err != nil {
		return unimplemented("StreamPodSandboxes", err)
	}
	all, err := received(stream, (*runtimeapi.StreamPodSandboxesResponse).GetPodSandboxes)
	if err != nil {
		return unimplemented("StreamPodSandboxes", err)
	}
	if len(all) > 0 {
		return fmt.Errorf("the stream of an id that never was has %d sandboxes", len(all))
	}
	return nil
}
