package cri

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/nodekit-project/nodekit/cri/log"
)

// processMark is the environment variable by which a later server knows the
// processes that a killed one left.
const processMark = "NODEKIT_CONTAINER="

// Processes runs every container as one process of the host: a program, or the
// monitor of a virtual machine. Its methods are functions of a Runtime; the
// author says what the process is. The process is the leader of a process
// group, writes the container's log, and ends with the server: after a crash,
// Recover kills what is left (on Linux) and reports the containers as ended.
//
// Use one Processes for one Runtime. NewProcesses makes it.
type Processes struct {
	command func(*Container) (*exec.Cmd, error)
	exits   chan processExit

	mu      sync.Mutex
	running map[string]*process
}

type process struct {
	pid  int
	done chan struct{} // closed when it was waited for
}

type processExit struct {
	id string
	e  Exit
}

// NewProcesses returns Processes that start what command returns. Command
// leaves the output streams and SysProcAttr alone.
func NewProcesses(command func(*Container) (*exec.Cmd, error)) *Processes {
	return &Processes{command: command, exits: make(chan processExit), running: map[string]*process{}}
}

// Start is a Runtime's StartContainer.
func (p *Processes) Start(_ context.Context, c *Container) error {
	cmd, err := p.command(c)
	if err != nil {
		return err
	}
	stdout, stderr, err := c.OpenLog()
	if err != nil {
		return err
	}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	cmd.Env = append(cmd.Environ(), processMark+c.ID)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = execDrain // a child that keeps the output open does not keep the container
	if err := cmd.Start(); err != nil {
		return errors.Join(fmt.Errorf("starting the process: %w", err), stdout.Close(), stderr.Close())
	}
	proc := &process{pid: cmd.Process.Pid, done: make(chan struct{})}
	p.mu.Lock()
	p.running[c.ID] = proc
	p.mu.Unlock()
	go func() {
		_ = cmd.Wait() // the state says how it ended
		exit := ExitOf(cmd.ProcessState)
		_, _ = stdout.Close(), stderr.Close() // nobody is left to tell
		close(proc.done)
		p.exits <- processExit{c.ID, exit}
	}()
	return nil
}

// Stop is a Runtime's StopContainer: SIGTERM to the process group, and SIGKILL
// after grace.
func (p *Processes) Stop(ctx context.Context, c *Container, grace time.Duration) error {
	p.mu.Lock()
	proc := p.running[c.ID]
	p.mu.Unlock()
	if proc == nil {
		return nil
	}
	if grace > 0 {
		_ = syscall.Kill(-proc.pid, syscall.SIGTERM) // it may have ended
		late := time.NewTimer(grace)
		defer late.Stop()
		select {
		case <-proc.done:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-late.C:
		}
	}
	select {
	case <-proc.done: // the id may be somebody else's now
		return nil
	default:
	}
	_ = syscall.Kill(-proc.pid, syscall.SIGKILL) // as above
	select {
	case <-proc.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Watch is a Runtime's Watch.
func (p *Processes) Watch(ctx context.Context, ended func(string, Exit)) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case x := <-p.exits:
			p.mu.Lock()
			delete(p.running, x.id)
			p.mu.Unlock()
			ended(x.id, x.e)
		}
	}
}

// Recover is a Runtime's Recover.
func (p *Processes) Recover(_ context.Context, _ []*Sandbox, containers []*Container) error {
	for _, c := range containers {
		if !c.Running() {
			continue
		}
		if err := killMarked(processMark + c.ID); err != nil {
			return fmt.Errorf("ending what container %q left running: %w", c.ID, err)
		}
		c.Exit = &Exit{Code: 137, Reason: "ContainerStatusUnknown", Message: "its runtime was killed"}
	}
	return nil
}

// ExitOf returns the exit of a process that was waited for: its code, or 128
// and the number of the signal that killed it.
func ExitOf(state *os.ProcessState) Exit {
	code := int32(state.ExitCode())
	if ws, ok := state.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		code = 128 + int32(ws.Signal())
	}
	return *Exit{Code: code}.normal()
}

// OpenLog opens the container's log for appending, in the format of the CRI
// (cri/log). Each stream is for one goroutine. Closing both writes what is
// unfinished and closes the file. Without a LogPath the output is discarded.
func (c *Container) OpenLog() (stdout, stderr io.WriteCloser, err error) {
	if c.LogPath == "" {
		return discard{io.Discard}, discard{io.Discard}, nil
	}
	w, err := log.Open(c.LogPath)
	if err != nil {
		return nil, nil, err
	}
	open := &atomic.Int32{}
	open.Store(2)
	return &logStream{w.Stream(log.Stdout), w, open}, &logStream{w.Stream(log.Stderr), w, open}, nil
}

type discard struct{ io.Writer }

func (discard) Close() error { return nil }

// logStream closes the file with the last of the streams.
type logStream struct {
	io.WriteCloser
	file *log.Writer
	open *atomic.Int32
}

func (l *logStream) Close() error {
	err := l.WriteCloser.Close()
	if l.open.Add(-1) == 0 {
		err = errors.Join(err, l.file.Close())
	}
	return err
}
