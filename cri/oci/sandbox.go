package oci

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri"
	"github.com/nodekit-project/nodekit/cri/oci/keeper"
	"github.com/nodekit-project/nodekit/cri/oci/spec"
	"github.com/nodekit-project/nodekit/internal/cgroup"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/flock"
	"github.com/nodekit-project/nodekit/internal/mount"
	"github.com/nodekit-project/nodekit/internal/netns"
	"github.com/nodekit-project/nodekit/internal/nspin"
	"github.com/nodekit-project/nodekit/internal/overlay"
)

// sandboxDir holds what does not survive a reboot: the pins, /dev/shm, and the containers'
// bundles and roots. It is a mount point from the moment the first of them is created, so
// nothing can be renamed across it, and a single unmount, which waits only once for all
// processors, removes all mounts below it.
func (r *Runtime) sandboxDir(id string) string { return r.run(sandboxesDir, id) }

const sandboxesDir = "sandboxes"

// pauseID names the sandbox's container that is only the first process of its PID
// namespace.
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

// sharesPID reports whether the Pod's containers share a PID namespace. POD is the zero
// value, so a caller that sets no namespace options would get it; a kubelet always sets
// them.
func sharesPID(s *cri.Sandbox) bool {
	o := namespaceOptions(s)
	return o != nil && o.GetPid() == runtimeapi.NamespaceMode_POD
}

// runSandbox creates the sandbox's namespaces and files and connects it to its network.
func (r *Runtime) runSandbox(ctx context.Context, s *cri.Sandbox) error {
	if s.Config.GetWindows() != nil {
		return fault.Unimplemented.Errorf("Windows options are not supported")
	}
	if err := spec.CheckNamespaces(s.Config); err != nil {
		return err
	}
	u, err := r.usersIn(s)
	if err != nil {
		return err
	}
	if err := r.checkParent(s); err != nil {
		return err
	}
	if _, err := r.engineFor(s); err != nil {
		return err
	}
	r.cgroups.Keep() // its first container follows soon
	r.mu.Lock()
	r.sandboxes[s.ID] = s
	r.mu.Unlock()
	if err := r.noteParent(s); err != nil {
		return err
	}
	labels, err := r.chooseLabels(s)
	if err != nil {
		return err
	}
	dir := r.sandboxDir(s.ID)
	if err := os.Mkdir(dir, 0o711); err != nil {
		return fmt.Errorf("making the sandbox's run directory: %w", err)
	}
	if err := errors.Join(r.openRoots(s, u), r.writeSandboxFiles(s, u, labels.Mount)); err != nil {
		return err
	}
	sysctls, err := splitSysctls(s)
	if err != nil {
		return err
	}
	namespaces := func() error { return r.makeNamespaces(s, u, sysctls, labels.Mount) }
	if hostNetwork(s) {
		err = namespaces()
	} else {
		err = r.attachNetwork(ctx, s, namespaces)
	}
	if err == nil {
		err = r.inNetwork(s, sysctls.links)
	}
	if err != nil {
		return err
	}
	if sharesPID(s) {
		return r.startPause(ctx, s, u, dir)
	}
	return nil
}

// makeNamespaces pins the sandbox's namespaces and applies its sysctls in them. With an
// IPC namespace comes a /dev/shm, which gets the SELinux label.
func (r *Runtime) makeNamespaces(s *cri.Sandbox, u *ownUsers, sysctls sysctls, label string) error {
	dir := r.sandboxDir(s.ID)
	var err error
	if hostIPC(s) {
		err = gather(dir)
	} else {
		err = makeShm(dir, u, label)
	}
	if err != nil {
		return err
	}
	if u != nil {
		err = r.makeOwned(s, u, sysctls.ipc)
	} else {
		err = makeHosts(s, dir, sysctls.ipc)
		if err == nil && !hostNetwork(s) {
			err = netns.Create(filepath.Join(dir, "net"))
		}
	}
	if err != nil {
		return err
	}
	return r.inNetwork(s, sysctls.net)
}

// inNetwork applies sysctls to the sandbox's network namespace.
func (r *Runtime) inNetwork(s *cri.Sandbox, values map[string]string) error {
	if len(values) == 0 {
		return nil
	}
	return netns.Do(filepath.Join(r.sandboxDir(s.ID), "net"), func() error { return setSysctls(values) })
}

