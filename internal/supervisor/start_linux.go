package supervisor

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// lastWords is how long the reaping of a process waits for what it printed
// last. Whoever inherited its pipes may hold them open for longer.
const lastWords = 200 * time.Millisecond

// start begins a life of the process. A thread of its own waits for it: the
// kernel sends the parent death signal when the thread that forked ends, not
// when its process does, and Go ends threads that goroutines lock and leave.
func (p *Process) start() (*run, error) {
	r := &run{done: make(chan struct{})}
	started := make(chan error)
	onThread(p.command.Enter != nil, func() {
		printed, err := p.fork(r)
		started <- err
		if err != nil {
			return
		}
		r.reap(printed)
		close(r.done)
	})
	if err := <-started; err != nil {
		return nil, fmt.Errorf("starting %q: %w", p.command.Path, err)
	}
	return r, nil
}

// onThread runs f on a thread of its own. One that is spent enters something, so
// it ends with f. It is never the first thread of the process: Go cannot end
// that one, and what it has entered is what /proc/self shows of the process.
func onThread(spent bool, f func()) {
	go func() {
		runtime.LockOSThread()
		if !spent {
			defer runtime.UnlockOSThread()
		} else if unix.Gettid() == unix.Getpid() {
			defer runtime.UnlockOSThread()
			another := make(chan struct{})
			go func() {
				runtime.LockOSThread()
				close(another)
				f()
			}()
			<-another
			return
		}
		f()
	}()
}

// fork starts the process and returns a channel that is closed when all it
// printed was read.
func (p *Process) fork(r *run) (printed <-chan struct{}, err error) {
	r.cmd = exec.Command(p.command.Path, p.command.Args...)
	r.cmd.Env, r.cmd.Dir = p.command.Env, p.command.Dir
	r.cmd.SysProcAttr = &syscall.SysProcAttr{}
	if p.command.SysProcAttr != nil {
		*r.cmd.SysProcAttr = *p.command.SysProcAttr
	}
	r.cmd.SysProcAttr.Setpgid = true
	r.cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	if p.command.Enter != nil {
		if err := p.command.Enter(); err != nil {
			return nil, err
		}
	}
	stdout, childStdout, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer childStdout.Close()
	stderr, childStderr, err := os.Pipe()
	if err != nil {
		stdout.Close()
		return nil, err
	}
	defer childStderr.Close()
	r.cmd.Stdout, r.cmd.Stderr = childStdout, childStderr
	if err := r.cmd.Start(); err != nil {
		stdout.Close()
		stderr.Close()
		return nil, err
	}
	var pumps sync.WaitGroup
	pumps.Add(2)
	go p.tail.pump(stdout, p.command.Stdout, &pumps)
	go p.tail.pump(stderr, p.command.Stderr, &pumps)
	done := make(chan struct{})
	go func() { pumps.Wait(); close(done) }()
	return done, nil
}

// reap waits for the process. What is left of its group is killed while the
// process is still a zombie, so that the group's id cannot be anybody else's.
func (r *run) reap(printed <-chan struct{}) {
	pid := r.cmd.Process.Pid
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	_ = syscall.Kill(-pid, syscall.SIGKILL) // ESRCH: nothing is left
	r.err = r.cmd.Wait()
	select {
	case <-printed:
	case <-time.After(lastWords):
	}
}
