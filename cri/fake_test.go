package cri_test

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri"
	"github.com/nodekit-project/nodekit/cri/client"
)

// fake is a runtime whose containers are entries in a map. A test replaces
// the functions that it wants to behave otherwise.
type fake struct {
	mu    sync.Mutex
	calls []string
	exits chan exit
}

type exit struct {
	id string
	e  cri.Exit
}

func (f *fake) note(what string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, what)
}

func (f *fake) noted() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.calls...)
}

// end lets a container end by itself.
func (f *fake) end(id string, code int32) { f.exits <- exit{id, cri.Exit{Code: code, At: time.Now()}} }

func newFake() (*fake, *cri.Runtime) {
	f := &fake{exits: make(chan exit, 100)}
	rt := &cri.Runtime{
		Name: "fake", Version: "1", Handlers: []cri.Handler{{Name: "special"}},
		RunSandbox: func(_ context.Context, s *cri.Sandbox) error {
			f.note("run " + s.Config.Metadata.Name)
			s.IPs = []string{"10.0.0.1", "fd00::1"}
			return os.WriteFile(filepath.Join(s.Dir, "file"), nil, 0o600)
		},
		StopSandbox:   func(_ context.Context, s *cri.Sandbox) error { f.note("stop " + s.Config.Metadata.Name); return nil },
		RemoveSandbox: func(_ context.Context, s *cri.Sandbox) error { f.note("remove " + s.Config.Metadata.Name); return nil },
		CreateContainer: func(_ context.Context, c *cri.Container) error {
			f.note("create " + c.Config.Metadata.Name)
			return nil
		},
		StartContainer: func(_ context.Context, c *cri.Container) error {
			f.note("start " + c.Config.Metadata.Name)
			return nil
		},
		StopContainer: func(_ context.Context, c *cri.Container, _ time.Duration) error {
			f.note("kill " + c.Config.Metadata.Name)
			f.end(c.ID, 137)
			return nil
		},
		RemoveContainer: func(_ context.Context, c *cri.Container) error {
			f.note("delete " + c.Config.Metadata.Name)
			return nil
		},
		Watch: func(ctx context.Context, ended func(string, cri.Exit)) error {
			for {
				select {
				case <-ctx.Done():
					return nil
				case e := <-f.exits:
					ended(e.id, e.e)
				}
			}
		},
	}
	return f, rt
}

// node is a served runtime and its client.
type node struct {
	*client.Client
	t    testing.TB
	dir  string
	stop func()

	endpoint string
}

// serve serves rt with the state in dir until the test ends or stop is called.
func serve(t testing.TB, rt *cri.Runtime, dir string) *node {
	t.Helper()
	sockets, err := os.MkdirTemp("", "cri") // short: see unix(7)
	if err != nil {
		t.Fatal(err)
	}
	endpoint := filepath.Join(sockets, "s")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	n := &node{t: t, dir: dir, endpoint: endpoint}
	go func() {
		done <- cri.Serve(ctx, endpoint, rt, &cri.Options{StateDir: dir})
	}()
	if n.Client, err = client.Dial(endpoint, nil); err != nil {
		t.Fatal(err)
	}
	n.stop = sync.OnceFunc(func() {
		n.Close()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		os.RemoveAll(sockets)
	})
	t.Cleanup(n.stop)
	wait, cancelWait := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancelWait()
	if _, err := n.Wait(wait); err != nil {
		t.Fatal(err)
	}
	return n
}

func sandboxConfig(name string) *runtimeapi.PodSandboxConfig {
	return &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: name, Namespace: "default", Uid: "uid-" + name},
		Labels:   map[string]string{"pod": name},
	}
}

func (n *node) sandbox(name string) string {
	n.t.Helper()
	resp, err := n.Runtime.RunPodSandbox(n.t.Context(), &runtimeapi.RunPodSandboxRequest{Config: sandboxConfig(name)})
	if err != nil {
		n.t.Fatal(err)
	}
	return resp.PodSandboxId
}

func createRequest(sandbox, name string) *runtimeapi.CreateContainerRequest {
	return &runtimeapi.CreateContainerRequest{PodSandboxId: sandbox, Config: &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: name},
		Image:    &runtimeapi.ImageSpec{Image: "any"},
		Labels:   map[string]string{"container": name},
	}}
}

func (n *node) container(sandbox, name string) string {
	n.t.Helper()
	resp, err := n.Runtime.CreateContainer(n.t.Context(), createRequest(sandbox, name))
	if err != nil {
		n.t.Fatal(err)
	}
	return resp.ContainerId
}

// started creates and starts a container.
func (n *node) started(sandbox, name string) string {
	n.t.Helper()
	id := n.container(sandbox, name)
	if err := n.start(id); err != nil {
		n.t.Fatal(err)
	}
	return id
}

func (n *node) start(id string) error {
	_, err := n.Runtime.StartContainer(n.t.Context(), &runtimeapi.StartContainerRequest{ContainerId: id})
	return err
}

func (n *node) stopContainer(id string, grace int64) error {
	_, err := n.Runtime.StopContainer(n.t.Context(), &runtimeapi.StopContainerRequest{ContainerId: id, Timeout: grace})
	return err
}

func (n *node) removeContainer(id string) error {
	_, err := n.Runtime.RemoveContainer(n.t.Context(), &runtimeapi.RemoveContainerRequest{ContainerId: id})
	return err
}

func (n *node) stopSandbox(id string) error {
	_, err := n.Runtime.StopPodSandbox(n.t.Context(), &runtimeapi.StopPodSandboxRequest{PodSandboxId: id})
	return err
}

func (n *node) removeSandbox(id string) error {
	_, err := n.Runtime.RemovePodSandbox(n.t.Context(), &runtimeapi.RemovePodSandboxRequest{PodSandboxId: id})
	return err
}

func (n *node) status(id string) *runtimeapi.ContainerStatus {
	n.t.Helper()
	resp, err := n.Runtime.ContainerStatus(n.t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: id})
	if err != nil {
		n.t.Fatal(err)
	}
	return resp.Status
}

func (n *node) sandboxStatus(id string) *runtimeapi.PodSandboxStatusResponse {
	n.t.Helper()
	resp, err := n.Runtime.PodSandboxStatus(n.t.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: id})
	if err != nil {
		n.t.Fatal(err)
	}
	return resp
}

// empty fails the test when anything is left in the state directory.
func (n *node) empty() {
	n.t.Helper()
	for _, sub := range []string{"sandboxes", "containers", "dirs"} {
		left, err := os.ReadDir(filepath.Join(n.dir, sub))
		if err != nil {
			n.t.Fatal(err)
		}
		for _, e := range left {
			n.t.Errorf("left behind: %s/%s", sub, e.Name())
		}
	}
}

// awaitState fails the test unless the container comes to the state soon.
func (n *node) awaitState(id string, want runtimeapi.ContainerState) *runtimeapi.ContainerStatus {
	n.t.Helper()
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		if st := n.status(id); st.State == want {
			return st
		} else if time.Now().After(end) {
			n.t.Fatalf("container is %v, want %v", st.State, want)
		}
	}
}
