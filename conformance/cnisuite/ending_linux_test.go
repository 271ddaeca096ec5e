package cnisuite_test

import (
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// daemons are no plugins, and run beside one.
func daemons() map[string]func() int { return map[string]func() int{"hoards": hoards} }

// hoards holds a lock and much memory, which the kernel frees before the lock. Its
// first thread has ended: /proc shows nothing of it by which it could be told.
func hoards() int {
	dir := os.Getenv("DIR")
	lock, err := os.Create(filepath.Join(dir, "lock"))
	if err != nil || unix.Flock(int(lock.Fd()), unix.LOCK_EX) != nil {
		return 1
	}
	memory, err := unix.Mmap(-1, 0, 1<<30, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil || unix.Madvise(memory, unix.MADV_NOHUGEPAGE) != nil {
		return 1
	}
	for i := 0; i < len(memory); i += os.Getpagesize() {
		memory[i] = 1
	}
	leave := make(chan struct{})
	go endFirstThread(leave)
	<-leave
	if os.WriteFile(filepath.Join(dir, "ready"), nil, 0o600) != nil {
		return 1
	}
	select {}
}

// endFirstThread ends the first thread of the process, or has others do so while it keeps
// its own.
func endFirstThread(ending chan<- struct{}) {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		close(ending)
		_, _, _ = unix.Syscall(unix.SYS_EXIT, 0, 0, 0) // of this thread alone
	}
	go endFirstThread(ending)
	select {}
}