// gather is makeShm for a sandbox with the host's /dev/shm.
func gather(dir string) error {
	if err := unix.Mount("sandbox", dir, "tmpfs", unix.MS_NOEXEC|unix.MS_NOSUID|unix.MS_NODEV, "mode=0711"); err != nil {
		return fmt.Errorf("mounting a file system at %q: %w", dir, err)
	}
	return nil
}

// makeOwned creates the namespaces that belong to the sandbox's user namespace.
func (r *Runtime) makeOwned(s *cri.Sandbox, u *ownUsers, ipc map[string]string) error {
	if err := u.pin(r.cfg.Keeper, unix.CLONE_NEWIPC|unix.CLONE_NEWUTS|unix.CLONE_NEWNET); err != nil {
		return err
	}
	return u.inside(func() error {
		if err := errors.Join(setHostname(s), u.ownQueues()); err != nil || len(ipc) == 0 {
			return err
		}
		if err := u.becomeRoot(); err != nil {
			return err
		}
		return setSysctls(ipc)
	})
}

// makeHosts creates the namespaces that belong to the host's user namespace.
func makeHosts(s *cri.Sandbox, dir string, ipc map[string]string) error {
	flags := 0
	if !hostIPC(s) {
		flags |= unix.CLONE_NEWIPC
	}
	if !hostNetwork(s) {
		flags |= unix.CLONE_NEWUTS
	}
	return nspin.IPCAndUTS(dir, flags, func() error {
		if flags&unix.CLONE_NEWUTS != 0 {
			if err := setHostname(s); err != nil {
				return err
			}
		}
		return setSysctls(ipc)
	})
}

// setHostname sets the hostname of the calling thread's UTS namespace.
func setHostname(s *cri.Sandbox) error {
	host := s.Config.GetHostname()
	if host == "" {
		return nil
	}
	if err := unix.Sethostname([]byte(host)); err != nil {
		return fault.Invalid.Errorf("setting hostname %q: %w", host, err)
	}
	return nil
}

// makeShm mounts the file system of the /dev/shm that the Pod's containers share, with the
// size that is usual for container runtimes, on the sandbox's run directory. /dev/shm is a
// directory of it: a mount of its own would be one more that each OCI runtime that starts
// a container copies and reads, whichever Pod it is for.
func makeShm(dir string, u *ownUsers, label string) error {
	options := "mode=0711,size=65536k" + overlay.ContextOption(label)
	if err := unix.Mount("shm", dir, "tmpfs", unix.MS_NOEXEC|unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		return fmt.Errorf("mounting the file system of /dev/shm at %q: %w", dir, err)
	}
	path := filepath.Join(dir, "shm")
	if err := os.Mkdir(path, 0o700); err != nil {
		return err
	}
	uid, gid := u.root()
	return errors.Join(os.Chown(path, uid, gid), os.Chmod(path, 0o777|os.ModeSticky))
}

// sysctls holds values by their paths below /proc/sys.
type sysctls struct {
	net, ipc map[string]string
	links    map[string]string // of interfaces that exist once the network is connected
}

// splitSysctls sorts the sandbox's sysctls by namespace, and refuses those that would
// affect the host.
func splitSysctls(s *cri.Sandbox) (sysctls, error) {
	out := sysctls{net: map[string]string{}, ipc: map[string]string{}, links: map[string]string{}}
	for name, value := range s.Config.GetLinux().GetSysctls() {
		file := sysctlFile(name)
		ipc := strings.HasPrefix(file, "kernel/shm") || strings.HasPrefix(file, "kernel/msg") ||
			strings.HasPrefix(file, "fs/mqueue/") || file == "kernel/sem"
		switch {
		case file != path.Clean(file):
			return out, fault.Invalid.Errorf("sysctl %q is no name", name)
		case strings.HasPrefix(file, "net/") && !hostNetwork(s):
			if ofLink(file) {
				out.links[file] = value
			} else {
				out.net[file] = value
			}
		case ipc && !hostIPC(s):
			out.ipc[file] = value
		default:
			return out, fault.Invalid.Errorf("sysctl %q belongs to no namespace of the sandbox", name)
		}
	}
	return out, nil
}

// sysctlFile returns the path of a sysctl below /proc/sys. The parts of its name are
// separated by dots, and a dot within a part, such as an interface name, is written as a
// slash; or the other way round if a slash comes first (sysctl.d(5)).
func sysctlFile(name string) string {
	if at := strings.IndexAny(name, "./"); at < 0 || name[at] == '/' {
		return name
	}
	return swapSeparators(name)
}

