// Package nspin makes namespaces outlive their creator, by mounts. Network namespaces
// have a package of their own, netns. Functions are safe for concurrent use.
package nspin

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/rawfile"
)

// IPCAndUTS creates new IPC and UTS namespaces (flags says which), runs setup inside
// them and pins them at dir/ipc and dir/uts.
func IPCAndUTS(dir string, flags int, setup func() error) error {
	if flags == 0 {
		return setup()
	}
	return OnThrowAwayThread(func() error {
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
			if err := Pin("/proc/thread-self/ns/"+name, filepath.Join(dir, name)); err != nil {
				return err
			}
		}
		return nil
	})
}

// OnThrowAwayThread runs f on a thread that ends with it, so that nothing else ever
// runs in the namespaces that f enters. It is never the main thread of the process,
// which cannot end and is what others see in /proc/PID.
func OnThrowAwayThread(f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			result <- f()
			return // without unlocking, which ends the thread
		}
		// While this goroutine holds the main thread, another goroutine gets another
		// thread.
		defer runtime.UnlockOSThread()
		result <- OnThrowAwayThread(f)
	}()
	return <-result
}

// Pin mounts a namespace at path.
func Pin(namespace, path string) error {
	f, err := rawfile.Open(path, os.O_CREATE|os.O_RDONLY, 0o444)
	if err != nil {
		return fmt.Errorf("pinning a namespace: %w", err)
	}
	if err := errors.Join(f.Close(), unix.Mount(namespace, path, "", unix.MS_BIND, "")); err != nil {
		return fmt.Errorf("pinning namespace %q at %q: %w", namespace, path, err)
	}
	return nil
}
