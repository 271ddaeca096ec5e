package kubelet

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"k8s.io/client-go/rest"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	criclient "github.com/nodekit-project/nodekit/cri/client"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/kubelet/client"
)

// starting answers to its version and to nothing else.
type starting struct {
	runtimeapi.RuntimeServiceClient
	asked atomic.Int32
}

func (*starting) Version(context.Context, *runtimeapi.VersionRequest, ...grpc.CallOption) (*runtimeapi.VersionResponse, error) {
	return &runtimeapi.VersionResponse{}, nil
}

func (s *starting) RuntimeConfig(context.Context, *runtimeapi.RuntimeConfigRequest, ...grpc.CallOption) (*runtimeapi.RuntimeConfigResponse, error) {
	s.asked.Add(1)
	return nil, fault.Unavailable.Errorf("not yet")
}

// unready is a runtime that says for a while that it is not ready.
type unready struct {
	runtimeapi.RuntimeServiceClient
	answers []*runtimeapi.StatusResponse // in turn, the last for ever; nil fails
	asked   int
}

func (u *unready) Status(context.Context, *runtimeapi.StatusRequest, ...grpc.CallOption) (*runtimeapi.StatusResponse, error) {
	answer := u.answers[min(u.asked, len(u.answers)-1)]
	u.asked++
	if answer == nil {
		return nil, fault.Internal.Errorf("the plugins are still being loaded")
	}
	return answer, nil
}

// TestReady has a runtime that answers and is not ready: no Pod may be started before
// it says that it is. Its network is no reason to wait, a Pod may need none.
func TestReady(t *testing.T) {
	says := func(runtime, network bool) *runtimeapi.StatusResponse {
		return &runtimeapi.StatusResponse{Status: &runtimeapi.RuntimeStatus{Conditions: []*runtimeapi.RuntimeCondition{
			{Type: runtimeapi.RuntimeReady, Status: runtime}, {Type: runtimeapi.NetworkReady, Status: network},
		}}}
	}
	synctest.Test(t, func(t *testing.T) {
		runtime := &unready{answers: []*runtimeapi.StatusResponse{nil, says(false, true), says(false, true), says(true, false)}}
		k := &Kubelet{cri: &criclient.Client{Runtime: runtime}, config: Config{Logger: slog.New(slog.DiscardHandler)}}
		if err := k.awaitReady(t.Context()); err != nil {
			t.Fatal(err)
		}
		if runtime.asked != len(runtime.answers) {
			t.Errorf("ready after %d answers, want %d", runtime.asked, len(runtime.answers))
		}
	})
}

// nobody is an API that is away.
type nobody struct{ asked atomic.Int32 }

func (n *nobody) RoundTrip(*http.Request) (*http.Response, error) {
	n.asked.Add(1)
	return nil, errors.New("nobody listens")
}

// TestPatience has a runtime and an API that do not answer for ten minutes: both
// are asked again, soon at first and seldom in the end.
func TestPatience(t *testing.T) {
	for name, wait := range map[string]func(context.Context, *Kubelet) error{
		"runtime": func(ctx context.Context, k *Kubelet) error { _, err := k.meet(ctx); return err },
		"API":     func(ctx context.Context, k *Kubelet) error { _, err := k.listPods(ctx); return err },
	} {
		synctest.Test(t, func(t *testing.T) {
			runtime, api := &starting{}, &nobody{}
			c, err := client.New(&rest.Config{Host: "http://api.test", Transport: api}, nil)
			if err != nil {
				t.Fatal(err)
			}
			k := &Kubelet{client: c, cri: &criclient.Client{Runtime: runtime}, config: Config{NodeName: "node", Logger: slog.New(slog.DiscardHandler)}}
			asked := func() int32 { return runtime.asked.Load() + api.asked.Load() }
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
			defer cancel()
			done := make(chan error, 1)
			go func() { done <- wait(ctx, k) }()
			time.Sleep(time.Second)
			synctest.Wait()
			if n := asked(); n < 3 || n > 10 {
				t.Errorf("%s: asked %d times in the first second", name, n)
			}
			if err := <-done; err == nil {
				t.Errorf("%s: no error", name)
			}
			if n := asked(); n < 100 || n > 700 {
				t.Errorf("%s: asked %d times in ten minutes", name, n)
			}
		})
	}
}
