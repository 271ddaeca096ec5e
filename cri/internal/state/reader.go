package state

import (
	"context"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri/internal/event"
)

// The limits of a message of a Stream call, in items and in bytes: even clients that do
// not know the CRI's message limit accept such a message. A single item may be larger,
// because of its annotations.
const (
	chunk      = 200
	chunkBytes = 1 << 20
)

// Reader serves the RuntimeService calls that only read. It uses nothing but the table,
// except for verbose statuses.
type Reader struct {
	table *Table
	infos Infos
}

// Infos return what a verbose status has besides the status, in JSON. They may call the
// author.
type Infos struct {
	Sandbox   func(context.Context, *Sandbox) map[string]string
	Container func(context.Context, *Container) map[string]string
}

// NewReader returns a reader of the table.
func NewReader(t *Table, i Infos) *Reader { return &Reader{t, i} }

// GetContainerEvents sends its header once the subscription is established: every later
// change is in the stream. A client may request a snapshot (event.SnapshotKey): one event
// for every present sandbox, with its containers.
func (r *Reader) GetContainerEvents(_ *runtimeapi.GetEventsRequest, stream grpc.ServerStreamingServer[runtimeapi.ContainerEventResponse]) error {
	asked := metadata.ValueFromIncomingContext(stream.Context(), event.SnapshotKey)
	sub, snapshot, err := r.table.subscribe(len(asked) > 0)
	if err != nil {
		return err
	}
	return sub.Serve(stream, snapshot)
}

// PodSandboxStatus includes the statuses of the containers.
func (r *Reader) PodSandboxStatus(ctx context.Context, req *runtimeapi.PodSandboxStatusRequest) (*runtimeapi.PodSandboxStatusResponse, error) {
	s, err := r.table.Sandbox(req.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	resp := r.table.statusOf(s)
	if req.GetVerbose() {
		resp.Info = r.infos.Sandbox(ctx, s)
	}
	return resp, nil
}

// statusOf returns a consistent snapshot.
func (t *Table) statusOf(s *Sandbox) *runtimeapi.PodSandboxStatusResponse {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return &runtimeapi.PodSandboxStatusResponse{
		Status: sandboxStatus(s.Now()), ContainersStatuses: statusesOf(s), Timestamp: time.Now().UnixNano(),
	}
}

// ListPodSandbox lists the sandboxes that the filter matches, the oldest first.
func (r *Reader) ListPodSandbox(_ context.Context, req *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
	return &runtimeapi.ListPodSandboxResponse{Items: r.sandboxes(req.GetFilter())}, nil
}

// StreamPodSandboxes sends the result of ListPodSandbox in pieces.
func (r *Reader) StreamPodSandboxes(req *runtimeapi.StreamPodSandboxesRequest, stream grpc.ServerStreamingServer[runtimeapi.StreamPodSandboxesResponse]) error {
	return InChunks(r.sandboxes(req.GetFilter()), func(part []*runtimeapi.PodSandbox) error {
		return stream.Send(&runtimeapi.StreamPodSandboxesResponse{PodSandboxes: part})
	})
}

func (r *Reader) sandboxes(f *runtimeapi.PodSandboxFilter) []*runtimeapi.PodSandbox {
	var items []*runtimeapi.PodSandbox
	for _, sb := range r.table.Sandboxes() {
		now := sb.Now()
		if f.GetState() != nil && f.GetState().GetState() != sandboxState(now) {
			continue
		}
		if strings.HasPrefix(now.ID, f.GetId()) && matches(now.Config.GetLabels(), f.GetLabelSelector()) {
			items = append(items, sandboxItem(now))
		}
	}
	return items
}

// ContainerStatus returns the container's status.
func (r *Reader) ContainerStatus(ctx context.Context, req *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error) {
	c, err := r.table.Container(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	resp := &runtimeapi.ContainerStatusResponse{Status: containerStatus(c.Now())}
	if req.GetVerbose() {
		resp.Info = r.infos.Container(ctx, c)
	}
	return resp, nil
}

// ListContainers lists the containers that the filter matches, the oldest first.
func (r *Reader) ListContainers(_ context.Context, req *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
	return &runtimeapi.ListContainersResponse{Containers: r.containers(req.GetFilter())}, nil
}

// StreamContainers sends the result of ListContainers in pieces.
func (r *Reader) StreamContainers(req *runtimeapi.StreamContainersRequest, stream grpc.ServerStreamingServer[runtimeapi.StreamContainersResponse]) error {
	return InChunks(r.containers(req.GetFilter()), func(part []*runtimeapi.Container) error {
		return stream.Send(&runtimeapi.StreamContainersResponse{Containers: part})
	})
}

func (r *Reader) containers(f *runtimeapi.ContainerFilter) []*runtimeapi.Container {
	var items []*runtimeapi.Container
	for _, c := range r.table.Containers() {
		now := c.Now()
		if f.GetState() != nil && f.GetState().GetState() != containerState(now) {
			continue
		}
		if c.matches(f.GetId(), f.GetPodSandboxId(), f.GetLabelSelector()) {
			items = append(items, containerItem(now))
		}
	}
	return items
}

// Running returns the running containers that the filter matches.
func (t *Table) Running(f *runtimeapi.ContainerStatsFilter) []*Container {
	var running []*Container
	for _, c := range t.Containers() {
		if c.Now().Running() && c.matches(f.GetId(), f.GetPodSandboxId(), f.GetLabelSelector()) {
			running = append(running, c)
		}
	}
	return running
}

// Ready returns the ready sandboxes that the filter matches.
func (t *Table) Ready(f *runtimeapi.PodSandboxStatsFilter) []*Sandbox {
	var ready []*Sandbox
	for _, s := range t.Sandboxes() {
		now := s.Now()
		if now.Ready && strings.HasPrefix(now.ID, f.GetId()) && matches(now.Config.GetLabels(), f.GetLabelSelector()) {
			ready = append(ready, s)
		}
	}
	return ready
}

// matches combines the fields of a filter with AND; ids may be shortened.
func (c *Container) matches(id, sandboxID string, labels map[string]string) bool {
	now := c.Now()
	return strings.HasPrefix(now.ID, id) && strings.HasPrefix(now.Sandbox.ID, sandboxID) && matches(now.Config.GetLabels(), labels)
}

// matches reports whether the labels include the whole selector.
func matches(labels, selector map[string]string) bool {
	for k, v := range selector {
		if got, ok := labels[k]; !ok || got != v {
			return false
		}
	}
	return true
}

// InChunks sends every item once, in pieces that fit into messages, and never an empty
// piece.
func InChunks[T proto.Message](items []T, send func([]T) error) error {
	for len(items) > 0 {
		n := 0
		for bytes := 0; n < min(len(items), chunk); n++ {
			if bytes += proto.Size(items[n]); bytes > chunkBytes && n > 0 {
				break
			}
		}
		if err := send(items[:n]); err != nil {
			return err
		}
		items = items[n:]
	}
	return nil
}
