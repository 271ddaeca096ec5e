// Command cri-hello is a container runtime: its containers are processes of the host.
// Copy this folder, rename hello, and replace the functions with what your runtime does.
package main

import (
	"context"
	"errors"
	"os/exec"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri"
)

func main() {
	host := cri.NewProcesses(command)
	sandbox := func(context.Context, *cri.Sandbox) error { return nil }     // nothing to set up
	container := func(context.Context, *cri.Container) error { return nil } // nor to prepare
	cri.Main(&cri.Runtime{
		Name: "cri-hello", Version: "0.1.0", // seen in kubectl get node -o wide
		RunSandbox: sandbox, StopSandbox: sandbox, RemoveSandbox: sandbox,
		CreateContainer: container, RemoveContainer: container,
		StartContainer: host.Start, StopContainer: host.Stop,
		Watch: host.Watch, Recover: host.Recover,
		NetworkReady: func(context.Context) error { return errors.New("hello has the host's network only") },
		Images:       &cri.Images{Status: image, FsInfo: fsInfo},
	})
}

// command says what a container's process is: a virtual machine, or the program.
func command(c *cri.Container) (*exec.Cmd, error) {
	argv := append(c.Config.Command, c.Config.Args...)
	if len(argv) == 0 {
		return nil, cri.ErrInvalid.Errorf("container %q: no command, and images have none here", c.ID)
	}
	return exec.Command(argv[0], argv[1:]...), nil
}

// image knows the one image: the host. Add List, Pull and Remove for real ones.
func image(_ context.Context, spec *runtimeapi.ImageSpec) (*runtimeapi.Image, error) {
	host := &runtimeapi.Image{Id: "host", RepoTags: []string{"host:latest"}, Size: 1}
	return map[string]*runtimeapi.Image{"host": host, "host:latest": host}[spec.Image], nil // nil is not present
}

// fsInfo reports the images' file system, which the kubelet asks for at start.
func fsInfo(context.Context) (*runtimeapi.FilesystemUsage, error) {
	return &runtimeapi.FilesystemUsage{Timestamp: time.Now().UnixNano(), FsId: &runtimeapi.FilesystemIdentifier{Mountpoint: "/"}}, nil
}
