package oci

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri"
	"github.com/nodekit-project/nodekit/cri/oci/keeper"
	"github.com/nodekit-project/nodekit/internal/cgroup"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/mount"
	"github.com/nodekit-project/nodekit/internal/netns"
)

// sandboxDir holds what a reboot takes: the pins and /dev/shm.
func (r *Runtime) sandboxDir(id string) string { return r.run("sandboxes", id) }

// pauseID names the container of a sandbox that is only the first process of
// its PID namespace.
func pauseID(sandbox string) string { return sandbox + "-pause" }

func namespaceOptions(s *cri.Sandbox) *runtimeapi.NamespaceOption {
	return s.Config.GetLinux().GetSecurityContext().GetNamespaceOptions()
}

func hostNetwork(s *cri.Sandbox) bool {
	return namespaceOptions(s).GetNetwork() == runtimeapi.NamespaceMode_NODE
}

func hostIPC(s *cri.Sandbox) bool {
	return namespaceOptions(s).GetIpc() == runtimeapi.NamespaceMode_NODE
}

// sharesPID reports whether the Pod's containers share a PID namespace. POD is
// the zero value, so a caller that says nothing of namespaces would get it; a
// kubelet always says.
func sharesPID(s *cri.Sandbox) bool {
	o := namespaceOptions(s)
	return o != nil && o.GetPid() == runtimeapi.NamespaceMode_POD
}

// runSandbox makes the namespaces and files of a sandbox and connects it.
func (r *Runtime) runSandbox(ctx context.Context, s *cri.Sandbox) error {
	if err := refuseSandbox(s.Config); err != nil {
		return err
	}
	if err := r.checkParent(s); err != nil {
		return err
	}
	r.mu.Lock()
	r.sandboxes[s.ID] = s
	r.mu.Unlock()
	dir := r.sandboxDir(s.ID)
	if err := os.Mkdir(dir, 0o711); err != nil {
		return fmt.Errorf("making the sandbox's run directory: %w", err)
	}
	if err := writeSandboxFiles(s); err != nil {
		return err
	}
	if err := r.makeNamespaces(s, dir); err != nil {
		return err
	}
	if !hostNetwork(s) {
		if err := r.attachNetwork(ctx, s); err != nil {
			return err
		}
	}
	if sharesPID(s) {
		return r.startPause(ctx, s, dir)
	}
	return nil
}

// refuseSandbox names the first thing that is asked for and not done.
func refuseSandbox(c *runtimeapi.PodSandboxConfig) error {
	sec := c.GetLinux().GetSecurityContext()
	userns := sec.GetNamespaceOptions().GetUsernsOptions()
	switch {
	case userns != nil && userns.GetMode() == runtimeapi.NamespaceMode_POD:
		return fault.Unimplemented.Errorf("user namespaces are not supported")
	case sec.GetSelinuxOptions() != nil && sec.GetSelinuxOptions().String() != "":
		return fault.Unimplemented.Errorf("SELinux options are not supported")
	case c.GetWindows() != nil:
		return fault.Unimplemented.Errorf("Windows options are not supported")
	}
	return nil
}

// makeNamespaces pins the sandbox's namespaces and applies its sysctls to
// those they belong to.
func (r *Runtime) makeNamespaces(s *cri.Sandbox, dir string) error {
	sysctls, err := splitSysctls(s)
	if err != nil {
		return err
	}
	flags := 0
	if !hostIPC(s) {
		flags |= unix.CLONE_NEWIPC
		if err := makeShm(filepath.Join(dir, "shm")); err != nil {
			return err
		}
	}
	if !hostNetwork(s) {
		flags |= unix.CLONE_NEWUTS
	}
	err = pinIPCAndUTS(dir, flags, func() error {
		if host := s.Config.GetHostname(); host != "" && flags&unix.CLONE_NEWUTS != 0 {
			if err := unix.Sethostname([]byte(host)); err != nil {
				return fmt.Errorf("setting hostname %q: %w", host, err)
			}
		}
		return setSysctls(sysctls.ipc)
	})
	if err != nil || hostNetwork(s) {
		return err
	}
	net := filepath.Join(dir, "net")
	if err := netns.Create(net); err != nil || len(sysctls.net) == 0 {
		return err
	}
	return netns.Do(net, func() error { return setSysctls(sysctls.net) })
}

// makeShm mounts the /dev/shm that the Pod's containers share, of the size
// that every runtime gives it.
func makeShm(path string) error {
	if err := os.Mkdir(path, 0o1777); err != nil {
		return err
	}
	if err := unix.Mount("shm", path, "tmpfs", unix.MS_NOEXEC|unix.MS_NOSUID|unix.MS_NODEV, "mode=1777,size=65536k"); err != nil {
		return fmt.Errorf("mounting /dev/shm at %q: %w", path, err)
	}
	return nil
}

