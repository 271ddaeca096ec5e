package cni

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// child is an executed plugin. The thread that forked waits for its pipes and its end at
// once, with poll(2). With os/exec it takes three goroutines, and most switches between
// them happen while the plugin could run: 0.1 to 0.2 ms of each execution
// (docs/decisions/008).
type child struct {
	pid   int
	pidfd int // -1 if the kernel has none: before Linux 5.2

	stdin  int    // writing end of the pipe, or -1
	input  []byte // what the pipe has not taken yet
	output [2]outlet

	mu     sync.Mutex
	reaped bool
}

// outlet is the reading end of the pipe to stdout or stderr, or -1, and where it leads.
type outlet struct {
	fd int
	to io.Writer
}

// start executes the file in a process group of its own, which is killed when the calling
// thread ends. That thread must be the one that waits.
func start(file string, env []string, stdin []byte, stdout, stderr io.Writer) (_ *child, err error) {
	if filepath.Base(file) == file {
		if file, err = exec.LookPath(file); err != nil {
			return nil, err
		}
	}
	c := &child{pidfd: -1, stdin: -1, input: stdin, output: [2]outlet{{-1, stdout}, {-1, stderr}}}
	theirs := []int{-1, -1, -1}
	defer func() {
		closeFDs(theirs...)
		if err != nil {
			c.close()
		}
	}()
	if theirs[0], c.stdin, err = pipe(); err != nil {
		return nil, err
	}
	for i := range c.output {
		if c.output[i].fd, theirs[1+i], err = pipe(); err != nil {
			return nil, err
		}
	}
	for _, fd := range []int{c.stdin, c.output[0].fd, c.output[1].fd} {
		if err := unix.SetNonblock(fd, true); err != nil {
			return nil, os.NewSyscallError("fcntl", err)
		}
	}
	c.feed() // most configurations fit into the pipe
	c.pid, err = syscall.ForkExec(file, []string{file}, &syscall.ProcAttr{
		Dir:   "/",
		Env:   env,
		Files: []uintptr{uintptr(theirs[0]), uintptr(theirs[1]), uintptr(theirs[2])},
		Sys:   &syscall.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGKILL, PidFD: &c.pidfd},
	})
	if err != nil {
		return nil, &fs.PathError{Op: "fork/exec", Path: file, Err: err}
	}
	return c, nil
}

func pipe() (r, w int, err error) {
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
		return -1, -1, os.NewSyscallError("pipe2", err)
	}
	return ends[0], ends[1], nil
}

// wait waits for the process and the end of its output, for that drainTime longer than
// for the process at most: then the error is exec.ErrWaitDelay. Call it once.
func (c *child) wait() error {
	defer c.close()
	var (
		buf     = make([]byte, 8<<10)
		status  unix.WaitStatus
		ended   bool
		until   time.Time // for the output, once the process has ended
		copying error
	)
	for !ended || c.output[0].fd >= 0 || c.output[1].fd >= 0 {
		patience := forever
		if ended {
			patience = time.Until(until)
			if patience <= 0 {
				copying = cmp.Or(copying, exec.ErrWaitDelay)
				break
			}
		}
		ready, err := c.poll(patience)
		if err != nil {
			c.abandon()
			return err
		}
		for i := range c.output {
			if ready.output[i] {
				copying = cmp.Or(copying, c.output[i].forward(buf))
			}
		}
		if ready.stdin {
			c.feed()
		}
		if ready.process && !ended {
			if ended, status, err = c.reap(); err != nil {
				return err
			}
			until = time.Now().Add(drainTime)
		}
	}
	switch {
	case status.Signaled():
		return fmt.Errorf("signal: %v", status.Signal())
	case status.ExitStatus() != 0:
		return fmt.Errorf("exit status %d", status.ExitStatus())
	}
	return copying
}

// forever is the longest time that poll waits.
const forever = math.MaxInt32 * time.Millisecond

// ready says what poll has found something to do for.
type ready struct {
	stdin, process bool
	output         [2]bool
}

// poll waits until there is something to do, but not longer than patience. Without a
// pidfd it finds the process ready every 20 milliseconds.
func (c *child) poll(patience time.Duration) (r ready, err error) {
	if c.pidfd < 0 && !c.reaped {
		patience = min(patience, 20*time.Millisecond)
	}
	fds := []unix.PollFd{ // the kernel ignores negative ones
		{Fd: int32(c.stdin), Events: unix.POLLOUT},
		{Fd: int32(c.output[0].fd), Events: unix.POLLIN},
		{Fd: int32(c.output[1].fd), Events: unix.POLLIN},
		{Fd: int32(c.pidfd), Events: unix.POLLIN},
	}
	if c.reaped {
		fds[3].Fd = -1
	}
	if _, err := unix.Poll(fds, int((patience+time.Millisecond-1)/time.Millisecond)); err != nil && !errors.Is(err, unix.EINTR) {
		return r, os.NewSyscallError("poll", err)
	}
	happened := func(i int) bool { return fds[i].Revents != 0 }
	return ready{happened(0), happened(3) || c.pidfd < 0, [2]bool{happened(1), happened(2)}}, nil
}

// feed writes what the pipe to stdin takes, and closes it after the last byte, or when
// the plugin has: it need not read everything.
func (c *child) feed() {
	for len(c.input) > 0 {
		n, err := unix.Write(c.stdin, c.input)
		if errors.Is(err, unix.EAGAIN) {
			return
		}
		if err != nil {
			break
		}
		c.input = c.input[n:]
	}
	closeFDs(c.stdin)
	c.stdin = -1
}

// forward passes on a piece of what is in the pipe. It closes the pipe at its end, and
// when nobody takes what is in it.
func (o *outlet) forward(buf []byte) error {
	n, err := unix.Read(o.fd, buf)
	switch {
	case errors.Is(err, unix.EAGAIN):
		return nil
	case err == nil && n > 0:
		if _, err = o.to.Write(buf[:n]); err == nil {
			return nil
		}
	}
	closeFDs(o.fd)
	o.fd = -1
	return err
}

// reap collects the process if it has ended.
func (c *child) reap() (ended bool, status unix.WaitStatus, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	pid, err := unix.Wait4(c.pid, &status, unix.WNOHANG, nil)
	if err != nil {
		return false, 0, os.NewSyscallError("wait4", err)
	}
	c.reaped = pid == c.pid
	return c.reaped, status, nil
}

// abandon ends a process that cannot be waited for with its pipes.
func (c *child) abandon() {
	c.kill()
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.reaped {
		_, err := unix.Wait4(c.pid, nil, 0, nil)
		c.reaped = err == nil
	}
}

// terminate tells the process and its descendants to end. It is an error if the process
// has been collected already. It may be called at any time, by any goroutine.
func (c *child) terminate() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reaped {
		return os.ErrProcessDone
	}
	return unix.Kill(-c.pid, unix.SIGTERM)
}

// kill kills what is left of the process and its descendants.
func (c *child) kill() { _ = unix.Kill(-c.pid, unix.SIGKILL) }

func (c *child) close() { closeFDs(c.stdin, c.output[0].fd, c.output[1].fd, c.pidfd) }

func closeFDs(fds ...int) {
	for _, fd := range fds {
		if fd >= 0 {
			_ = unix.Close(fd) // nothing is written back at the end of a pipe
		}
	}
}
