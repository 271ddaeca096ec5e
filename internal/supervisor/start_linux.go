package supervisor

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/execerr"
)

// lastWords is how long the reaping of a process waits for a listener that does not
// read its last output.
const lastWords = 2 * time.Second

// start begins a life of the process. A thread of its own waits for it: the kernel
// sends the parent death signal when the thread that forked ends, not when its
// process does, and Go ends threads that goroutines leave locked.
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
		return nil, fmt.Errorf("starting %q: %w", p.command.Path, execerr.Explain(p.command.Path, err))
	}
	return r, nil
}

// onThread runs f on a thread of its own. If spent is set, f enters namespaces, and
// the thread ends with it. It is never the main thread of the process: Go cannot end
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

// output is the output of a process.
type output struct {
	pipes []*os.File
	read  chan struct{} // closed when everything it printed has been read
}

// fork starts the process.
func (p *Process) fork(r *run) (printed *output, err error) {
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
	go p.tail.pump(stdout, p.command.Stdout, pumps.Done)
	go p.tail.pump(stderr, p.command.Stderr, pumps.Done)
	printed = &output{pipes: []*os.File{stdout, stderr}, read: make(chan struct{})}
	go func() { pumps.Wait(); close(printed.read) }()
	return printed, nil
}

// reap waits for the process. It kills the rest of its process group while the
// process is still a zombie, so that the group's id cannot be reused yet.
func (r *run) reap(printed *output) {
	pid := r.cmd.Process.Pid
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	_ = syscall.Kill(-pid, syscall.SIGKILL) // ESRCH: nothing is left
	r.err = r.cmd.Wait()
	for _, pipe := range printed.pipes { // others may hold them open for longer
		_ = pipe.SetReadDeadline(time.Now()) // an error means that it is closed, and read
	}
	select {
	case <-printed.read:
	case <-time.After(lastWords):
	}
}

// rest copies what is in the pipe now, and clears its deadline.
func rest(w io.Writer, from *os.File) {
	raw, err := from.SyscallConn()
	if err != nil || from.SetReadDeadline(time.Time{}) != nil {
		return // it is closed
	}
	var buffer []byte
	n := 0
	_ = raw.Read(func(fd uintptr) (done bool) {
		// Nobody can have left more in it than it holds (F_GETPIPE_SZ of fcntl(2)).
		if size, err := unix.FcntlInt(fd, unix.F_GETPIPE_SZ, 0); err == nil {
			buffer = make([]byte, size)
			n, _ = syscall.Read(int(fd), buffer) // an error means that there is nothing
		}
		return true
	})
	_, _ = w.Write(buffer[:max(n, 0)]) // it never fails
}
