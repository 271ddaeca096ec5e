package oci_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/internal/mount"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// TestFullDisk: what found no space leaves nothing partly made, and once there is space
// it works.
func TestFullDisk(t *testing.T) {
	n := newNode(t)
	n.kill()
	// The records and files of Pods are on a disk of their own, which is small.
	n.must(os.RemoveAll(n.dir + "/cri"))
	n.must(os.Mkdir(n.dir+"/cri", 0o700))
	n.must(unix.Mount("tmpfs", n.dir+"/cri", "tmpfs", 0, "size=256k"))
	t.Cleanup(func() { n.must(mount.Detach(n.dir + "/cri")) })
	n.start()
	fill := func() {
		f, err := os.Create(n.dir + "/cri/ballast")
		n.must(err)
		defer f.Close()
		for err == nil {
			_, err = f.Write(make([]byte, 4096))
		}
		if !errors.Is(err, unix.ENOSPC) {
			t.Fatalf("filling the disk: %v", err)
		}
	}
	cfg := &runtimeapi.PodSandboxConfig{Metadata: &runtimeapi.PodSandboxMetadata{Name: "full", Namespace: "test", Uid: "full"}}
	fill()
	_, err := n.rs.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: cfg})
	n.wantRefused("a sandbox on a full disk", err, codes.ResourceExhausted, "no space left")
	n.must(os.Remove(n.dir + "/cri/ballast"))
	sandbox, cfg := n.sandbox("full", nil)
	fill()
	_, err = n.rs.CreateContainer(t.Context(), &runtimeapi.CreateContainerRequest{PodSandboxId: sandbox, SandboxConfig: cfg, Config: &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: "main"}, Image: &runtimeapi.ImageSpec{Image: imageName},
	}})
	n.wantRefused("a container on a full disk", err, codes.ResourceExhausted, "no space left")
	list, err := n.rs.ListContainers(t.Context(), &runtimeapi.ListContainersRequest{})
	if err != nil || len(list.Containers) > 0 {
		t.Errorf("there are containers: %v, %v", list, err)
	}
	if left, _ := filepath.Glob(n.dir + "/images/mounts/*"); len(left) > 0 {
		t.Errorf("the image store counts on %v", left)
	}
	n.must(os.Remove(n.dir + "/cri/ballast"))
	n.removeSandbox(sandbox)
}

// TestReadOnlyState: a state directory that cannot be written to is named.
func TestReadOnlyState(t *testing.T) {
	n := newNode(t)
	dir := n.dir + "/cri"
	n.must(unix.Mount(dir, dir, "", unix.MS_BIND, ""))
	t.Cleanup(func() { n.must(mount.Detach(dir)) })
	n.must(unix.Mount("", dir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	_, err := n.rs.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: "ro", Namespace: "test", Uid: "ro"},
	}})
	n.wantRefused("a sandbox in a read-only directory", err, codes.FailedPrecondition, "read-only")
}

// TestMissingRuntime: an OCI runtime that was removed is named, and what does not need
// one still works.
func TestMissingRuntime(t *testing.T) {
	testenv.Require(t, testenv.Root, testenv.Runc)
	found, err := exec.LookPath("runc")
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(found)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "runtime")
	put := func() {
		t.Helper()
		if err := os.WriteFile(path, program, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	put()
	t.Setenv(ociRuntime, path)
	n := newNode(t)
	sandbox, running := n.run("missing", nil, "sleep", "forever")
	cfg := &runtimeapi.PodSandboxConfig{Metadata: &runtimeapi.PodSandboxMetadata{Name: "missing", Namespace: "test", Uid: "shared"}, Linux: &runtimeapi.LinuxPodSandboxConfig{
		SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{NamespaceOptions: &runtimeapi.NamespaceOption{}}, // shares its PID namespace
	}}
	late := n.create(sandbox, cfg, "late", nil, "sleep", "forever")
	n.must(os.Remove(path))
	_, starting := n.rs.StartContainer(t.Context(), &runtimeapi.StartContainerRequest{ContainerId: late})
	_, executing := n.rs.ExecSync(t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: running, Cmd: []string{"/podtool"}})
	_, sharing := n.rs.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: cfg})
	for what, err := range map[string]error{"a container": starting, "exec": executing, "a sandbox": sharing} {
		if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), path) {
			t.Errorf("%s without a runtime: %v", what, err)
		}
	}
	if left, _ := filepath.Glob(n.dir + "/run/sandboxes/*"); len(left) != 1 {
		t.Errorf("there are the sandboxes %v", left)
	}
	_, err = n.rs.StopContainer(t.Context(), &runtimeapi.StopContainerRequest{ContainerId: running})
	n.must(err)
	put()
	again := n.create(sandbox, cfg, "again", nil, "sleep", "forever")
	n.startContainer(again)
	n.removeSandbox(sandbox)
}

