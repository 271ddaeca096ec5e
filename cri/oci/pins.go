package oci

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cri"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/nspin"
)

// targetPin is where the PID namespace of another container is pinned that the container
// shares.
func (r *Runtime) targetPin(c *cri.Container) string {
	return filepath.Join(r.sandboxDir(c.Sandbox.ID), "target-"+c.ID)
}

// pinTarget pins the PID namespace of a running container of the same sandbox and returns
// the path. A path below /proc would not do: if the target ends before the container
// starts, its process id may be reused.
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
	if err := nspin.Pin(fmt.Sprintf("/proc/%d/ns/pid", pid), path); err != nil {
		return "", err
	}
	// It still runs, so the process id was its own all the time.
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
	if _, err := detach(path); err != nil {
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

// setSysctls writes sysctls of the calling thread's namespaces, by their paths. It is the
// request's fault if the kernel does not have a sysctl or refuses its value.
func setSysctls(values map[string]string) error {
	for file, value := range values {
		if err := os.WriteFile(filepath.Join("/proc/sys", file), []byte(value), 0); err != nil {
			return fault.Invalid.Errorf("setting sysctl %q to %q: %w", swapSeparators(file), value, err)
		}
	}
	return nil
}
