package oci

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
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