// wantRefused requires an error that says why, and that nothing is left behind.
func (n *node) wantRefused(what string, err error, code codes.Code, why string) {
	n.t.Helper()
	if err == nil || !strings.Contains(err.Error(), why) || status.Code(err) != code {
		n.t.Errorf("%s: %v, want code %s and %q in it", what, err, code, why)
	}
	for _, dir := range []string{"/run/sandboxes/*", "/run/roots/*", "/attached/*", "/cri/home/*"} {
		if left, _ := filepath.Glob(n.dir + dir); len(left) > 1 || len(left) == 1 && !strings.Contains(what, "container") {
			n.t.Errorf("%s: left behind: %v", what, left)
		}
	}
}

// TestOddLogPaths: whatever the log path of a container is, no other file is written to
// or removed, even if the log directory has a symbolic link to it.
func TestOddLogPaths(t *testing.T) {
	n := newNode(t)
	precious := filepath.Join(t.TempDir(), "precious")
	n.must(os.WriteFile(precious, []byte("kept"), 0o644))
	sandbox, cfg := n.sandbox("odd", nil)
	n.must(os.MkdirAll(n.dir+"/logs/odd/dir.log", 0o755))
	n.must(os.Symlink(precious, n.dir+"/logs/odd/link.log"))
	n.must(unix.Mkfifo(n.dir+"/logs/odd/fifo.log", 0o600))
	for _, path := range []string{"", "fifo.log", ".", "..", "/", "../odd", "../../precious", precious, "dir.log", "dir.log/..", "link.log", "a\x00b"} {
		resp, err := n.rs.CreateContainer(t.Context(), &runtimeapi.CreateContainerRequest{PodSandboxId: sandbox, SandboxConfig: cfg, Config: &runtimeapi.ContainerConfig{
			Metadata: &runtimeapi.ContainerMetadata{Name: "c" + path}, Image: &runtimeapi.ImageSpec{Image: imageName}, LogPath: path, Args: []string{"do", "echo written"},
		}})
		if err != nil {
			continue
		}
		_, err = n.rs.StartContainer(t.Context(), &runtimeapi.StartContainerRequest{ContainerId: resp.ContainerId})
		if err == nil {
			n.exited(resp.ContainerId)
			_, _ = n.rs.ReopenContainerLog(t.Context(), &runtimeapi.ReopenContainerLogRequest{ContainerId: resp.ContainerId})
		}
		if path != "" && err == nil {
			t.Errorf("a container logs to %q", path)
		}
		_, err = n.rs.RemoveContainer(t.Context(), &runtimeapi.RemoveContainerRequest{ContainerId: resp.ContainerId})
		n.must(err)
	}
	rotated := n.create(sandbox, cfg, "rotated", nil, "lines", "--interval", "5ms", "100")
	n.startContainer(rotated)
	n.must(os.Rename(n.dir+"/logs/odd/rotated.log", n.dir+"/logs/odd/rotated.log.1"))
	n.must(os.Symlink(precious, n.dir+"/logs/odd/rotated.log"))
	if _, err := n.rs.ReopenContainerLog(t.Context(), &runtimeapi.ReopenContainerLogRequest{ContainerId: rotated}); err == nil {
		t.Error("the log was reopened through a link")
	}
	n.exited(rotated)
	n.mustNotLogElsewhere(sandbox, cfg)
	n.must(os.Symlink(n.t.TempDir(), n.dir+"/logs/behind"))
	behind, logged := n.run("behind", func(c *runtimeapi.ContainerConfig) { c.LogPath = "main/0.log" }, "echo", "behind a link")
	n.exited(logged)
	if text, err := os.ReadFile(n.dir + "/logs/behind/main/0.log"); err != nil || !strings.Contains(string(text), "behind a link") {
		t.Errorf("the log in a directory that is a link has %q, %v", text, err)
	}
	n.removeSandbox(behind)
	if text, err := os.ReadFile(precious); err != nil || string(text) != "kept" {
		t.Errorf("the other file has %q, %v", text, err)
	}
	n.removeSandbox(sandbox)
}

