// Package isolate executes the program again in new namespaces, for code that changes
// the machine: a benchmark creates bridges, rules and processes, and none of them may
// be left, however it ends.
package isolate

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// endTime is how long the isolated program may take to end after ctx has.
const endTime = 30 * time.Second

// Run executes this program with the arguments in a new network and mount namespace
// and, with processes, a new PID namespace, and waits for it. The kernel kills it when
// this process dies. With processes the program must call Init first. If the program's
// exit code is not 0, the error is an exec.ExitError.
func Run(ctx context.Context, args []string, processes bool) error {
	if os.Geteuid() != 0 {
		return fault.PermissionDenied.Errorf("network namespaces need root")
	}
	// The kernel's parent death signal follows the thread that forked.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, "/proc/self/exe", args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
	cmd.WaitDelay = endTime
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Pdeathsig:    unix.SIGKILL,
		Unshareflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS,
	}
	if processes {
		cmd.SysProcAttr.Cloneflags = unix.CLONE_NEWPID
	}
	return cmd.Run()
}

// Init does the work of the first process of a PID namespace: it runs this program
// again with the same arguments, reaps orphans meanwhile, and returns first=true and
// how that program ended. When the caller ends, the kernel kills what still runs. In
// any other process Init does nothing.
func Init(ctx context.Context) (first bool, err error) {
	if os.Getpid() != 1 {
		return false, nil
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return true, fmt.Errorf("mounting /proc: %w", err)
	}
	self, err := os.StartProcess("/proc/self/exe", os.Args, &os.ProcAttr{
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}, Sys: &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL},
	})
	if err != nil {
		return true, err
	}
	stop := context.AfterFunc(ctx, func() { _ = self.Signal(unix.SIGTERM) }) // it may have ended
	defer stop()
	return true, reap(self.Pid)
}

// reap waits for every process that ends until pid does.
func reap(pid int) error {
	for {
		var status unix.WaitStatus
		who, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("waiting for the isolated program: %w", err)
		case who == pid && status.Signaled():
			return fault.Internal.Errorf("the isolated program was killed: %v", status.Signal())
		case who == pid && status.ExitStatus() != 0:
			return Exit(status.ExitStatus())
		case who == pid:
			return nil
		}
	}
}

// Exit is the exit code, not 0, of the program under Init, which has already reported
// why.
type Exit int

// Error says so.
func (e Exit) Error() string { return fmt.Sprintf("the isolated program ended with code %d", int(e)) }

// Loopback brings up the loopback interface of the new network namespace.
func Loopback() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}
