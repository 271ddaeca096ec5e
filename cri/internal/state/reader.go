package state

import (
	"context"
	"strings"
	"time"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// chunk is how many items a message of a Stream call has: small enough for the
// message limit with large annotations, large enough to be quick.
const chunk = 200

// Reader answers the calls of the RuntimeService that only read. It asks nobody
// but the table.
type Reader struct{ table *Table }

// NewReader returns a reader of the table.
func NewReader(t *Table) *Reader { return &Reader{t} }

// GetContainerEvents sends its header once the subscription stands: every
// later change is in the stream.
func (r *Reader) GetContainerEvents(_ *runtimeapi.GetEventsRequest, stream grpc.ServerStreamingServer[runtimeapi.ContainerEventResponse]) error {
	return r.table.events.Serve(stream)
}

// PodSandboxStatus answers with the statuses of the containers, too.
func (r *Reader) PodSandboxStatus(_ context.Context, req *runtimeapi.PodSandboxStatusRequest) (*runtimeapi.PodSandboxStatusResponse, error) {
	s, err := r.table.Sandbox(req.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	r.table.mu.RLock()
	defer r.table.mu.RUnlock()
	now := s.Now()
	resp := &runtimeapi.PodSandboxStatusResponse{
		Status: sandboxStatus(now), ContainersStatuses: statusesOf(s), Timestamp: time.Now().UnixNano(),
	}
	if req.GetVerbose() {
		resp.Info = map[string]string{"dir": now.Dir, "state": string(now.State)}
	}
	return resp, nil
}

// ListPodSandbox lists the sandboxes that the filter matches, the oldest first.
func (r *Reader) ListPodSandbox(_ context.Context, req *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
	return &runtimeapi.ListPodSandboxResponse{Items: r.sandboxes(req.GetFilter())}, nil
}

// StreamPodSandboxes sends what ListPodSandbox answers, in pieces.
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

// ContainerStatus answers with the container's status.
func (r *Reader) ContainerStatus(_ context.Context, req *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error) {
	c, err := r.table.Container(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	now := c.Now()
	resp := &runtimeapi.ContainerStatusResponse{Status: containerStatus(now)}
	if req.GetVerbose() {
		resp.Info = map[string]string{"sandboxID": now.Sandbox.ID, "dir": now.Dir, "state": string(now.State)}
	}
	return resp, nil
}

// ListContainers lists the containers that the filter matches, the oldest first.
func (r *Reader) ListContainers(_ context.Context, req *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
	return &runtimeapi.ListContainersResponse{Containers: r.containers(req.GetFilter())}, nil
}

// StreamContainers sends what ListContainers answers, in pieces.
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

// matches combines the fields of a filter with AND; ids may be shortened.
func (c *Container) matches(id, sandboxID string, labels map[string]string) bool {
	now := c.Now()
	return strings.HasPrefix(now.ID, id) && strings.HasPrefix(now.Sandbox.ID, sandboxID) && matches(now.Config.GetLabels(), labels)
}

// matches reports whether every selector is among the labels.
func matches(labels, selector map[string]string) bool {
	for k, v := range selector {
		if got, ok := labels[k]; !ok || got != v {
			return false
		}
	}
	return true
}

// InChunks sends every item once, in pieces that fit in messages, and never an
// empty one.
func InChunks[T any](items []T, send func([]T) error) error {
	for len(items) > 0 {
		n := min(len(items), chunk)
		if err := send(items[:n]); err != nil {
			return err
		}
		items = items[n:]
	}
	return nil
}
