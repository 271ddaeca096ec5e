package kubelet_test

import (
	"context"
	"net"
	"net/http"
	"path/filepath"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"

	"github.com/nodekit-project/nodekit/kubelet/api"
	"github.com/nodekit-project/nodekit/kubelet/api/identity"
	"github.com/nodekit-project/nodekit/kubelet/api/store"
	"github.com/nodekit-project/nodekit/kubelet/object"
)

// testAPI is the Kubernetes API that a kubelet under test works through. It
// outlives the kubelet.
type testAPI struct {
	store  *store.Store
	config *rest.Config
}

func newAPI(t *testing.T, dir string) *testAPI {
	t.Helper()
	s, err := store.Open(filepath.Join(dir, "objects.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	id, err := identity.Open(filepath.Join(dir, "api"), "node")
	if err != nil {
		t.Fatal(err)
	}
	l, err := identity.Listen(filepath.Join(dir, "api"))
	if err != nil {
		t.Fatal(err)
	}
	serverTLS, err := id.ServerTLS()
	if err != nil {
		t.Fatal(err)
	}
	config, err := id.Client(l.Addr().String(), "system:node:node", "system:nodes")
	if err != nil {
		t.Fatal(err)
	}
	socket := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(dir, "run", "nodekit.sock"))
	}}
	server, err := api.New(api.Config{Store: s, NodeName: "node", Kubelet: socket, TLS: serverTLS})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serving the API: %v", err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return &testAPI{s, config}
}

// pods returns all Pods.
func (a *testAPI) pods() []*v1.Pod {
	kind, err := object.KindOf(&v1.Pod{})
	if err != nil {
		panic(err)
	}
	list, _ := a.store.List(kind, "")
	pods := make([]*v1.Pod, len(list))
	for i, o := range list {
		pods[i] = o.(*v1.Pod)
	}
	return pods
}
