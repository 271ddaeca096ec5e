package oci

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cri"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// pinIPCAndUTS makes new IPC and UTS namespaces (flags says which), runs setup
// inside them and pins them at dir/ipc and dir/uts.
func pinIPCAndUTS(dir string, flags int, setup func() error) error {
	if flags == 0 {
		return setup()
	}
	return onThrowAwayThread(func() error {
		if err := unix.Unshare(flags); err != nil {
			return fmt.Errorf("making namespaces: %w", err)
		}
		if err := setup(); err != nil {
			return err
		}
		for name, flag := range map[string]int{"ipc": unix.CLONE_NEWIPC, "uts": unix.CLONE_NEWUTS} {
			if flags&flag == 0 {
				continue
			}
			if err := pin("/proc/thread-self/ns/"+name, filepath.Join(dir, name)); err != nil {
				return err
			}
		}
		return nil
	})
}

// onThrowAwayThread runs f on a thread that ends with it, so that nobody else
// ever runs in the namespaces that f enters. It is never the process's first
// thread, which cannot end and is what others see in /proc/PID.
func onThrowAwayThread(f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			result <- f()
			return // without unlocking, which ends the thread
		}
		// While this goroutine holds the first thread, another gets another.
		defer runtime.UnlockOSThread()
		result <- onThrowAwayThread(f)
	}()
	return <-result
}

// pin mounts a namespace at path.
func pin(namespace, path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o444)
	if err != nil {
		return fmt.Errorf("pinning a namespace: %w", err)
	}
	if err := errors.Join(f.Close(), unix.Mount(namespace, path, "", unix.MS_BIND, "")); err != nil {
		return fmt.Errorf("pinning namespace %q at %q: %w", namespace, path, err)
	}
	return nil
}

// targetPin is where a container that shares another one's PID namespace has
// that pinned.
func (r *Runtime) targetPin(c *cri.Container) string {
	return filepath.Join(r.sandboxDir(c.Sandbox.ID), "target-"+c.ID)
}

// pinTarget pins the PID namespace of a running container of the same sandbox
// and returns where. A path below /proc would not do: when the target has ended
// before the container starts, its process id may be anybody's.
func (r *Runtime) pinTarget(ctx context.Context, c *cri.Container, target string) (path string, err error) {
	r.mu.Lock()
	t := r.containers[target]
	r.mu.Unlock()
	if t == nil || t.Sandbox.ID != c.Sandbox.ID {
		return "", fault.Invalid.Errorf("container %q, whose PID namespace is to be shared, is not of the same sandbox", target)
	}
	pid, err := r.pidOf(ctx, target)
	if err != nil {
		return "", err
	}
	path = r.targetPin(c)
	if err := pin(fmt.Sprintf("/proc/%d/ns/pid", pid), path); err != nil {
		return "", err
	}
	// It still runs, so the process was its own all the while.
	if again, err := r.pidOf(ctx, target); err != nil || again != pid {
		return "", errors.Join(err, unpin(path))
	}
	return path, nil
}

func (r *Runtime) pidOf(ctx context.Context, container string) (int, error) {
	statuses, err := r.statuses(ctx)
	if err != nil {
		return 0, err
	}
	if pid := statuses[container].PID; pid != 0 {
		return pid, nil
	}
	return 0, fault.FailedPrecondition.Errorf("container %q, whose PID namespace is to be shared, is not running", container)
}

func unpin(path string) error {
	if err := detach(path); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// pinned reports whether a namespace is pinned at path.
func pinned(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Type == unix.NSFS_MAGIC
}

// setSysctls writes sysctls of the calling thread's namespaces.
func setSysctls(values map[string]string) error {
	for name, value := range values {
		file := filepath.Join("/proc/sys", strings.ReplaceAll(name, ".", "/"))
		if err := os.WriteFile(file, []byte(value), 0); err != nil {
			return fmt.Errorf("setting sysctl %q: %w", name, err)
		}
	}
	return nil
}
