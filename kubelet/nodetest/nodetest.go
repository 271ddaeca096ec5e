// Package nodetest runs a node inside go test: a real kubelet with real containers, a
// network, storage and devices, for the duration of a test.
//
//	func TestMyDriver(t *testing.T) {
//		n := nodetest.Start(t, &node.Config{
//			Plugins: []node.Plugin{{Path: nodetest.Build(t, ".")}},
//			Images:  []string{nodetest.Image(t, "./cmd/app", "example.com/app:latest")},
//		})
//		n.Apply(manifest)
//		n.WaitReady("my-pod")
//	}
//
// It needs Linux, root and an OCI runtime; `nodekit doctor` lists what is missing. Any
// number of tests can have their own nodes at the same time.
package nodetest

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodekit-project/nodekit/internal/call"
	"github.com/nodekit-project/nodekit/kubelet/node"
)

// patience bounds each wait. A node needs less for anything that will happen at all.
const patience = time.Minute

// Node is a node that belongs to a test. A method that cannot do what it says fails the
// test.
type Node struct {
	*node.Node
	Config node.Config // with the directories in use

	t testing.TB
}

// Start starts a node and destroys it when the test ends; the test fails if anything
// could not be removed. cfg may be nil. Root, Run and Manifests default to temporary
// directories, the Keeper is built, and the node's warnings go to the test's log.
func Start(t testing.TB, cfg *node.Config) *Node {
	t.Helper()
	n := &Node{t: t}
	if cfg != nil {
		n.Config = *cfg
	}
	n.complete()
	n.start()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := n.Destroy(ctx); err != nil {
			t.Errorf("destroying the node: %v", err)
		}
	})
	return n
}

func (n *Node) complete() {
	base := ShortDir(n.t)
	for name, dir := range map[string]*string{"root": &n.Config.Root, "run": &n.Config.Run, "manifests": &n.Config.Manifests} {
		if *dir == "" {
			*dir = filepath.Join(base, name)
		}
		if err := os.MkdirAll(*dir, 0o711); err != nil {
			n.t.Fatal(err)
		}
	}
	if n.Config.Keeper == "" && n.Config.RuntimeEndpoint == "" {
		n.Config.Keeper = Build(n.t, "github.com/nodekit-project/nodekit/cmd/keeper")
	}
	if n.Config.Logger == nil {
		n.Config.Logger = slog.New(slog.NewTextHandler(n.t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	}
}

func (n *Node) start() {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), patience)
	defer cancel()
	started, err := node.Start(ctx, n.Config)
	if err != nil {
		n.t.Fatal(err)
	}
	n.Node = started
}

// Restart stops the node, as an upgrade would, and starts it again. Pods keep running.
func (n *Node) Restart() {
	n.t.Helper()
	if err := n.Stop(); err != nil {
		n.t.Fatal(err)
	}
	n.start()
}

// Apply creates the objects of a manifest, YAML or JSON.
func (n *Node) Apply(text string) {
	n.t.Helper()
	if _, err := n.Node.Apply(n.t.Context(), []byte(text)); err != nil {
		n.t.Fatal(err)
	}
}

// Write puts a manifest file into the node's manifest directory; empty text
// removes it.
func (n *Node) Write(file, text string) {
	n.t.Helper()
	path := filepath.Join(n.Config.Manifests, file)
	var err error
	if text == "" {
		err = os.Remove(path)
	} else {
		err = errors.Join(os.WriteFile(path+"~", []byte(text), 0o600), os.Rename(path+"~", path))
	}
	if err != nil {
		n.t.Fatal(err)
	}
}

// WaitReady waits until the Pod in the default namespace is Ready.
func (n *Node) WaitReady(name string) *v1.Pod { return n.WaitPod(name, node.Ready) }

// WaitPhase waits until the Pod is in the phase.
func (n *Node) WaitPhase(name string, phase v1.PodPhase) *v1.Pod {
	return n.WaitPod(name, func(p *v1.Pod) bool { return p.Status.Phase == phase })
}

// WaitPod waits until wanted holds for the Pod in the default namespace.
func (n *Node) WaitPod(name string, wanted func(*v1.Pod) bool) *v1.Pod {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), patience)
	defer cancel()
	var last *v1.Pod
	p, err := n.Wait(ctx, types.NamespacedName{Namespace: v1.NamespaceDefault, Name: name}, func(p *v1.Pod) bool {
		last = p
		return wanted(p)
	})
	if err != nil {
		n.t.Fatalf("%v; its status was: %+v", err, statusOf(last))
	}
	return p
}

func statusOf(p *v1.Pod) any {
	if p == nil {
		return "none: there was no such Pod"
	}
	return p.Status
}

// Log waits until the container has ended, and returns its output.
func (n *Node) Log(pod, container string) string {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), patience)
	defer cancel()
	var out bytes.Buffer
	if err := n.Logs(ctx, call.Pod{Namespace: v1.NamespaceDefault, Name: pod}, container, &out); err != nil {
		n.t.Fatal(err)
	}
	return out.String()
}
