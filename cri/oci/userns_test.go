package oci_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// hostUsers is the first host ID of the user namespaces of these tests.
const hostUsers = 200000

func ownUsers(c *runtimeapi.PodSandboxConfig) {
	ids := func() []*runtimeapi.IDMapping { return []*runtimeapi.IDMapping{{HostId: hostUsers, Length: 65536}} }
	c.Linux.SecurityContext.NamespaceOptions.UsernsOptions = &runtimeapi.UserNamespace{
		Mode: runtimeapi.NamespaceMode_POD, Uids: ids(), Gids: ids(),
	}
}

// needUsers fails if the default handler does not support user namespaces: this machine
// does.
func (n *node) needUsers() {
	n.t.Helper()
	resp, err := n.rs.Status(n.t.Context(), &runtimeapi.StatusRequest{})
	n.must(err)
	if f := resp.RuntimeHandlers[0].Features; !f.UserNamespaces || !f.RecursiveReadOnlyMounts {
		n.t.Fatalf("the default handler has the features %v\n%s", f, n.serverLog())
	}
}

// TestUserNamespace: root in such a Pod is unprivileged on the host, yet owns its image,
// its volumes, its /dev/shm and its namespaces, including for an exec and after a restart
// of the server.
func TestUserNamespace(t *testing.T) {
	n := newNode(t)
	n.needUsers()
	for name, pid := range map[string]runtimeapi.NamespaceMode{"alone": runtimeapi.NamespaceMode_CONTAINER, "shared": runtimeapi.NamespaceMode_POD} {
		volume := t.TempDir()
		n.must(os.WriteFile(volume+"/roots", []byte("of root\n"), 0o600))
		sandbox, cfg := n.sandbox(name, func(c *runtimeapi.PodSandboxConfig) {
			c.Linux.SecurityContext.NamespaceOptions.Pid = pid
			c.Linux.Sysctls = map[string]string{"net.ipv4.ip_unprivileged_port_start": "80", "kernel.shm_rmid_forced": "1"}
			ownUsers(c)
		})
		users := cfg.Linux.SecurityContext.NamespaceOptions.UsernsOptions
		id := n.create(sandbox, cfg, "main", func(c *runtimeapi.ContainerConfig) {
			c.Mounts = []*runtimeapi.Mount{{ContainerPath: "/data", HostPath: volume, UidMappings: users.Uids, GidMappings: users.Gids}}
			c.Linux.Resources = &runtimeapi.LinuxContainerResources{OomScoreAdj: 500}
			c.Linux.SecurityContext.Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
		}, "do", "id", "cat /proc/self/uid_map /etc/hostname /data/roots", "write /data/new x", "write /top x", "write /dev/shm/x x", "echo written", "sleep forever")
		n.startContainer(id)
		n.restart()
		n.waitLog(name, "main", "written")
		out, code := n.exec(id, "/podtool", "cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start", "/proc/sys/kernel/shm_rmid_forced", "/dev/shm/x", "/proc/self/uid_map", "/proc/self/oom_score_adj")
		if want := fmt.Sprintf("80\n1\nx\n         0     %d      65536\n500\n", hostUsers); code != 0 || strings.Join(strings.Fields(out), " ") != strings.Join(strings.Fields(want), " ") {
			t.Errorf("%s: an exec prints %q, want %q", name, out, want)
		}
		log := n.logOf(name, "main")
		for _, want := range []string{"uid=0 gid=0", fmt.Sprint(hostUsers), name + "\n", "of root\n"} {
			if !strings.Contains(log, want) {
				t.Errorf("%s: the container printed %q, want %q in it", name, log, want)
			}
		}
		wantOwner(t, volume+"/new", 0)
		wantOwner(t, fmt.Sprintf("/proc/%d/root/top", n.pidOf(id)), hostUsers)
		wantOwner(t, fmt.Sprintf("/proc/%d/root/podtool", n.pidOf(id)), hostUsers)
		wantOwner(t, fmt.Sprintf("/proc/%d/root/dev/mqueue", n.pidOf(id)), hostUsers)
		wantOwner(t, fmt.Sprintf("/proc/%d", n.pidOf(id)), hostUsers)
		n.removeSandbox(sandbox)
	}
}

func wantOwner(t *testing.T, path string, uid uint32) {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil || st.Uid != uid || st.Gid != uid {
		t.Errorf("%s belongs to %d:%d (%v), want %d", path, st.Uid, st.Gid, err, uid)
	}
}

// TestUserNamespaceReadOnly: a volume that an image declares, in a read-only root,
// belongs to the Pod's root, too.
func TestUserNamespaceReadOnly(t *testing.T) {
	n := newNode(t)
	n.needUsers()
	sandbox, cfg := n.sandbox("ro", ownUsers)
	id := n.create(sandbox, cfg, "main", func(c *runtimeapi.ContainerConfig) {
		c.Linux.SecurityContext.ReadonlyRootfs = true
		c.Mounts = []*runtimeapi.Mount{{ContainerPath: "/img/in/side", Image: &runtimeapi.ImageSpec{Image: imageName}, Readonly: true}}
	}, "do", "sleep forever")
	n.startContainer(id)
	wantOwner(t, filepath.Join("/proc", itoa(n.pidOf(id)), "root/img/in/side/podtool"), hostUsers)
	for _, file := range []string{"/no", "/img/in/side/no"} {
		if out, code := n.exec(id, "/podtool", "write", file, "x"); code == 0 || !strings.Contains(out, "read-only") {
			t.Errorf("writing %s ended with %d: %q", file, code, out)
		}
	}
	n.removeSandbox(sandbox)
}
