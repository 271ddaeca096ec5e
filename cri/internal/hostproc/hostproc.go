// Package hostproc runs processes of the host in place of containers: it starts them,
// ends them with everything that they started in their process group, and reports how
// they ended.
//
// A process belongs to the program that started it. What a killed program left is found
// by an environment variable (KillLeft, Linux only). The package knows only the id of a
// container; it provides neither isolation nor an init.
//
// A Set is safe for concurrent use.
package hostproc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// mark is the environment variable by which a later program recognizes processes that a
// killed one left.
const mark = "NODEKIT_CONTAINER="

// outputDelay is how long to wait, after a process has ended, for others that keep its
// output open.
const outputDelay = time.Second

// Set has the running processes, and the exits that have not been taken yet. NewSet
// creates it.
type Set struct {
	mu      sync.Mutex
	running map[string]*process
	exits   []exit
	news    chan struct{} // holds a value when there are exits
}

type process struct {
	pid  int
	done chan struct{} // closed when it has been reaped

	mu sync.Mutex
	// over is set before the process is reaped: until then its id is its own.
	over bool
}

type exit struct {
	id    string
	state *os.ProcessState
}

// NewSet returns an empty set.
func NewSet() *Set {
	return &Set{running: map[string]*process{}, news: make(chan struct{}, 1)}
}

// Start starts cmd as the process with this id, the leader of a process group, with its
// output to stdout and stderr. It closes these when the process ends, and also if it
// returns an error.
func (s *Set) Start(id string, cmd *exec.Cmd, stdout, stderr io.WriteCloser) error {
	cmd.Stdout, cmd.Stderr = lossy{stdout}, lossy{stderr}
	cmd.Env = append(cmd.Environ(), mark+id)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = outputDelay
	if err := cmd.Start(); err != nil {
		return errors.Join(fmt.Errorf("starting the process: %w", err), stdout.Close(), stderr.Close())
	}
	p := &process{pid: cmd.Process.Pid, done: make(chan struct{})}
	s.mu.Lock()
	s.running[id] = p
	s.mu.Unlock()
	go func() {
		p.reap(cmd)
		_, _ = stdout.Close(), stderr.Close() // nobody is left to report an error to
		close(p.done)
		s.ended(exit{id, cmd.ProcessState})
	}()
	return nil
}

// lossy accepts everything: a process whose output cannot be written, for example because
// the disk is full, loses that output and does not die of a broken pipe.
type lossy struct{ w io.Writer }

func (l lossy) Write(p []byte) (int, error) {
	_, _ = l.w.Write(p) // documented
	return len(p), nil
}

// ended never waits: the watcher may be gone.
func (s *Set) ended(e exit) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.running, e.id)
	s.exits = append(s.exits, e)
	select {
	case s.news <- struct{}{}:
	default:
	}
}

// signal sends a signal to the process's group, unless the process has been reaped.
func (p *process) signal(sig syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.over {
		_ = syscall.Kill(-p.pid, sig) // its own group: this fails only if nobody is left
	}
}

// Stop sends SIGTERM to the process's group, and SIGKILL after grace, or at once if grace
// is zero. It returns when the process has ended, or at once if there is none.
func (s *Set) Stop(ctx context.Context, id string, grace time.Duration) error {
	s.mu.Lock()
	p := s.running[id]
	s.mu.Unlock()
	if p == nil {
		return nil
	}
	if grace > 0 {
		p.signal(syscall.SIGTERM)
		late := time.NewTimer(grace)
		defer late.Stop()
		select {
		case <-p.done:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-late.C:
		}
	}
	p.signal(syscall.SIGKILL)
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Watch passes every exit to ended, once, until ctx ends.
func (s *Set) Watch(ctx context.Context, ended func(id string, state *os.ProcessState)) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.news:
		}
		s.mu.Lock()
		exits := s.exits
		s.exits = nil
		s.mu.Unlock()
		for _, e := range exits {
			ended(e.id, e.state)
		}
	}
}

// Code returns how a process ended: its exit code, or 128 plus the number of the signal
// that killed it.
func Code(state *os.ProcessState) int32 {
	if ws, ok := state.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int32(ws.Signal())
	}
	return int32(state.ExitCode())
}
