package oci_test

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/internal/cgroup"
)

// TestDeviceRules: a device node can be opened only by containers that requested it, with
// the requested access, however it got into the container, with either cgroup version.
func TestDeviceRules(t *testing.T) {
	n := newNode(t)
	// The loop driver's control device: whoever may open it gets another error
	// from reading it, or from the lack of the driver.
	node, at := n.dir+"/ctl", "/host/ctl"
	n.must(unix.Mknod(node, unix.S_IFCHR|0o666, int(unix.Mkdev(10, 237))))
	n.must(os.Chmod(node, 0o666))
	sandbox, cfg := n.sandbox("devices", func(c *runtimeapi.PodSandboxConfig) { c.Linux.SecurityContext.Privileged = true })
	ask := func(access string) func(*runtimeapi.ContainerConfig) {
		return func(c *runtimeapi.ContainerConfig) {
			c.Mounts = []*runtimeapi.Mount{{ContainerPath: at, HostPath: node}}
			if access != "" {
				c.Devices = []*runtimeapi.Device{{ContainerPath: "/dev/ctl", HostPath: node, Permissions: access}}
			}
			c.Linux.SecurityContext.Privileged = access == "privileged"
			if access == "privileged" {
				c.Devices = nil
			}
		}
	}
	const refused = "operation not permitted"
	for access, may := range map[string]struct{ read, write bool }{"": {false, false}, "r": {true, false}, "rw": {true, true}, "privileged": {true, true}} {
		id := n.create(sandbox, cfg, "c"+access, ask(access), "sleep", "forever")
		n.startContainer(id)
		for verb, want := range map[string]bool{"cat": may.read, "append": may.write} {
			argv := []string{"/podtool", verb, at}
			if verb == "append" {
				argv = append(argv, "x")
			}
			if out, _ := n.exec(id, argv...); strings.Contains(out, refused) == want {
				t.Errorf("with access %q: %s says %q; want it allowed: %v", access, verb, out, want)
			}
		}
	}
	n.removeSandbox(sandbox)
}

// TestConfinement: the security context applies to the container's program and to execs.
func TestConfinement(t *testing.T) {
	n := newNode(t)
	sandbox, cfg := n.sandbox("confined", nil)
	id := n.create(sandbox, cfg, "main", func(c *runtimeapi.ContainerConfig) {
		c.Linux.Resources = &runtimeapi.LinuxContainerResources{OomScoreAdj: 500}
		sec := c.Linux.SecurityContext
		sec.MaskedPaths, sec.ReadonlyPaths = []string{"/proc/keys", "/proc/timer_list"}, []string{"/proc/sys"}
		sec.Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
		sec.Capabilities = &runtimeapi.Capability{DropCapabilities: []string{"ALL"}, AddCapabilities: []string{"CHOWN"}}
		sec.NoNewPrivs = true
	}, "do", "cat /proc/self/status /proc/self/oom_score_adj", "sleep forever")
	n.startContainer(id)
	n.waitLog("confined", "main", "\n500\n")
	executed, _ := n.exec(id, "/podtool", "cat", "/proc/self/status", "/proc/self/oom_score_adj")
	for who, status := range map[string]string{"the program": n.logOf("confined", "main"), "an exec": executed} {
		for _, want := range []string{"\nSeccomp:\t2\n", "\nNoNewPrivs:\t1\n", "\nCapEff:\t0000000000000001\n", "\nCapBnd:\t0000000000000001\n", "\n500\n"} {
			if !strings.Contains(status, want) {
				t.Errorf("the status of %s lacks %q:\n%s", who, want, status)
			}
		}
	}
	if out, _ := n.exec(id, "/podtool", "cat", "/proc/keys", "/proc/timer_list"); out != "" {
		t.Errorf("masked files show %q", out)
	}
	procs := "/sys/fs/cgroup/cgroup.procs"
	if cgroup.Version() == 1 { // where the hierarchies are below a file system of the container's own
		procs = "/sys/fs/cgroup/pids/cgroup.procs"
	}
	if out, _ := n.exec(id, "/podtool", "cat", procs); !strings.Contains(out, "1\n") {
		t.Errorf("%s shows %q", procs, out)
	}
	for _, file := range []string{"/proc/sys/kernel/domainname", "/sys/kernel/mm/ksm/run", procs} {
		if out, code := n.exec(id, "/podtool", "write", file, "0"); code == 0 {
			t.Errorf("%s was written: %q", file, out)
		}
	}
	n.removeSandbox(sandbox)
}

// TestLinksInRootfs: an image whose directories are links to places on the host
// gets its mounts inside its own root file system.
func TestLinksInRootfs(t *testing.T) {
	d := newDirect(t)
	host := d.dir + "/host"
	d.must(os.Mkdir(host, 0o755))
	c := d.create("links", &runtimeapi.ContainerConfig{
		Args:   []string{"cat", "/etc/hostname"},
		Mounts: []*runtimeapi.Mount{{ContainerPath: "/data/deep/er", HostPath: d.dir + "/logs"}},
	})
	root := d.dir + "/run/sandboxes/" + c.Sandbox.ID + "/rootfs-links"
	d.must(os.RemoveAll(root + "/etc"))
	d.must(os.Symlink(host, root+"/etc"))
	d.must(os.Symlink("../../../../../../../.."+host, root+"/data"))
	err := d.rt.StartContainer(t.Context(), c)
	left, rerr := os.ReadDir(host)
	d.must(rerr)
	if len(left) > 0 {
		t.Errorf("starting it (%v) made %v on the host", err, left)
	}
}

// TestOnlyRootReachesTheState: sockets, specs with secrets in the environment, and the
// keeper's journal. Others may traverse two directories, and see nothing.
func TestOnlyRootReachesTheState(t *testing.T) {
	old := unix.Umask(0)
	defer unix.Umask(old)
	n := newNode(t)
	sandbox, _ := n.run("secret", func(c *runtimeapi.ContainerConfig) {
		c.Envs = []*runtimeapi.KeyValue{{Key: "TOKEN", Value: []byte("secret")}}
	}, "sleep", "forever")
	for _, path := range []string{"/run", "/run/roots"} {
		if fi, err := os.Stat(n.dir + path); err != nil || fi.Mode().Perm() != 0o711 {
			t.Errorf("%s has mode %v (%v), want -rwx--x--x", path, fi.Mode(), err)
		}
	}
	inside, err := os.ReadDir(n.dir + "/run")
	n.must(err)
	for _, e := range inside {
		if fi, err := e.Info(); e.Name() != "roots" && (err != nil || fi.Mode().Perm()&0o077 != 0) {
			t.Errorf("/run/%s has mode %v (%v), want it closed to all but root", e.Name(), fi.Mode(), err)
		}
	}
	for _, path := range []string{"/s", "/run/keeper.sock", "/run/keeper.lock", "/run/runtime", "/oci", "/oci/keeper", "/oci/keeper/exits", "/oci/keeper/log", "/images", "/cri"} {
		fi, err := os.Stat(n.dir + path)
		if err != nil || fi.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v (%v), want it closed to all but root", path, fi.Mode(), err)
		}
	}
	n.removeSandbox(sandbox)
}
