package oci_test

import (
	"fmt"
	"os"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/internal/protofill"
)

// TestOddRequests creates Pods with configurations in which some fields have values that
// no kubelet sends: what cannot work is answered as the request's fault, and leaves
// nothing behind.
func TestOddRequests(t *testing.T) {
	n := newNode(t)
	n.must(os.MkdirAll(n.dir+"/host/dir", 0o755))
	known := map[protoreflect.Name][]string{
		"name": {"main"}, "uid": {"u"}, "namespace": {"test"}, "image": {imageName}, "log_directory": {n.dir + "/logs/odd"}, "log_path": {"main.log"},
		"host_path": {n.dir + "/host", n.dir + "/host/dir", n.dir + "/none"}, "container_path": {"/c", "/c/d", "/etc", "/proc"}, "working_dir": {"/", "/none"},
		"key": {"K", "net.core.somaxconn"}, "value": {"1"}, "command": {"/podtool"}, "args": {"sleep", "forever"}, "hostname": {"pod"},
		"add_capabilities": {"NET_ADMIN", "ALL"}, "drop_capabilities": {"ALL"}, "cpuset_cpus": {"0"}, "page_size": {"2MB"}, "mount_options": {"noexec", "nodev"},
		"cgroup_parent": {""}, "localhost_ref": {n.dir + "/none"}, "masked_paths": {"/proc/kcore"}, "readonly_paths": {"/proc/sys"}, "permissions": {"rwm"},
	}
	for seed := range uint64(25) {
		fill := protofill.New(seed, n.dir, known)
		sandbox := &runtimeapi.PodSandboxConfig{
			Metadata: &runtimeapi.PodSandboxMetadata{Name: "odd", Namespace: "test", Uid: fmt.Sprint("u", seed)}, Hostname: "pod", LogDirectory: n.dir + "/logs/odd",
			Linux: &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{}},
		}
		for range fill.IntN(3) {
			fill.Change(sandbox)
		}
		if l := sandbox.GetLinux(); l != nil {
			l.CgroupParent = "" // it is the kubelet's to make, and to remove
		}
		id := n.ranOddly(sandbox)
		if id == "" {
			continue
		}
		for i := range 8 {
			config := &runtimeapi.ContainerConfig{
				Metadata: &runtimeapi.ContainerMetadata{Name: fmt.Sprint("c", i)}, Image: &runtimeapi.ImageSpec{Image: imageName}, Args: []string{"sleep", "forever"},
				LogPath: "main.log", Mounts: []*runtimeapi.Mount{{ContainerPath: "/c", HostPath: n.dir + "/host"}},
				Linux: &runtimeapi.LinuxContainerConfig{Resources: &runtimeapi.LinuxContainerResources{}, SecurityContext: &runtimeapi.LinuxContainerSecurityContext{}},
			}
			for range 1 + fill.IntN(4) { // what is deep inside is rarely reached from the top
				parts := []proto.Message{config, config.Mounts[0], config.Linux.Resources, config.Linux.SecurityContext}
				fill.Change(parts[fill.IntN(len(parts))])
				if len(config.GetMounts()) == 0 || config.GetLinux().GetResources() == nil || config.GetLinux().GetSecurityContext() == nil {
					break
				}
			}
			n.createdOddly(id, sandbox, config)
		}
		n.removeSandbox(id)
	}
}

// blamed fails the test for an error that does not blame the request.
func (n *node) blamed(call string, err error, request any) {
	n.t.Helper()
	switch status.Code(err) {
	case codes.OK, codes.InvalidArgument, codes.NotFound, codes.AlreadyExists, codes.FailedPrecondition, codes.Unimplemented:
	default:
		n.t.Errorf("%s: %.400v\n%.1500v", call, err, request)
	}
}

func (n *node) ranOddly(config *runtimeapi.PodSandboxConfig) (id string) {
	n.t.Helper()
	resp, err := n.rs.RunPodSandbox(n.t.Context(), &runtimeapi.RunPodSandboxRequest{Config: config})
	n.blamed("RunPodSandbox", err, config)
	return resp.GetPodSandboxId()
}

func (n *node) createdOddly(sandbox string, pod *runtimeapi.PodSandboxConfig, config *runtimeapi.ContainerConfig) {
	n.t.Helper()
	resp, err := n.rs.CreateContainer(n.t.Context(), &runtimeapi.CreateContainerRequest{PodSandboxId: sandbox, SandboxConfig: pod, Config: config})
	n.blamed("CreateContainer", err, config)
	if err != nil {
		return
	}
	_, err = n.rs.StartContainer(n.t.Context(), &runtimeapi.StartContainerRequest{ContainerId: resp.GetContainerId()})
	if status.Code(err) == codes.Unknown {
		n.t.Errorf("StartContainer: %.400v\n%.1500v", err, config)
	} else if err != nil {
		n.t.Logf("StartContainer: %.200v", err)
	}
}
