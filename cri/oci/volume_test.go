package oci_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/mount"
)

func imageMount(sub string) *runtimeapi.Mount {
	return &runtimeapi.Mount{ContainerPath: "/img", Image: &runtimeapi.ImageSpec{Image: imageName}, ImageSubPath: sub, Readonly: true}
}

// TestImageVolume: an image, or a part of it, can be read, even after the server was
// killed, and leaves nothing behind.
func TestImageVolume(t *testing.T) {
	n := newNode(t)
	sandbox, cfg := n.sandbox("images", nil)
	for sub, file := range map[string]string{"": "/img/podtool", "podtool": "/img"} {
		id := n.create(sandbox, cfg, "of"+sub, func(c *runtimeapi.ContainerConfig) { c.Mounts = []*runtimeapi.Mount{imageMount(sub)} }, "sleep", "forever")
		n.restart()
		n.startContainer(id)
		st, err := n.rs.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: id})
		n.must(err)
		if m := st.GetStatus().GetMounts(); len(m) != 1 || m[0].GetImage().GetImageRef() != st.GetStatus().GetImageRef() { // it is of one image
			t.Errorf("part %q: the container's mounts are %v", sub, m)
		}
		if out, code := n.exec(id, file, "do", "echo it runs"); out != "it runs\n" || code != 0 {
			t.Errorf("part %q: %s printed %q and ended with %d", sub, file, out, code)
		}
		if out, code := n.exec(id, "/podtool", "append", file, "x"); code == 0 || !strings.Contains(out, "read-only") && !strings.Contains(out, "directory") && !strings.Contains(out, "busy") {
			t.Errorf("part %q: writing %s ended with %d: %q", sub, file, code, out)
		}
	}
	for what, m := range map[string]*runtimeapi.Mount{
		"a part that is not there": imageMount("none"),
		"an image that is not":     {ContainerPath: "/img", Image: &runtimeapi.ImageSpec{Image: "example.com/none:v1"}, Readonly: true},
	} {
		_, err := n.rs.CreateContainer(t.Context(), &runtimeapi.CreateContainerRequest{PodSandboxId: sandbox, SandboxConfig: cfg, Config: &runtimeapi.ContainerConfig{
			Metadata: &runtimeapi.ContainerMetadata{Name: what}, Image: &runtimeapi.ImageSpec{Image: imageName}, Mounts: []*runtimeapi.Mount{m},
		}})
		if err == nil || !strings.Contains(err.Error(), "ImageVolumeMountFailed: ") {
			t.Errorf("%s is answered with %v, want the prefix that a kubelet looks for", what, err)
		}
	}
	n.removeSandbox(sandbox)
	if left, _ := filepath.Glob(n.dir + "/images/mounts/*"); len(left) > 0 {
		t.Errorf("the image store still counts on %v", left)
	}
}

// TestMountRules: what a mount allows, at its root and below.
func TestMountRules(t *testing.T) {
	n := newNode(t)
	volume := t.TempDir()
	n.must(os.Mkdir(volume+"/below", 0o755))
	n.must(unix.Mount("tmpfs", volume+"/below", "tmpfs", 0, ""))
	late := volume + "/late"
	n.must(errors.Join(os.Mkdir(late, 0o755), unix.Mount("tmpfs", late, "tmpfs", 0, "")))
	t.Cleanup(func() { n.must(mount.DetachTree(volume)) })
	tool, err := os.ReadFile(filepath.Join(os.Getenv(toolsDir), "podtool"))
	n.must(err)
	n.must(os.WriteFile(volume+"/podtool", tool, 0o755))
	sandbox, cfg := n.sandbox("rules", nil)
	id := n.create(sandbox, cfg, "main", func(c *runtimeapi.ContainerConfig) {
		c.Mounts = []*runtimeapi.Mount{
			{ContainerPath: "/ro", HostPath: volume, Readonly: true},
			{ContainerPath: "/rro", HostPath: volume, Readonly: true, RecursiveReadOnly: true},
			{ContainerPath: "/noexec", HostPath: volume, MountOptions: []string{"noexec", "nodev", "nosuid"}},
			{ContainerPath: "/plain", HostPath: volume},
		}
	}, "sleep", "forever")
	n.startContainer(id)
	for file, may := range map[string]bool{"/ro/x": false, "/ro/below/x": true, "/rro/x": false, "/rro/below/x": false, "/plain/below/x": true, "/noexec/x": true} {
		if out, code := n.exec(id, "/podtool", "write", file, "x"); (code == 0) != may {
			t.Errorf("writing %s ended with %d (%s), want it allowed: %v", file, code, out, may)
		}
	}
	if out, code := n.exec(id, "/plain/podtool", "do", "echo runs"); code != 0 {
		t.Errorf("a program in a plain mount ended with %d: %s", code, out)
	}
	// A running container does not prevent a cleanup on the host.
	if err := errors.Join(unix.Unmount(late, unix.MNT_DETACH), os.Remove(late)); err != nil {
		t.Errorf("removing a directory that was mounted at: %v", err)
	}
	resp, err := n.rs.ExecSync(t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"/noexec/podtool", "do", "echo runs"}, Timeout: 10})
	if err == nil && resp.ExitCode == 0 {
		t.Errorf("a program in a noexec mount ran: %v", resp)
	}
	n.removeSandbox(sandbox)
}

// TestPropagation: what is mounted on the host later is visible where that was requested,
// and a source that cannot propagate is refused.
func TestPropagation(t *testing.T) {
	n := newNode(t)
	private, shared := t.TempDir(), t.TempDir()
	for dir, flag := range map[string]uintptr{private: unix.MS_PRIVATE, shared: unix.MS_SHARED} {
		n.must(os.Mkdir(dir+"/late", 0o755))
		n.must(unix.Mount(dir, dir, "", unix.MS_BIND, ""))
		t.Cleanup(func() { n.must(mount.DetachTree(dir)) })
		n.must(unix.Mount("", dir, "", flag, ""))
	}
	sandbox, cfg := n.sandbox("propagation", nil)
	id := n.create(sandbox, cfg, "main", func(c *runtimeapi.ContainerConfig) {
		c.Mounts = []*runtimeapi.Mount{
			{ContainerPath: "/slave", HostPath: shared, Propagation: runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER},
			{ContainerPath: "/private", HostPath: shared},
		}
	}, "sleep", "forever")
	n.startContainer(id)
	n.must(unix.Mount("tmpfs", shared+"/late", "tmpfs", 0, ""))
	n.must(os.WriteFile(shared+"/late/file", []byte("seen"), 0o644))
	for at, want := range map[string]bool{"/slave": true, "/private": false} {
		if out, code := n.exec(id, "/podtool", "cat", at+"/late/file"); (code == 0 && out == "seen") != want {
			t.Errorf("%s shows %q (%d), want the late mount to be there: %v", at, out, code, want)
		}
	}
	for _, p := range []runtimeapi.MountPropagation{runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER, runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL} {
		_, err := n.rs.CreateContainer(t.Context(), &runtimeapi.CreateContainerRequest{PodSandboxId: sandbox, SandboxConfig: cfg, Config: &runtimeapi.ContainerConfig{
			Metadata: &runtimeapi.ContainerMetadata{Name: p.String()}, Image: &runtimeapi.ImageSpec{Image: imageName},
			Mounts: []*runtimeapi.Mount{{ContainerPath: "/x", HostPath: private, Propagation: p}},
		}})
		if !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "shared") {
			t.Errorf("%v of a private mount is answered with %v, want %q", p, err, fault.Invalid)
		}
	}
	n.removeSandbox(sandbox)
}
