package cri

import (
	"context"
	"strings"
	"time"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// streamChunk is how many items a message of a Stream call has: small enough
// for the message limit with large annotations, large enough to be quick.
const streamChunk = 200

// PodSandboxStatus answers from memory, with the statuses of the containers.
func (s *server) PodSandboxStatus(_ context.Context, req *runtimeapi.PodSandboxStatusRequest) (*runtimeapi.PodSandboxStatusResponse, error) {
	sb, err := s.index.sandbox(req.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	if sb == nil {
		return nil, ErrNotFound.Errorf("sandbox %q: not found", req.GetPodSandboxId())
	}
	s.index.mu.RLock()
	defer s.index.mu.RUnlock()
	cur := sb.cur.Load()
	resp := &runtimeapi.PodSandboxStatusResponse{
		Status: cur.status(), ContainersStatuses: statusesOf(sb), Timestamp: time.Now().UnixNano(),
	}
	if req.GetVerbose() {
		resp.Info = map[string]string{"dir": cur.Dir, "state": string(cur.State)}
	}
	return resp, nil
}

// ListPodSandbox answers from memory.
func (s *server) ListPodSandbox(_ context.Context, req *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
	return &runtimeapi.ListPodSandboxResponse{Items: s.listSandboxes(req.GetFilter())}, nil
}

// StreamPodSandboxes sends what ListPodSandbox answers, in pieces.
func (s *server) StreamPodSandboxes(req *runtimeapi.StreamPodSandboxesRequest, stream grpc.ServerStreamingServer[runtimeapi.StreamPodSandboxesResponse]) error {
	return inChunks(s.listSandboxes(req.GetFilter()), func(part []*runtimeapi.PodSandbox) error {
		return stream.Send(&runtimeapi.StreamPodSandboxesResponse{PodSandboxes: part})
	})
}

func (s *server) listSandboxes(f *runtimeapi.PodSandboxFilter) []*runtimeapi.PodSandbox {
	var items []*runtimeapi.PodSandbox
	for _, sb := range s.index.allSandboxes() {
		if f.GetState() != nil && f.GetState().GetState() != sb.state() {
			continue
		}
		if strings.HasPrefix(sb.ID, f.GetId()) && matches(sb.Config.GetLabels(), f.GetLabelSelector()) {
			items = append(items, sb.item())
		}
	}
	return items
}

// ContainerStatus answers from memory.
func (s *server) ContainerStatus(_ context.Context, req *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error) {
	c, err := s.mustContainer(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	cur := c.cur.Load()
	resp := &runtimeapi.ContainerStatusResponse{Status: cur.status()}
	if req.GetVerbose() {
		resp.Info = map[string]string{"sandboxID": cur.Sandbox.ID, "dir": cur.Dir, "state": string(cur.State)}
	}
	return resp, nil
}

// ListContainers answers from memory.
func (s *server) ListContainers(_ context.Context, req *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
	return &runtimeapi.ListContainersResponse{Containers: s.listContainers(req.GetFilter())}, nil
}

// StreamContainers sends what ListContainers answers, in pieces.
func (s *server) StreamContainers(req *runtimeapi.StreamContainersRequest, stream grpc.ServerStreamingServer[runtimeapi.StreamContainersResponse]) error {
	return inChunks(s.listContainers(req.GetFilter()), func(part []*runtimeapi.Container) error {
		return stream.Send(&runtimeapi.StreamContainersResponse{Containers: part})
	})
}

func (s *server) listContainers(f *runtimeapi.ContainerFilter) []*runtimeapi.Container {
	var items []*runtimeapi.Container
	for _, c := range s.index.allContainers() {
		if f.GetState() != nil && f.GetState().GetState() != c.state() {
			continue
		}
		if strings.HasPrefix(c.ID, f.GetId()) && strings.HasPrefix(c.Sandbox.ID, f.GetPodSandboxId()) &&
			matches(c.Config.GetLabels(), f.GetLabelSelector()) {
			items = append(items, c.item())
		}
	}
	return items
}

// inChunks sends every item once, never an empty message.
func inChunks[T any](items []T, send func([]T) error) error {
	for len(items) > 0 {
		n := min(len(items), streamChunk)
		if err := send(items[:n]); err != nil {
			return err
		}
		items = items[n:]
	}
	return nil
}
