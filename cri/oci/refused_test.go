package oci_test

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestRefusedAtCreation: a request that could never start is refused when the container
// is created; one just within the limits starts.
func TestRefusedAtCreation(t *testing.T) {
	n := newNode(t)
	sandbox, cfg := n.sandbox("refused", nil)
	device := func(host, path, permissions string) *runtimeapi.Device {
		return &runtimeapi.Device{HostPath: host, ContainerPath: path, Permissions: permissions}
	}
	quota := func(us int64) func(*runtimeapi.ContainerConfig) {
		return func(c *runtimeapi.ContainerConfig) {
			c.Linux.Resources = &runtimeapi.LinuxContainerResources{CpuPeriod: 100000, CpuQuota: us}
		}
	}
	groups := func(count int64) func(*runtimeapi.ContainerConfig) {
		return func(c *runtimeapi.ContainerConfig) {
			for g := range count {
				c.Linux.SecurityContext.SupplementalGroups = append(c.Linux.SecurityContext.SupplementalGroups, g)
			}
		}
	}
	devices := func(list ...*runtimeapi.Device) func(*runtimeapi.ContainerConfig) {
		return func(c *runtimeapi.ContainerConfig) { c.Devices = list }
	}
	logTo := func(path string) func(*runtimeapi.ContainerConfig) {
		return func(c *runtimeapi.ContainerConfig) { c.LogPath = path }
	}
	seccomp := func(profile string) func(*runtimeapi.ContainerConfig) {
		return func(c *runtimeapi.ContainerConfig) {
			file := n.dir + "/" + c.Metadata.Name + ".json"
			n.must(os.WriteFile(file, []byte(profile), 0o600))
			c.Linux.SecurityContext.Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: file}
		}
	}
	profileAt := func(path string) func(*runtimeapi.ContainerConfig) {
		return func(c *runtimeapi.ContainerConfig) {
			c.Linux.SecurityContext.Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: path}
		}
	}
	pipe := n.dir + "/profile.pipe"
	n.must(unix.Mkfifo(pipe, 0o600))
	long := strings.Repeat("l", 256)
	for _, c := range []struct {
		name   string
		want   codes.Code
		change func(*runtimeapi.ContainerConfig)
	}{
		{"the longest quota", codes.OK, quota(1<<44 - 1)},
		{"a longer quota", codes.InvalidArgument, quota(1 << 44)},
		{"an absurd quota", codes.InvalidArgument, quota(1 << 60)},
		{"the most groups", codes.OK, groups(65536)},
		{"more groups", codes.InvalidArgument, groups(65537)},
		{"the longest log name", codes.OK, logTo(long[1:])},
		{"a longer log name", codes.InvalidArgument, logTo(long)},
		{"a long log directory", codes.InvalidArgument, logTo(long + "/log")},
		{"a long path", codes.InvalidArgument, func(c *runtimeapi.ContainerConfig) { c.WorkingDir = "/" + long }},
		{"a device twice", codes.OK, devices(device("/dev/full", "/dev/x", "r"), device("/dev/full", "/dev/x", "w"))},
		{"two devices at a path", codes.InvalidArgument, devices(device("/dev/full", "/dev/x", "r"), device("/dev/zero", "/dev/x", "r"))},
		{"dev null as it is", codes.OK, devices(device("/dev/null", "", "r"), device("/dev/null", "", "w"))},
		{"dev null with less", codes.InvalidArgument, devices(device("/dev/null", "", "m"), device("/dev/null", "", "r"))},
		{"a profile", codes.OK, seccomp(`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["acct"],"action":"SCMP_ACT_ERRNO","args":[{"index":0,"value":1,"op":"SCMP_CMP_EQ"}]}]}`)},
		{"a profile of another process", codes.InvalidArgument, profileAt(pipe)},
		{"a profile without an end", codes.InvalidArgument, profileAt("/dev/zero")},
		{"a profile somewhere", codes.InvalidArgument, profileAt("profile.json")},
		{"no default action", codes.InvalidArgument, seccomp(`{"defaultAction":"SCMP_ACT_PERHAPS"}`)},
		{"no action", codes.InvalidArgument, seccomp(`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["acct"],"action":"allow"}]}`)},
		{"no operator", codes.InvalidArgument, seccomp(`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["acct"],"action":"SCMP_ACT_ERRNO","args":[{"index":0,"value":1,"op":"="}]}]}`)},
	} {
		config := &runtimeapi.ContainerConfig{
			Metadata: &runtimeapi.ContainerMetadata{Name: c.name}, Image: &runtimeapi.ImageSpec{Image: imageName}, Args: []string{"exit", "0"},
			LogPath: "log", Linux: &runtimeapi.LinuxContainerConfig{SecurityContext: &runtimeapi.LinuxContainerSecurityContext{}},
		}
		c.change(config)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		resp, err := n.rs.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: sandbox, Config: config, SandboxConfig: cfg})
		cancel()
		if status.Code(err) != c.want {
			t.Errorf("%s: %.400v, want %v", c.name, err, c.want)
		}
		if err == nil {
			n.startContainer(resp.ContainerId)
		}
	}
	n.removeSandbox(sandbox)
}
