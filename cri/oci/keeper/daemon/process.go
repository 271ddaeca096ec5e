package daemon

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cri/oci/keeper/internal/child"
	"github.com/nodekit-project/nodekit/cri/oci/keeper/internal/wire"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/procstat"
)

// children is every process that the keeper is, or becomes, the parent of: the
// invocations of the OCI runtime, and the containers and exec'd programs that
// reparent to the keeper when the invocation that made them ends. Those of an
// earlier keeper are the anchor's, and the keeper asks there.
//
// No process is ever mistaken for another: its pidfd is asked, and not its id,
// which is free once its parent has reaped it; and nothing is reaped whose exit has
// not been taken note of. Those of whom the keeper was never told ("strangers": orphans
// of containers that share the host's process ids) are reaped only while no
// invocation is under way, because one of them may turn out to be a container
// that died before the runtime had written its process id down.
type children struct {
	poller   *poller
	escrow   *escrow
	exitInfo bool // the kernel may be asked for exits of processes that are nobody's here
	copies   copies

	mu       sync.Mutex
	spawning int // invocations under way
	known    map[int]*process
}

// process is a child of the keeper or the anchor that is waited for.
type process struct {
	pid   int
	kids  *children
	mu    sync.RWMutex // held while pidfd is used
	pidfd int          // -1 once reaped
}

// newChildren makes the calling process the reaper of its descendants and
// reaps strangers until stop is called.
func newChildren(p *poller, e *escrow, exitInfo bool) (k *children, stop func(), err error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, nil, fmt.Errorf("becoming the subreaper: %w", err)
	}
	k = &children{poller: p, escrow: e, exitInfo: exitInfo, known: map[int]*process{}}
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

// quiesce waits for the invocations that are under way, for a while.
func (k *children) quiesce() {
	for deadline := time.Now().Add(quiesceLimit); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		k.mu.Lock()
		busy := k.spawning > 0
		k.mu.Unlock()
		if !busy {
			return
		}
	}
}

// quiesceLimit is short: the next keeper ends what this one has begun.
const quiesceLimit = time.Second

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
	p := &process{kids: k}
	// With the process comes its descriptor, or there is neither.
	attr := &syscall.ProcAttr{Dir: dir, Env: os.Environ(), Sys: &syscall.SysProcAttr{Setsid: true, PidFD: &p.pidfd}}
	for _, fd := range fds {
		attr.Files = append(attr.Files, uintptr(fd))
	}
	err = k.copies.run(args[0], func(path string) (err error) {
		p.pid, err = syscall.ForkExec(path, args, attr)
		return err
	})
	if err != nil {
		err = fmt.Errorf("starting %q: %w", args[0], err)
		// The same errors are those of a directory that is gone.
		if unix.Access(args[0], unix.X_OK) != nil || errors.Is(err, unix.ENOEXEC) {
			err = fault.FailedPrecondition.Errorf("%w: is it installed?", err)
		}
		return nil, err
	}
	k.know(p)
	return p, nil
}

func (k *children) know(p *process) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.known[p.pid] = p
}

// abandon kills a process that nobody shall see, and reaps it when it has ended. It
// needs nothing that may be lacking.
func (k *children) abandon(p *process) error {
	err := p.signal(int(unix.SIGKILL))
	go func() {
		poll := []unix.PollFd{{Fd: int32(p.pidfd), Events: unix.POLLIN}}
		again(func() error {
			_, err := unix.Poll(poll, -1)
			return err
		})
		k.reap(p)
	}()
	return err
}

// adopt begins to wait for a child of the keeper or the anchor, running or
// ended. Until an entry names it, it must be called between begin and end, which
// keep the id from being reused. One that may be nobody's child here, because an anchor
// died while it was started, is known by its cgroup, a directory; "" is for all others.
func (k *children) adopt(pid int, cgroup string) (*process, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("opening process %d: %w", pid, err)
	}
	p := &process{pid: pid, kids: k, pidfd: fd}
	if !p.livesIn(cgroup) && !p.becomesChild() {
		return nil, errors.Join(fault.FailedPrecondition.Errorf("process %d is not a child of the keeper", pid), unix.Close(fd))
	}
	k.know(p)
	return p, nil
}

// livesIn reports whether the process is in the cgroup.
func (p *process) livesIn(cgroup string) bool {
	if cgroup == "" {
		return false
	}
	text, err := os.ReadFile(filepath.Join(cgroup, "cgroup.procs"))
	if err != nil || !slices.Contains(strings.Fields(string(text)), strconv.Itoa(p.pid)) {
		return false
	}
	return unix.PidfdSendSignal(p.pidfd, 0, nil, 0) == nil // else the id may be another's by now
}

// adoptLimit is how long a process may take to become a child of the keeper
// after the OCI runtime has ended. crun forks to detach: what it started becomes
// ours when that fork ends, too, some microseconds later or, on a busy machine,
// many milliseconds.
const adoptLimit = 2 * time.Second

// becomesChild reports whether the process is a child of the keeper or becomes
// one in time. One that its parent has reaped never does.
func (p *process) becomesChild() bool {
	for deadline := time.Now().Add(adoptLimit); ; {
		parent := p.parent() // before it is asked whose child it is: an end in between is seen
		if _, _, err := p.poll(); !errors.Is(err, unix.ECHILD) {
			parent.close()
			return true
		}
		if unix.PidfdSendSignal(p.pidfd, 0, nil, 0) != nil || time.Now().After(deadline) {
			parent.close()
			return false
		}
		parent.awaitEnd()
	}
}

// parent is a pidfd of a process's parent, or -1.
type parent int

