// Command cri-hello is a container runtime: its containers are processes of the host.
// Copy this folder, rename hello, and replace the functions with what your runtime does.
package main

import (
	"context"
	"errors"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri"
)

func main() {
	// What a container's process is: its program here, or the monitor of a virtual machine.
	host := cri.NewProcesses((*cri.Container).HostCommand)
	sandbox := func(context.Context, *cri.Sandbox) error { return nil }     // nothing to set up
	container := func(context.Context, *cri.Container) error { return nil } // nor to prepare
	cri.Main(&cri.Runtime{
		Name: "cri-hello", Version: "0.1.0", // seen in kubectl get node -o wide
		CgroupDriver: runtimeapi.CgroupDriver_CGROUPFS, // what the kubelet is to use, too
		RunSandbox:   sandbox, StopSandbox: sandbox, RemoveSandbox: sandbox,
		CreateContainer: container, RemoveContainer: container,
		StartContainer: host.Start, StopContainer: host.Stop,
		Watch: host.Watch, Recover: host.Recover,
		NetworkReady: func(context.Context) error { return errors.New("there is only the host's network") },
		Images:       &cri.Images{Status: image, FsInfo: fsInfo},
	})
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
