package daemon

import (
	"errors"
	"fmt"
	"log/slog"
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

// children holds every process whose parent the keeper is or becomes: the invocations of
// the OCI runtime, and the containers and exec'd programs that are reparented to the
// keeper when the invocation that made them ends. Those of an earlier keeper are the
// anchor's children, and the keeper asks the anchor about them.
//
// No process is ever mistaken for another: its pidfd is used, not its id, which is free
// once its parent has reaped it; and no process is reaped before its exit has been
// recorded. "Strangers", of which the keeper was never told (orphans of containers in the
// host's PID namespace), are reaped only while no invocation is in progress, because one
// of them may turn out to be a container that died before the runtime had written its
// process id.
type children struct {
	poller   *poller
	escrow   *escrow
	exitInfo bool // the kernel may be asked for exits of processes with another parent
	copies   copies
	views    views

	mu       sync.Mutex
	spawning int // invocations in progress
	known    map[int]*process
}

// process is a child of the keeper or the anchor whose end is awaited.
type process struct {
	pid   int
	kids  *children
	mu    sync.RWMutex // held while pidfd is used
	pidfd int          // -1 once reaped
}

// newChildren makes the calling process a child subreaper and reaps strangers until stop
// is called.
func newChildren(p *poller, e *escrow, exitInfo bool, log *slog.Logger) (k *children, stop func(), err error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, nil, fmt.Errorf("becoming the subreaper: %w", err)
	}
	k = &children{poller: p, escrow: e, exitInfo: exitInfo, known: map[int]*process{}, views: views{log: log}}
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

// begin announces an invocation; end must follow once its process, and what that started,
// are known.
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

// quiesce waits for invocations in progress, up to quiesceLimit.
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

// quiesceLimit is short: the next keeper completes what this one has begun.
const quiesceLimit = time.Second

// fork starts a program with files as its first descriptors, in a view unless that is nil.
// Call it between begin and end.
func (k *children) fork(args []string, dir string, files []*os.File, view *wire.View) (*process, error) {
	fds, err := wire.Descriptors(files)
	if err == nil {
		err = wire.Blocking(fds)
	}
	if err != nil {
		return nil, fmt.Errorf("starting %q: %w", args[0], err)
	}
	p := &process{kids: k}
	// The process comes with its pidfd, or neither exists.
	attr := &syscall.ProcAttr{Dir: dir, Env: os.Environ(), Sys: &syscall.SysProcAttr{Setsid: true, PidFD: &p.pidfd}}
	for _, fd := range fds {
		attr.Files = append(attr.Files, uintptr(fd))
	}
	start := func() error {
		return k.copies.run(args[0], func(path string) (err error) {
			p.pid, err = syscall.ForkExec(path, args, attr)
			return err
		})
	}
	if view == nil || !k.views.within(view, start) {
		err = start()
	}
	if err != nil {
		err = fmt.Errorf("starting %q: %w", args[0], err)
		// A missing working directory causes the same errors.
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

// abandon kills a process that must not become known, and reaps it when it has ended. It
// needs no resources that may be lacking.
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

// adopt starts waiting for a child of the keeper or the anchor, running or ended. Until
// an entry names the process, call adopt between begin and end, which keep its id from
// being reused. A process that may have neither as its parent, because an anchor died
// while it was started, is recognized by its cgroup, a directory; "" is for all others.
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
	return unix.PidfdSendSignal(p.pidfd, 0, nil, 0) == nil // otherwise the id may have been reused
}

// adoptLimit is how long a process may take to become a child of the keeper after the OCI
// runtime has exited. crun forks to detach: what it started is reparented only when that
// fork exits as well, some microseconds later or, on a busy machine, many milliseconds.
const adoptLimit = 2 * time.Second

// becomesChild reports whether the process is a child of the keeper, or of the anchor, or
// becomes one in time. One that its parent has reaped never does.
func (p *process) becomesChild() bool {
	for deadline := time.Now().Add(adoptLimit); ; {
		parent := p.parent() // opened before the poll, so that its end in between is noticed
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

// awaitEnd waits for the end of the parent, whose children are then reparented, and
// closes it. It waits only for a moment: the id may have been reused by the time it was
// opened.
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

// poll reports whether the process has ended, without reaping it. The error is
// unix.ECHILD if neither the keeper nor the anchor is its parent.
func (p *process) poll() (ended bool, code int32, err error) {
	ended, code, err = child.PeekFD(p.pidfd)
	if errors.Is(err, unix.ECHILD) {
		return p.kids.escrow.peek(p.pid, p.pidfd)
	}
	return ended, code, err
}

// reap reaps a process that has ended, if it is the keeper's own: the anchor reaps its
// own with the entry. The id is free afterwards, and p must not be used again.
func (k *children) reap(p *process) {
	p.mu.Lock()
	k.poller.remove(p.pidfd)
	_ = child.ReapFD(p.pidfd) // peeked before, so it neither blocks nor fails
	_ = unix.Close(p.pidfd)
	p.pidfd = -1
	p.mu.Unlock()
	k.mu.Lock()
	if k.known[p.pid] == p { // the id may have been reused
		delete(k.known, p.pid)
	}
	k.mu.Unlock()
	k.sweep()
}

// sweep reaps strangers that have ended. It stops at a known process: reap is called for
// that one, and sweeps again.
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

// outcome describes how a process ended.
type outcome struct {
	code int32 // 128+n for death by signal n
	at   time.Time
	lost bool // the code is unknown
}

// onEnd has ended called once, on a goroutine of its own, when the process has ended.
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

// wait waits until the process has ended, without reaping it. Call it once.
func (p *process) wait() (outcome, error) {
	ended := make(chan struct{})
	if err := p.onEnd(func() { close(ended) }); err != nil {
		return outcome{}, err
	}
	<-ended
	return p.outcome()
}

// outcome returns how the process ended. It must have ended.
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
		// Its first thread has ended, and others still live for a moment; or the anchor
		// is dying, and this process is about to take its place.
	}
}

// outcomeLimit is for an error that is not temporary.
const outcomeLimit = time.Second

// lostCode is the exit code of a process whose code is lost.
const lostCode = 128 + int32(unix.SIGKILL)

// askKernel is for a process whose parent is neither the keeper nor the anchor, because
// that anchor died. Since Linux 6.15, the holder of a pidfd can get the exit once the
// parent has reaped the process; until it has, /proc shows it.
func (p *process) askKernel() outcome {
	o := outcome{code: lostCode, at: time.Now(), lost: true}
	if !p.kids.exitInfo {
		return o
	}
	p.mu.RLock()
	defer p.mu.RUnlock()
	status, err := zombieStatus(p.pid)
	if unix.PidfdSendSignal(p.pidfd, 0, nil, 0) != nil || err != nil {
		// It was reaped; what was read may belong to another process.
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

// zombieStatus returns how a process that has not been reaped ended.
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

// signal sends a signal to the process. It is no error if that has ended.
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