func (p *process) parent() parent {
	stat, err := procstat.Read(p.pid)
	if err != nil {
		return -1
	}
	fd, err := unix.PidfdOpen(stat.PPID, 0)
	if err != nil {
		return -1
	}
	return parent(fd)
}

// awaitEnd waits for the end of the parent, with which its children get another one,
// and closes it. It waits for a moment only: the parent may have been another process
// by the time that it was opened.
func (p parent) awaitEnd() {
	if p < 0 {
		time.Sleep(time.Millisecond)
		return
	}
	const moment = 20 // milliseconds
	_, _ = unix.Poll([]unix.PollFd{{Fd: int32(p), Events: unix.POLLIN}}, moment)
	p.close()
}

func (p parent) close() {
	if p >= 0 {
		unix.Close(int(p))
	}
}

// poll tells whether the process has ended, and leaves it as it is.
// unix.ECHILD when neither the keeper nor the anchor is its parent.
func (p *process) poll() (ended bool, code int32, err error) {
	ended, code, err = child.PeekFD(p.pidfd)
	if errors.Is(err, unix.ECHILD) {
		return p.kids.escrow.peek(p.pid, p.pidfd)
	}
	return ended, code, err
}

// reap consumes a process that ended, if it is the keeper's own: the anchor
// reaps with the entry. Its id is free afterwards, and p can be used no more.
func (k *children) reap(p *process) {
	p.mu.Lock()
	k.poller.remove(p.pidfd)
	_ = child.ReapFD(p.pidfd) // peeked before, so it neither blocks nor fails
	_ = unix.Close(p.pidfd)
	p.pidfd = -1
	p.mu.Unlock()
	k.mu.Lock()
	if k.known[p.pid] == p { // the id may be another one's by now
		delete(k.known, p.pid)
	}
	k.mu.Unlock()
	k.sweep()
}

// sweep reaps the strangers that ended. It stops at a process that is known:
// reap comes for that one, and sweeps again.
func (k *children) sweep() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for k.spawning == 0 {
		pid := child.Ended()
		if pid == 0 || k.known[pid] != nil || child.Reap(pid) != nil {
			return
		}
	}
}

// outcome is how a process ended.
type outcome struct {
	code int32 // 128+n for death by signal n
	at   time.Time
	lost bool // nobody can tell the code
}

// onEnd calls ended once, on a goroutine of its own, when the process has ended.
func (p *process) onEnd(ended func()) error {
	var once sync.Once
	fd := p.pidfd
	return p.kids.poller.add(fd, func() {
		if readable(fd) {
			once.Do(func() { go ended() })
		}
	})
}

func readable(fd int) bool {
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
	return err == nil && n > 0
}

// wait returns when the process has ended. It does not reap it. Call it once.
func (p *process) wait() (outcome, error) {
	ended := make(chan struct{})
	if err := p.onEnd(func() { close(ended) }); err != nil {
		return outcome{}, err
	}
	<-ended
	return p.outcome()
}

// outcome returns how the process ended, which it has.
func (p *process) outcome() (outcome, error) {
	for deadline := time.Now().Add(outcomeLimit); ; time.Sleep(time.Millisecond) {
		ended, code, err := p.poll()
		switch {
		case errors.Is(err, unix.ECHILD):
			return p.askKernel(), nil
		case ended:
			return outcome{code: code, at: time.Now()}, nil
		case err != nil && time.Now().After(deadline):
			return outcome{}, fmt.Errorf("waiting for process %d: %w", p.pid, err)
		}
		// Its first thread has ended, and others live for a moment; or the anchor is
		// dying, and this process is about to take its place.
	}
}

// outcomeLimit is for an error that does not pass.
const outcomeLimit = time.Second

// lostCode is the exit code of a process whose code is lost.
const lostCode = 128 + int32(unix.SIGKILL)

// askKernel is for a process whose parent is neither the keeper nor the anchor:
// the anchor that was died. Linux 6.15 and later tell who holds a pidfd, once the
// parent has reaped the process; until then /proc does.
func (p *process) askKernel() outcome {
	o := outcome{code: lostCode, at: time.Now(), lost: true}
	if !p.kids.exitInfo {
		return o
	}
	p.mu.RLock()
	defer p.mu.RUnlock()
	status, err := zombieStatus(p.pid)
	if unix.PidfdSendSignal(p.pidfd, 0, nil, 0) != nil || err != nil {
		// It was reaped; what was read is of another process, perhaps.
		info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT}
		err = unix.IoctlPidfdInfo(p.pidfd, &info)
		if err == nil && info.Mask&unix.PIDFD_INFO_EXIT == 0 {
			err = errors.ErrUnsupported
		}
		status = unix.WaitStatus(info.Exit_code)
	}
	if err != nil {
		return o
	}
	if o.lost, o.code = false, int32(status.ExitStatus()); status.Signaled() {
		o.code = 128 + int32(status.Signal())
	}
	return o
}

// zombieStatus returns how a process that nobody has reaped ended.
func zombieStatus(pid int) (unix.WaitStatus, error) {
	stat, err := procstat.Read(pid)
	if err != nil {
		return 0, err
	}
	if !stat.Zombie() {
		return 0, errors.ErrUnsupported
	}
	return unix.WaitStatus(stat.ExitCode), nil
}

// signal sends a signal to the process. One that has ended is not an error.
func (p *process) signal(sig int) error {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if p.pidfd < 0 {
		return nil // reaped
	}
	err := unix.PidfdSendSignal(p.pidfd, unix.Signal(sig), nil, 0)
	if err == nil || errors.Is(err, unix.ESRCH) {
		return nil
	}
	return fmt.Errorf("sending signal %d to process %d: %w", sig, p.pid, err)
}
