package cri_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri"
)

// subscribe returns what a subscriber gets.
func (n *node) subscribe() <-chan *runtimeapi.ContainerEventResponse {
	n.t.Helper()
	events, ready := make(chan *runtimeapi.ContainerEventResponse, 100), make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = n.Events(ctx, func() { close(ready) }, func(e *runtimeapi.ContainerEventResponse) { events <- e })
	}()
	n.t.Cleanup(func() { cancel(); <-done })
	<-ready
	return events
}

func TestEvents(t *testing.T) {
	f, rt := newFake()
	n := serve(t, rt, t.TempDir())
	events := n.subscribe()
	sb := n.sandbox("a")
	c := n.started(sb, "main")
	f.end(c, 7)
	n.awaitState(c, runtimeapi.ContainerState_CONTAINER_EXITED)
	if err := n.removeSandbox(sb); err != nil {
		t.Fatal(err)
	}
	names := map[string]string{sb: "sandbox", c: "container"}
	var got []string
	for range 8 {
		e := <-events
		got = append(got, fmt.Sprintf("%s %v of %d", names[e.ContainerId], e.ContainerEventType, len(e.ContainersStatuses)))
		if e.PodSandboxStatus.GetMetadata().GetUid() != "uid-a" || e.CreatedAt == 0 {
			t.Errorf("event without its sandbox or time: %v", e)
		}
		if e.ContainerId == c && e.ContainerEventType == runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT {
			if st := e.ContainersStatuses[0]; st.ExitCode != 7 || st.Reason != "Error" {
				t.Errorf("the stop says %v", st)
			}
		}
	}
	want := []string{
		"sandbox CONTAINER_CREATED_EVENT of 0", "sandbox CONTAINER_STARTED_EVENT of 0",
		"container CONTAINER_CREATED_EVENT of 1", "container CONTAINER_STARTED_EVENT of 1",
		"container CONTAINER_STOPPED_EVENT of 1",
		"sandbox CONTAINER_STOPPED_EVENT of 1",
		"container CONTAINER_DELETED_EVENT of 0",
		"sandbox CONTAINER_DELETED_EVENT of 0",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// An exit reaches a subscriber at once, and is on disk by then.
func TestExitLatency(t *testing.T) {
	f, rt := newFake()
	n := serve(t, rt, t.TempDir())
	sb := n.sandbox("a")
	const rounds = 20
	ids := make([]string, rounds)
	for i := range ids {
		ids[i] = n.started(sb, fmt.Sprint("c", i))
	}
	events := n.subscribe()
	var worst, sum time.Duration
	for _, id := range ids {
		start := time.Now()
		f.end(id, 0)
		if e := <-events; e.ContainerId != id {
			t.Fatalf("got %v", e)
		}
		took := time.Since(start)
		worst, sum = max(worst, took), sum+took
	}
	t.Logf("exit to subscriber: mean %v, worst %v", sum/rounds, worst)
	if sum/rounds > 50*time.Millisecond {
		t.Errorf("exit to subscriber: mean %v", sum/rounds)
	}
}

// Nobody waits for a subscriber that does not read; it is told that it missed
// something.
func TestSlowSubscriber(t *testing.T) {
	_, rt := newFake()
	rt.UpdateContainer = nil
	n := serve(t, rt, t.TempDir())
	stream, err := n.Runtime.GetContainerEvents(t.Context(), &runtimeapi.GetEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Header(); err != nil {
		t.Fatal(err)
	}
	// Large events fill the connection's window after a few dozen.
	big := sandboxConfig("big")
	big.Annotations = map[string]string{"filler": string(make([]byte, 64<<10))}
	_, err = n.Runtime.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: big})
	if err != nil {
		t.Fatal(err)
	}
	list, err := n.Runtime.ListPodSandbox(t.Context(), &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		t.Fatal(err)
	}
	sb := list.Items[0].Id
	for i := range 320 { // four events each
		id := n.started(sb, fmt.Sprint("c", i))
		if err := errors.Join(n.stopContainer(id, 0), n.removeContainer(id)); err != nil {
			t.Fatal(err)
		}
	}
	var got int
	for {
		if _, err = stream.Recv(); err != nil {
			break
		}
		got++
	}
	if !errors.Is(rpcError(err), cri.ErrExhausted) || got >= 1282 {
		t.Errorf("after %d events: %v", got, err)
	}
}

// A subscriber that asks for it gets what there is before what happens, and can
// tell whether it missed anything.
func TestSnapshotAndSequence(t *testing.T) {
	_, rt := newFake()
	n := serve(t, rt, t.TempDir())
	sb := n.sandbox("a")                                  // two events
	n.started(sb, "main")                                 // two
	if err := n.stopSandbox(n.sandbox("b")); err != nil { // three
		t.Fatal(err)
	}
	subscribe := func(keys ...string) (grpc.ServerStreamingClient[runtimeapi.ContainerEventResponse], metadata.MD) {
		ctx := metadata.AppendToOutgoingContext(t.Context(), keys...)
		stream, err := n.Runtime.GetContainerEvents(ctx, &runtimeapi.GetEventsRequest{})
		if err != nil {
			t.Fatal(err)
		}
		header, err := stream.Header()
		if err != nil {
			t.Fatal(err)
		}
		return stream, header
	}
	plain, header := subscribe()
	if header.Get("nodekit-cri-snapshot")[0] != "0" || header.Get("nodekit-cri-sequence")[0] != "7" {
		t.Errorf("header %v", header)
	}
	stream, header := subscribe("nodekit-cri-snapshot", "yes")
	if header.Get("nodekit-cri-snapshot")[0] != "2" || header.Get("nodekit-cri-sequence")[0] != "7" {
		t.Fatalf("header %v", header)
	}
	var got []string
	for range 2 {
		e, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%s %v %d", e.PodSandboxStatus.Metadata.Name, e.ContainerEventType, len(e.ContainersStatuses)))
	}
	if diff := cmp.Diff([]string{"a CONTAINER_STARTED_EVENT 1", "b CONTAINER_STOPPED_EVENT 0"}, got); diff != "" {
		t.Errorf("snapshot (-want +got):\n%s", diff)
	}
	n.container(sb, "next")
	for _, s := range []grpc.ServerStreamingClient[runtimeapi.ContainerEventResponse]{plain, stream} {
		if e, err := s.Recv(); err != nil || e.ContainerEventType != runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT || len(e.ContainersStatuses) != 2 {
			t.Errorf("after it: %v, %v", e, err)
		}
	}
	_, again := subscribe()
	if again.Get("nodekit-cri-sequence")[0] != "8" || again.Get("nodekit-cri-server")[0] != header.Get("nodekit-cri-server")[0] {
		t.Errorf("header %v, before it %v", again, header)
	}
}