func swapSeparators(name string) string { return strings.NewReplacer(".", "/", "/", ".").Replace(name) }

// ofLink reports whether a sysctl belongs to a single interface, which does not exist in
// a new network namespace.
func ofLink(file string) bool {
	parts := strings.Split(file, "/")
	return len(parts) > 4 && (parts[2] == "conf" || parts[2] == "neigh") && !slices.Contains([]string{"all", "default", "lo"}, parts[3])
}

// startPause starts the first process of the PID namespace that the sandbox's containers
// share. It is a container of its own, because the others can see it and must not reach
// the host's root through it. It has no SELinux label: its program is a file of the host,
// from which no labelled container can start (container-selinux allows only entrypoints
// labelled container_file_t and the like). So the other containers cannot access it.
func (r *Runtime) startPause(ctx context.Context, s *cri.Sandbox, u *ownUsers, dir string) error {
	id, bundle := pauseID(s.ID), filepath.Join(s.Dir, "pause")
	if u != nil {
		bundle = filepath.Join(r.rootsOf(s), "pause")
	}
	e, err := r.engineFor(s)
	if err != nil {
		return err
	}
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
	u.join(doc)
	if err := writeBundle(bundle, doc, u); err != nil {
		return err
	}
	st, err := r.launch(ctx, process{engine: e, id: id, cg: cg, bundle: bundle, view: r.viewFor(s, doc)}, &keeper.StartRequest{})
	if err != nil {
		return fmt.Errorf("starting the sandbox's first process: %w", err)
	}
	if st.PID == 0 {
		return fault.Unavailable.Errorf("the sandbox's first process ended at once")
	}
	return nspin.Pin(fmt.Sprintf("/proc/%d/ns/pid", st.PID), filepath.Join(dir, "pid"))
}

// stopSandbox disconnects the sandbox and unpins its namespaces.
func (r *Runtime) stopSandbox(ctx context.Context, s *cri.Sandbox) error {
	var group errgroup.Group
	group.Go(func() error { return r.removePause(ctx, s) })
	group.Go(func() error { return r.detachNetwork(ctx, s) })
	// A criu that still saves the Pod is found through this mount.
	err := errors.Join(group.Wait(), flock.Evict(ctx, r.savingFile(s.ID), criuGrace))
	if err != nil {
		return errors.Join(err, r.unpinAll(s, "ipc", "uts", "pid", "shm"))
	}
	return r.unpin(s)
}

// unpin releases the sandbox's namespaces and its /dev/shm, and with the network
// namespace whatever plugins have left in it.
func (r *Runtime) unpin(s *cri.Sandbox) error {
	dir := r.sandboxDir(s.ID)
	if all, err := detach(dir); all || err != nil {
		return err
	}
	return r.unpinAll(s, "ipc", "uts", "pid", "shm", "user", "net") // as earlier versions mounted them
}

func (r *Runtime) unpinAll(s *cri.Sandbox, names ...string) error {
	var errs []error
	for _, name := range names {
		_, err := detach(filepath.Join(r.sandboxDir(s.ID), name))
		errs = append(errs, err)
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
	return errors.Join(r.keeper.Remove(ctx, id), cgroup.Destroy(cg), r.engines[""].dropState(id))
}

// detach unmounts every mount at path, with the mounts below it, and reports whether
// there was one. Neither a missing mount nor a missing file is an error.
func detach(path string) (some bool, err error) {
	for {
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		switch {
		case err == nil:
			some = true
			continue
		case errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT):
			return some, nil
		}
		return some, fmt.Errorf("unmounting %q: %w", path, err)
	}
}

// removeSandbox removes what stopSandbox left.
func (r *Runtime) removeSandbox(_ context.Context, s *cri.Sandbox) error {
	if parent, own := r.parentCgroup(s); own {
		if err := cgroup.Destroy(parent); err != nil {
			return err
		}
	}
	if err := errors.Join(mount.RemoveAll(r.sandboxDir(s.ID)), mount.RemoveAll(r.rootsOf(s))); err != nil {
		return fmt.Errorf("removing the sandbox's run directory: %w", err)
	}
	r.mu.Lock()
	delete(r.sandboxes, s.ID)
	delete(r.parents, s.ID)
	r.mu.Unlock()
	r.rates.forget(s.ID)
	r.labels.Release(s.ID)
	return r.releaseParents()
}
