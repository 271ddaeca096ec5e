package oci_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/internal/mount"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// TestView: the OCI runtime sees the mounts of the host and of the container's own
// sandbox, and not those of others; containers see what they are given.
func TestView(t *testing.T) {
	testenv.Require(t, testenv.Root, testenv.Runc)
	runc, err := exec.LookPath("runc")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	program, host := filepath.Join(dir, "runtime"), filepath.Join(dir, "host")
	script := "#!/bin/sh\ncase \"$*\" in *' run '*) cp /proc/self/mountinfo " + dir + "/seen;; esac\nexec " + runc + " \"$@\"\n"
	if err := errors.Join(os.WriteFile(program, []byte(script), 0o700), os.Mkdir(host, 0o700)); err != nil {
		t.Fatal(err)
	}
	t.Setenv(ociRuntime, program)
	n := newNode(t)
	n.must(unix.Mount("late", host, "tmpfs", 0, "")) // after the keeper has begun
	t.Cleanup(func() { _ = unix.Unmount(host, 0) })
	other, _ := n.run("other", nil, "sleep", "forever")
	own, id := n.run("own", func(c *runtimeapi.ContainerConfig) {
		c.Mounts = append(c.Mounts, &runtimeapi.Mount{HostPath: host, ContainerPath: "/host"})
	}, "sleep", "forever")
	seen, err := os.ReadFile(filepath.Join(dir, "seen"))
	n.must(err)
	run := filepath.Join(n.dir, "run")
	for point, want := range map[string]bool{
		host: true, run: true, run + "/sandboxes/" + own: true, run + "/sandboxes/" + own + "/uts": true, run + "/sandboxes/" + own + "/rootfs-" + id: true,
		run + "/sandboxes": false, run + "/sandboxes/" + other: false, run + "/sandboxes/" + other + "/uts": false,
	} {
		if has := strings.Contains(string(seen), " "+point+" "); has != want {
			t.Errorf("the OCI runtime sees a mount at %q: %t, want %t", point, has, want)
		}
	}
	if strings.Contains(string(seen), other+"/rootfs") {
		t.Error("the OCI runtime sees the root of another container")
	}
	if inside, err := os.ReadFile("/proc/" + itoa(n.pidOf(id)) + "/mountinfo"); err != nil || !strings.Contains(string(inside), " /host ") {
		t.Errorf("the container has %s, %v", inside, err)
	}
	n.removeSandbox(own)
	n.removeSandbox(other)
	if left, err := mount.Below(run + "/sandboxes"); err != nil || len(left) != 2 {
		t.Errorf("left: %q, %v", left, err)
	}
}

// TestNetworkNamespacesInAContainer: a CNI plugin that runs in a container, with the run
// directory propagated to it, sees the network namespaces of later Pods, and no longer
// when they are gone.
func TestNetworkNamespacesInAContainer(t *testing.T) {
	n := newNode(t)
	run := filepath.Join(n.dir, "run")
	agent, id := n.run("agent", func(c *runtimeapi.ContainerConfig) {
		c.Mounts = append(c.Mounts, &runtimeapi.Mount{
			HostPath: run, ContainerPath: "/run/node", Propagation: runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER,
		})
	}, "sleep", "forever")
	table := func() string {
		text, err := os.ReadFile("/proc/" + itoa(n.pidOf(id)) + "/mountinfo")
		n.must(err)
		return string(text)
	}
	late, _ := n.sandbox("late", nil)
	if !strings.Contains(table(), " /run/node/sandboxes/"+late+"/net ") {
		t.Errorf("the namespace of a later Pod is not in\n%s", table())
	}
	n.removeSandbox(late)
	if strings.Contains(table(), late) {
		t.Error("the namespace of a Pod that is gone is still there")
	}
	n.removeSandbox(agent)
}

// TestApartOutlivesServers: a server finds what one that was killed has made, and one that
// ends without sandboxes leaves nothing.
func TestApartOutlivesServers(t *testing.T) {
	n := newNode(t)
	run := filepath.Join(n.dir, "run")
	sandbox, _ := n.sandbox("stays", nil)
	before, err := mount.Below(run)
	n.must(err)
	n.restart() // by a kill
	if after, err := mount.Below(run); err != nil || strings.Join(after, " ") != strings.Join(before, " ") {
		t.Errorf("mounts became %q, %v; were %q", after, err, before)
	}
	n.removeSandbox(sandbox)
}
