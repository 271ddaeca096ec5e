package oci

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri"
	"github.com/nodekit-project/nodekit/cri/oci/image"
	"github.com/nodekit-project/nodekit/cri/oci/spec"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/mount"
	"github.com/nodekit-project/nodekit/internal/netns"
	"github.com/nodekit-project/nodekit/internal/nspin"
)

// ownUsers is a sandbox's own user namespace, whose pins are in dir. A nil *ownUsers is
// the host's, for which its methods do nothing.
type ownUsers struct {
	*runtimeapi.UserNamespace

	dir string
}

// usersIn returns the sandbox's user namespace.
func (r *Runtime) usersIn(s *cri.Sandbox) (*ownUsers, error) {
	u, err := spec.UserNamespace(s.Config)
	if u == nil || err != nil {
		return nil, err
	}
	return &ownUsers{UserNamespace: u, dir: r.sandboxDir(s.ID)}, nil
}

// root returns the host IDs of the namespace's root.
func (u *ownUsers) root() (uid, gid int) {
	if u == nil {
		return 0, 0
	}
	user, _ := spec.HostID(u.GetUids(), 0)
	group, _ := spec.HostID(u.GetGids(), 0)
	return int(user), int(group)
}

// path returns where the namespace is pinned, "" for the host's.
func (u *ownUsers) path() string {
	if u == nil {
		return ""
	}
	return filepath.Join(u.dir, "user")
}

// view describes how to mount an image for the namespace, with files that have the
// SELinux label.
func (u *ownUsers) view(label string) image.View {
	v := image.View{UserNS: u.path(), Label: label}
	v.RootUID, v.RootGID = u.root()
	return v
}

// give changes the owner of a file or directory to the namespace's root.
func (u *ownUsers) give(path string) error {
	if u == nil {
		return nil
	}
	uid, gid := u.root()
	return os.Lchown(path, uid, gid)
}

// join puts a bare container into the namespace.
func (u *ownUsers) join(doc *specs.Spec) {
	if u == nil {
		return
	}
	doc.Linux.Namespaces = append(doc.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace, Path: u.path()})
	doc.Linux.UIDMappings, doc.Linux.GIDMappings = spec.IDMappings(u.GetUids()), spec.IDMappings(u.GetGids())
	doc.Process.User = specs.User{} // root, which is mapped and unprivileged on the host
}

// pin creates the namespace and those in flags, which it owns, and pins all of them in
// dir.
func (u *ownUsers) pin(program string, flags uintptr) error {
	return u.hold(program, flags, func(pid int) error {
		ns := fmt.Sprintf("/proc/%d/ns/", pid)
		names := map[string]uintptr{"user": unix.CLONE_NEWUSER, "ipc": unix.CLONE_NEWIPC, "uts": unix.CLONE_NEWUTS}
		for name, flag := range names {
			if (flags|unix.CLONE_NEWUSER)&flag == 0 {
				continue
			}
			if err := nspin.Pin(ns+name, filepath.Join(u.dir, name)); err != nil {
				return err
			}
		}
		if flags&unix.CLONE_NEWNET == 0 {
			return nil
		}
		return netns.Pin(ns+"net", filepath.Join(u.dir, "net"))
	})
}

// hold calls f while a process exists in new namespaces. A user namespace with mappings
// needs such a process: another process has to write the mappings.
func (u *ownUsers) hold(program string, flags uintptr, f func(pid int) error) error {
	cmd := exec.Command(program, "pause")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: flags | unix.CLONE_NEWUSER, GidMappingsEnableSetgroups: true, Pdeathsig: unix.SIGKILL,
		UidMappings: sysMappings(u.GetUids()), GidMappings: sysMappings(u.GetGids()),
	}
	runtime.LockOSThread() // Pdeathsig is sent when this thread ends
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		return fault.FailedPrecondition.Errorf("making a user namespace: %w", err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	return f(cmd.Process.Pid)
}

func sysMappings(list []*runtimeapi.IDMapping) (out []syscall.SysProcIDMap) {
	for _, m := range list {
		out = append(out, syscall.SysProcIDMap{ContainerID: int(m.GetContainerId()), HostID: int(m.GetHostId()), Size: int(m.GetLength())})
	}
	return out
}

// inside calls f on a thread in the sandbox's IPC and UTS namespaces, as their root:
// nobody else may set the sysctls of an IPC namespace.
func (u *ownUsers) inside(f func() error) error {
	return nspin.OnThrowAwayThread(func() error {
		for name, kind := range map[string]int{"ipc": unix.CLONE_NEWIPC, "uts": unix.CLONE_NEWUTS} {
			if err := enter(filepath.Join(u.dir, name), kind); err != nil {
				return err
			}
		}
		return f()
	})
}

// ownQueues gives /dev/mqueue of the calling thread's IPC namespace to the user
// namespace's root. It belongs to the host's root if the namespace's root was not mapped
// when it was created, as when both namespaces are created together; and runc labels it
// for SELinux, which only the owner may do.
func (u *ownUsers) ownQueues() error {
	at, err := mountNowhere("mqueue")
	if errors.Is(err, unix.ENODEV) { // the kernel has no message queues
		return nil
	}
	if err != nil {
		return fmt.Errorf("opening the message queues: %w", err)
	}
	defer unix.Close(at)
	uid, gid := u.root()
	if err := unix.Fchownat(at, "", uid, gid, unix.AT_EMPTY_PATH); err != nil {
		return fmt.Errorf("owning the message queues: %w", err)
	}
	return nil
}

// becomeRoot makes only the calling thread the namespace's root.
func (u *ownUsers) becomeRoot() error {
	const keep = ^uintptr(0)
	uid, gid := u.root()
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, keep, uintptr(gid), keep); errno != 0 {
		return fmt.Errorf("becoming group %d: %w", gid, errno)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, keep, uintptr(uid), keep); errno != 0 {
		return fmt.Errorf("becoming user %d: %w", uid, errno)
	}
	return nil
}

func enter(path string, kind int) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Setns(int(f.Fd()), kind); err != nil {
		return fmt.Errorf("entering namespace %q: %w", path, err)
	}
	return nil
}

// rootsDir is the part of the run directory that is accessible to the roots of user
// namespaces, which are unprivileged on the host: an OCI runtime that has become one
// reaches a container's root by its path.
const rootsDir = "roots"

// rootsOf is where the container roots of a sandbox with a user namespace are.
func (r *Runtime) rootsOf(s *cri.Sandbox) string { return r.run(rootsDir, s.ID) }

// openRoots creates the directory of the sandbox's container roots, for the root of its
// user namespace only.
func (r *Runtime) openRoots(s *cri.Sandbox, u *ownUsers) error {
	if u == nil {
		return nil
	}
	dir := r.rootsOf(s)
	return errors.Join(os.Mkdir(dir, 0o700), u.give(dir))
}

// showRoot mounts the container's root where the sandbox's users can reach it.
func (r *Runtime) showRoot(c *cri.Container, root *image.Rootfs, u *ownUsers) error {
	if u == nil {
		return nil
	}
	at := filepath.Join(r.rootsOf(c.Sandbox), c.ID)
	if err := os.Mkdir(at, 0o755); err != nil {
		return err
	}
	if err := mount.Bind(root.Path, at, nil); err != nil {
		return err
	}
	root.Path = at
	return nil
}

// hideRoot undoes showRoot.
func (r *Runtime) hideRoot(c *cri.Container) error {
	at := filepath.Join(r.rootsOf(c.Sandbox), c.ID)
	if _, err := detach(at); err != nil {
		return err
	}
	if err := os.Remove(at); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
