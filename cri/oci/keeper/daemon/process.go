package daemon

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cri/oci/keeper/internal/wire"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// children is every process that the keeper is, or becomes, the parent of: the
// invocations of the OCI runtime, and the containers and exec'd programs that
// reparent to the keeper when the invocation that made them ends.
//
// No process id is ever mistaken for another's: a process that ended keeps its
// id until the keeper reaps it, and nothing is reaped whose exit has not been
// taken note of. Those of whom the keeper was never told ("strangers": orphans
// of containers that share the host's process ids) are reaped only while no
// invocation is under way, because one of them may turn out to be a container
// that died before the runtime had written its process id down.
type children struct {
	mu       sync.Mutex
	spawning int // invocations under way
	known    map[int]bool
}

// process is a child that is waited for.
type process struct {
	pid   int
	pidfd *os.File
}

// newChildren makes the calling process the reaper of its descendants and
// reaps strangers until stop is called.
func newChildren() (k *children, stop func(), err error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, nil, fmt.Errorf("becoming the subreaper: %w", err)
	}
	k = &children{known: map[int]bool{}}
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, unix.SIGCHLD)
	done := make(chan struct{})
	go func() {
		for {
			select {
			case <-ended:
				k.sweep()
			case <-done:
				return
			}
		}
	}()
	return k, func() { signal.Stop(ended); close(done) }, nil
}

// begin announces an invocation; end must follow once its process and what it
// started are known.
func (k *children) begin() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.spawning++
}

func (k *children) end() {
	k.mu.Lock()
	k.spawning--
	k.mu.Unlock()
	k.sweep()
}

// fork starts a program with files as its first descriptors. Call it between
// begin and end.
func (k *children) fork(args []string, dir string, files []*os.File) (*process, error) {
	fds, err := wire.Descriptors(files)
	if err == nil {
		err = wire.Blocking(fds)
	}
	if err != nil {
		return nil, fmt.Errorf("starting %q: %w", args[0], err)
	}
	attr := &syscall.ProcAttr{Dir: dir, Env: os.Environ(), Sys: &syscall.SysProcAttr{Setsid: true}}
	for _, fd := range fds {
		attr.Files = append(attr.Files, uintptr(fd))
	}
	pid, err := syscall.ForkExec(args[0], args, attr)
	if err != nil {
		return nil, fmt.Errorf("starting %q: %w", args[0], err)
	}
	return k.adopt(pid)
}

// adopt begins to wait for a child of the keeper, running or ended. It must be
// called between begin and end, which keep the id from being reused.
func (k *children) adopt(pid int) (*process, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("opening process %d: %w", pid, err)
	}
	p := &process{pid: pid, pidfd: os.NewFile(uintptr(fd), "pidfd")}
	if !p.becomesChild(fd) {
		return nil, errors.Join(fault.FailedPrecondition.Errorf("process %d is not a child of the keeper", pid), p.pidfd.Close())
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.known[pid] = true
	return p, nil
}

// adoptLimit is how long a process may take to become a child of the keeper
// after the OCI runtime has ended. crun forks to detach: what it started becomes
// ours when that fork ends, too, some microseconds later or, on a busy machine,
// many milliseconds.
const adoptLimit = 2 * time.Second

// becomesChild reports whether the process is a child of the keeper or becomes
// one in time. One that its parent has reaped never does.
func (p *process) becomesChild(pidfd int) bool {
	for deadline := time.Now().Add(adoptLimit); ; time.Sleep(time.Millisecond) {
		if _, err := p.poll(); !errors.Is(err, unix.ECHILD) {
			return true
		}
		if unix.PidfdSendSignal(pidfd, 0, nil, 0) != nil || time.Now().After(deadline) {
			return false
		}
	}
}

// reap consumes a process that ended. Its id is free afterwards, and p can be
// used no more.
func (k *children) reap(p *process) {
	var info siginfo
	// Peeked before, so it neither blocks nor fails.
	_ = waitid(unix.P_PID, p.pid, &info, unix.WEXITED|unix.WNOHANG)
	_ = p.pidfd.Close()
	k.mu.Lock()
	delete(k.known, p.pid)
	k.mu.Unlock()
	k.sweep()
}

// sweep reaps the strangers that ended. It stops at a process that is known:
// reap comes for that one, and sweeps again.
func (k *children) sweep() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for k.spawning == 0 {
		var info siginfo
		if err := waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT); err != nil {
			return // no children
		}
		pid := int(info.pid)
		if pid == 0 || k.known[pid] {
			return
		}
		if err := waitid(unix.P_PID, pid, &info, unix.WEXITED|unix.WNOHANG); err != nil {
			return
		}
	}
}

// outcome is how a process ended.
type outcome struct {
	code int32 // 128+n for death by signal n
	at   time.Time
}

// wait returns when the process has ended. It does not reap it.
func (p *process) wait() (outcome, error) {
	conn, err := p.pidfd.SyscallConn()
	if err != nil {
		return outcome{}, err
	}
	var info *siginfo
	var werr error
	err = conn.Read(func(uintptr) bool {
		info, werr = p.poll()
		return werr != nil || info != nil
	})
	if err = errors.Join(err, werr); err != nil {
		return outcome{}, fmt.Errorf("waiting for process %d: %w", p.pid, err)
	}
	code := info.status
	if info.code != cldExited {
		code += 128
	}
	return outcome{code: code, at: time.Now()}, nil
}

// poll returns nil while the process runs.
func (p *process) poll() (*siginfo, error) {
	var info siginfo
	err := waitid(unix.P_PID, p.pid, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT)
	if err != nil || info.pid == 0 {
		return nil, err
	}
	return &info, nil
}

// signal sends a signal to the process. One that has ended is not an error.
func (p *process) signal(sig int) error {
	conn, err := p.pidfd.SyscallConn()
	if err != nil {
		return nil // reaped
	}
	var serr error
	err = conn.Control(func(fd uintptr) { serr = unix.PidfdSendSignal(int(fd), unix.Signal(sig), nil, 0) })
	if err = errors.Join(err, serr); err == nil || errors.Is(err, unix.ESRCH) || errors.Is(err, os.ErrClosed) {
		return nil
	}
	return fmt.Errorf("sending signal %d to process %d: %w", sig, p.pid, err)
}

// cldExited is CLD_EXITED of <signal.h>; every other code of an ended child is
// a death by signal.
const cldExited = 1

// siginfo is what waitid(2) fills in on 64-bit systems.
type siginfo struct {
	signo, errno, code, _ int32
	pid                   int32
	uid                   uint32
	status                int32
	_                     [100]byte
}

func waitid(kind, id int, info *siginfo, options int) error {
	for {
		*info = siginfo{}
		err := unix.Waitid(kind, id, (*unix.Siginfo)(unsafe.Pointer(info)), options, nil)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
