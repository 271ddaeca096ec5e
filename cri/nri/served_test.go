package nri_test

import (
	"context"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/nri/pkg/api"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri"
	"github.com/nodekit-project/nodekit/cri/client"
	"github.com/nodekit-project/nodekit/cri/nri"
)

// node is an author whose runtime the SDK serves, and a client of it.
type node struct {
	*author
	*client.Client
	t      *testing.T
	socket string
}

// serve serves the author until the test ends. tune may say what it calls.
func serve(t *testing.T, tune func(*author)) *node {
	t.Helper()
	dir, err := os.MkdirTemp("", "nri") // short: see unix(7)
	do(t, err)
	n := &node{t: t, socket: filepath.Join(dir, "nri.sock")}
	n.author = newAuthor(t, nri.Config{Socket: n.socket})
	if tune != nil {
		tune(n.author)
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	endpoint := filepath.Join(dir, "cri.sock")
	go func() { served <- cri.Serve(ctx, endpoint, n.rt, &cri.Options{StateDir: filepath.Join(dir, "state")}) }()
	n.Client, err = client.Dial(endpoint, nil)
	do(t, err)
	t.Cleanup(func() {
		do(t, n.Client.Close())
		stop()
		do(t, <-served, os.RemoveAll(dir))
	})
	wait, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, err = n.Wait(wait)
	do(t, err)
	return n
}

func (n *node) sandbox(name string) string {
	n.t.Helper()
	resp, err := n.Runtime.RunPodSandbox(n.t.Context(), &runtimeapi.RunPodSandboxRequest{Config: &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: name, Namespace: "default", Uid: "uid-" + name},
	}})
	do(n.t, err)
	return resp.GetPodSandboxId()
}

func (n *node) create(sandbox, name string) (string, error) {
	resp, err := n.Runtime.CreateContainer(n.t.Context(), &runtimeapi.CreateContainerRequest{PodSandboxId: sandbox, Config: &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: name}, Image: &runtimeapi.ImageSpec{Image: "any"},
	}})
	return resp.GetContainerId(), err
}

// hasCPUs waits until the status of a container has them.
func (n *node) hasCPUs(id, want string) {
	n.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		resp, err := n.Runtime.ContainerStatus(n.t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: id})
		do(n.t, err)
		got := resp.GetStatus().GetResources().GetLinux().GetCpusetCpus()
		if got == want {
			return
		}
		if time.Now().After(deadline) {
			n.t.Fatalf("the container has the cpus %q, want %q", got, want)
		}
	}
}

func wantsCPUs(id, cpus string) *api.ContainerUpdate {
	u := &api.ContainerUpdate{}
	u.SetContainerId(id)
	u.SetLinuxCPUSetCPUs(cpus)
	return u
}

// TestServedLimits: the status of a container has what plugins want, whichever way they
// say it.
func TestServedLimits(t *testing.T) {
	n := serve(t, nil)
	p := (&plugin{adjust: &api.ContainerAdjustment{}}).connect(t, n.socket)
	p.adjust.SetLinuxCPUSetCPUs("1")
	sb := n.sandbox("a")
	first, err := n.create(sb, "first")
	do(t, err)
	n.hasCPUs(first, "1")
	p.update = []*api.ContainerUpdate{wantsCPUs(first, "2")}
	second, err := n.create(sb, "second") // in the same Pod
	do(t, err)
	n.hasCPUs(first, "2")
	p.update = []*api.ContainerUpdate{wantsCPUs(second, "3"), wantsCPUs(first, "4")}
	_, err = n.Runtime.UpdateContainerResources(t.Context(), &runtimeapi.UpdateContainerResourcesRequest{ContainerId: second, Linux: &runtimeapi.LinuxContainerResources{CpusetCpus: "9"}})
	do(t, err)
	n.hasCPUs(second, "3")
	n.hasCPUs(first, "4")
	failed, err := p.stub.UpdateContainers([]*api.ContainerUpdate{wantsCPUs(first, "5")})
	if err != nil || len(failed) > 0 {
		t.Errorf("UpdateContainers: %v, %v", failed, err)
	}
	n.hasCPUs(first, "5")
}

// TestServedDraft: what is wanted of a container that is being made is done when it is
// there, and keeps nobody else from being made.
func TestServedDraft(t *testing.T) {
	inside, goOn := make(chan string, 1), make(chan struct{})
	var held atomic.Bool
	n := serve(t, func(a *author) {
		a.made = func(id string) {
			if !held.Swap(true) {
				inside <- id
				<-goOn
			}
		}
	})
	p := (&plugin{}).connect(t, n.socket)
	one, other := n.sandbox("one"), n.sandbox("other")
	made := make(chan error, 1)
	go func() {
		_, err := n.create(one, "draft")
		made <- err
	}()
	draft := <-inside
	p.update = []*api.ContainerUpdate{wantsCPUs(draft, "1")}
	if _, err := n.create(other, "whole"); err != nil {
		t.Errorf("a container beside one that is being made: %v", err)
	}
	failed, err := p.stub.UpdateContainers([]*api.ContainerUpdate{wantsCPUs(draft, "2")})
	if err != nil || len(failed) > 0 {
		t.Errorf("UpdateContainers: %v, %v", failed, err)
	}
	if got := n.limitsOf(draft); got != nil {
		t.Errorf("limits of a container that is being made were changed to %v", got)
	}
	close(goOn)
	do(t, <-made)
	n.hasCPUs(draft, "2")
}