// mustNotLogElsewhere puts a symbolic link in the place of a directory between the log
// directory, which may be behind one itself, and a container's log.
func (n *node) mustNotLogElsewhere(sandbox string, cfg *runtimeapi.PodSandboxConfig) {
	n.t.Helper()
	logs, elsewhere := n.dir+"/logs/odd", n.t.TempDir()
	empty := func(when string) {
		n.t.Helper()
		if found, err := os.ReadDir(elsewhere); err != nil || len(found) > 0 {
			n.t.Errorf("%s: there is %v elsewhere (%v)", when, found, err)
		}
	}
	nested := func(c *runtimeapi.ContainerConfig) { c.LogPath = c.Metadata.Name + "/sub/0.log" }
	asked := func(name string) *runtimeapi.CreateContainerRequest {
		return &runtimeapi.CreateContainerRequest{PodSandboxId: sandbox, SandboxConfig: cfg, Config: &runtimeapi.ContainerConfig{
			Metadata: &runtimeapi.ContainerMetadata{Name: name}, Image: &runtimeapi.ImageSpec{Image: imageName}, LogPath: name + "/sub/0.log",
		}}
	}
	n.must(os.Symlink(elsewhere, logs+"/created"))
	_, err := n.rs.CreateContainer(n.t.Context(), asked("created"))
	n.wantRefused("a container whose log's directory is elsewhere", err, codes.InvalidArgument, "created")
	empty("creation")

	id := n.create(sandbox, cfg, "started", nested, "sleep", "forever")
	n.must(os.RemoveAll(logs + "/started"))
	n.must(os.Mkdir(elsewhere+"/sub", 0o755))
	n.must(os.Symlink(elsewhere, logs+"/started"))
	_, err = n.rs.StartContainer(n.t.Context(), &runtimeapi.StartContainerRequest{ContainerId: id})
	if status.Code(err) != codes.InvalidArgument {
		n.t.Errorf("a start with a log elsewhere: %v, want InvalidArgument", err)
	}
	n.must(os.Remove(elsewhere + "/sub")) // which is empty
	empty("start")

	id = n.create(sandbox, cfg, "rotates", nested, "lines", "--interval", "5ms", "0")
	n.startContainer(id)
	n.must(os.Rename(logs+"/rotates", logs+"/rotated"))
	n.must(os.Mkdir(elsewhere+"/sub", 0o755))
	n.must(os.Symlink(elsewhere, logs+"/rotates"))
	for _, when := range []string{"before", "after"} {
		if _, err := n.rs.ReopenContainerLog(n.t.Context(), &runtimeapi.ReopenContainerLogRequest{ContainerId: id}); status.Code(err) != codes.InvalidArgument {
			n.t.Errorf("%s the keeper was killed: reopening a log elsewhere: %v, want InvalidArgument", when, err)
		}
		if when == "before" {
			n.killKeeper()
		}
	}
	n.must(os.Remove(elsewhere + "/sub"))
	empty("rotation")
	n.must(os.Remove(logs + "/rotates"))
	n.must(os.MkdirAll(logs+"/rotates/sub", 0o755))
	_, err = n.rs.ReopenContainerLog(n.t.Context(), &runtimeapi.ReopenContainerLogRequest{ContainerId: id})
	n.must(err)
	n.waitFor(func() bool {
		fi, err := os.Stat(logs + "/rotates/sub/0.log")
		return err == nil && fi.Size() > 0
	}, "lines in the new log")
}
