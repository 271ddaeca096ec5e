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

// ownUsers is a sandbox's own user namespace, whose pins are in dir. The nil
// *ownUsers stands for the host's, in which its methods do nothing.
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

// root is how the host numbers the namespace's root.
func (u *ownUsers) root() (uid, gid int) {
	if u == nil {
		return 0, 0
	}
	user, _ := spec.HostID(u.GetUids(), 0)
	group, _ := spec.HostID(u.GetGids(), 0)
	return int(user), int(group)
}

// path is where the namespace is pinned, "" for the host's.
func (u *ownUsers) path() string {
	if u == nil {
		return ""
	}
	return filepath.Join(u.dir, "user")
}

// view is how the namespace sees an image, whose files have the SELinux label.
func (u *ownUsers) view(label string) image.View {
	v := image.View{UserNS: u.path(), Label: label}
	v.RootUID, v.RootGID = u.root()
	return v
}

// give makes a file or directory that of the namespace's root.
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
	doc.Process.User = specs.User{} // which is mapped, and nobody on the host
}

// pin makes the namespace and those that flags name, which belong to it, and
// pins them all in dir.
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

// hold calls f while a process lives in new namespaces. Only such a process can
// make a user namespace that maps anybody: another has to write its mappings.
func (u *ownUsers) hold(program string, flags uintptr, f func(pid int) error) error {
	cmd := exec.Command(program, "pause")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: flags | unix.CLONE_NEWUSER, GidMappingsEnableSetgroups: true, Pdeathsig: unix.SIGKILL,
		UidMappings: sysMappings(u.GetUids()), GidMappings: sysMappings(u.GetGids()),
	}
	runtime.LockOSThread() // whose end is what Pdeathsig means
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

// inside calls f on a thread in the sandbox's IPC and UTS namespaces, as their
// root: the sysctls of an IPC namespace obey nobody else.
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
// namespace's root. It is the host's as long as that root is not mapped, as it is not
// while the two are made together, and runc labels it for SELinux, which is the owner's
// to do.
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

// becomeRoot makes the calling thread, and no other, the namespace's root.
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

// rootsDir is the part of the run directory that is open to the roots of user
// namespaces, which are nobody on the host: an OCI runtime that has become one
// goes to a container's root by its path.
const rootsDir = "roots"

// rootsOf is where the roots of a sandbox are that has a user namespace.
func (r *Runtime) rootsOf(s *cri.Sandbox) string { return r.run(rootsDir, s.ID) }

// openRoots makes the directory of the sandbox's roots, for its own root alone.
func (r *Runtime) openRoots(s *cri.Sandbox, u *ownUsers) error {
	if u == nil {
		return nil
	}
	dir := r.rootsOf(s)
	return errors.Join(os.Mkdir(dir, 0o700), u.give(dir))
}

// showRoot mounts the container's root where the sandbox's users can go.
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