type sysctls struct{ net, ipc map[string]string }

// splitSysctls sorts the sandbox's sysctls by the namespace they belong to. One
// that would reach the host is refused.
func splitSysctls(s *cri.Sandbox) (sysctls, error) {
	out := sysctls{net: map[string]string{}, ipc: map[string]string{}}
	for name, value := range s.Config.GetLinux().GetSysctls() {
		name = strings.ReplaceAll(name, "/", ".")
		ipc := strings.HasPrefix(name, "kernel.shm") || strings.HasPrefix(name, "kernel.msg") ||
			strings.HasPrefix(name, "fs.mqueue.") || name == "kernel.sem"
		switch {
		case strings.Contains(name, ".."):
			return out, fault.Invalid.Errorf("sysctl %q is no name", name)
		case strings.HasPrefix(name, "net.") && !hostNetwork(s):
			out.net[name] = value
		case ipc && !hostIPC(s):
			out.ipc[name] = value
		default:
			return out, fault.Invalid.Errorf("sysctl %q belongs to no namespace of the sandbox", name)
		}
	}
	return out, nil
}

// startPause runs the first process of the PID namespace that the sandbox's
// containers share. It is a container of its own, because the others can see it
// and must not find the host's root in it.
func (r *Runtime) startPause(ctx context.Context, s *cri.Sandbox, dir string) error {
	id, bundle := pauseID(s.ID), filepath.Join(s.Dir, "pause")
	parent, _ := r.parentCgroup(s)
	cg := cgroupIn(parent, id)
	doc := bareSpec(r.cfg.Keeper, cg, "/pause", "pause")
	for kind, name := range map[specs.LinuxNamespaceType]string{
		specs.NetworkNamespace: "net", specs.IPCNamespace: "ipc", specs.UTSNamespace: "uts",
	} {
		if path := filepath.Join(dir, name); pinned(path) {
			doc.Linux.Namespaces = append(doc.Linux.Namespaces, specs.LinuxNamespace{Type: kind, Path: path})
		}
	}
	if err := writeBundle(bundle, doc); err != nil {
		return err
	}
	st, err := r.launch(ctx, id, cg, bundle, &keeper.StartRequest{})
	if err != nil {
		return fmt.Errorf("starting the sandbox's first process: %w", err)
	}
	if st.PID == 0 {
		return fault.Unavailable.Errorf("the sandbox's first process ended at once")
	}
	return pin(fmt.Sprintf("/proc/%d/ns/pid", st.PID), filepath.Join(dir, "pid"))
}

// stopSandbox disconnects the sandbox and lets its namespaces go.
func (r *Runtime) stopSandbox(ctx context.Context, s *cri.Sandbox) error {
	if err := r.detachNetwork(ctx, s); err != nil {
		return err
	}
	return r.unpin(ctx, s)
}

// unpin ends the sandbox's pause, if it has one, and gives its namespaces up.
func (r *Runtime) unpin(ctx context.Context, s *cri.Sandbox) error {
	if err := r.removePause(ctx, s); err != nil {
		return err
	}
	dir := r.sandboxDir(s.ID)
	errs := []error{netns.Remove(filepath.Join(dir, "net"))}
	for _, name := range []string{"ipc", "uts", "pid", "shm"} {
		errs = append(errs, detach(filepath.Join(dir, name)))
	}
	return errors.Join(errs...)
}

func (r *Runtime) removePause(ctx context.Context, s *cri.Sandbox) error {
	if !sharesPID(s) {
		return nil
	}
	id := pauseID(s.ID)
	parent, _ := r.parentCgroup(s)
	cg := cgroupIn(parent, id)
	return errors.Join(r.keeper.Remove(ctx, id), cgroup.Kill(cg), cgroup.Remove(cg), os.RemoveAll(r.engine.stateDir(id)))
}

// detach takes away every mount at path. Neither a missing mount nor a missing
// file is an error.
func detach(path string) error {
	for {
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		switch {
		case err == nil:
			continue
		case errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT):
			return nil
		}
		return fmt.Errorf("unmounting %q: %w", path, err)
	}
}

// removeSandbox removes what stopSandbox left.
func (r *Runtime) removeSandbox(_ context.Context, s *cri.Sandbox) error {
	if parent, own := r.parentCgroup(s); own {
		if err := errors.Join(cgroup.Kill(parent), cgroup.Remove(parent)); err != nil {
			return err
		}
	}
	if err := mount.RemoveAll(r.sandboxDir(s.ID)); err != nil {
		return fmt.Errorf("removing the sandbox's run directory: %w", err)
	}
	r.mu.Lock()
	delete(r.sandboxes, s.ID)
	r.mu.Unlock()
	return nil
}
