package cri_test

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"testing"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri"
)

// TestAttachWithoutStdin: who does not ask for standard input has none, by SPDY and by
// WebSocket: one that has ended would end the container's where it has StdinOnce.
func TestAttachWithoutStdin(t *testing.T) {
	_, rt := newFake()
	inputs := make(chan io.Reader, 1)
	rt.Attach = func(_ context.Context, _ *cri.Container, s cri.Streams) error {
		inputs <- s.Stdin
		_, err := io.WriteString(s.Stdout, "out")
		return err
	}
	n := serve(t, rt, t.TempDir())
	id := n.started(n.sandbox("a"), "main")
	for name, dial := range map[string]func(*url.URL) (remotecommand.Executor, error){
		"SPDY": func(u *url.URL) (remotecommand.Executor, error) {
			return remotecommand.NewSPDYExecutor(&rest.Config{}, http.MethodPost, u)
		},
		"WebSocket": func(u *url.URL) (remotecommand.Executor, error) {
			return remotecommand.NewWebSocketExecutorForProtocols(&rest.Config{}, http.MethodGet, u.String(), "v4.channel.k8s.io")
		},
	} {
		resp, err := n.Runtime.Attach(t.Context(), &runtimeapi.AttachRequest{ContainerId: id, Stdout: true})
		if err != nil {
			t.Fatal(err)
		}
		u, err := url.Parse(resp.Url)
		if err != nil {
			t.Fatal(err)
		}
		ex, err := dial(u)
		if err != nil {
			t.Fatal(err)
		}
		if err := ex.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdout: io.Discard}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if in := <-inputs; in != nil {
			t.Errorf("%s: there is an input", name)
		}
	}
}
