// Package supervisor runs a plugin as a child process: it starts it in a process
// group of its own, kills or stops it, starts it again, and keeps the end of its
// output.
//
// Nothing that it starts outlives the caller: the child dies with this process
// (PR_SET_PDEATHSIG), and the rest of its process group is killed when it ends. Only
// processes that left the group on purpose, such as a container's shim, live on. The
// package needs Linux; elsewhere Start returns an error.
package supervisor

import (
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Command says what to start. It must not be changed while a process uses it.
type Command struct {
	// Path is looked up in PATH unless it contains a slash.
	Path string
	// Args are the arguments after the program's name.
	Args []string
	// Env is the whole environment. Nil means this process's own.
	Env []string
	// Dir is the working directory. Empty means this process's own.
	Dir string
	// Stdout and Stderr receive what the process prints, one write at a time, even if
	// both are the same writer. Nil means that only Tail keeps it.
	Stdout, Stderr io.Writer
	// SysProcAttr adds to how the process is started: namespaces, credentials.
	// Setpgid and Pdeathsig are always set. Nil adds nothing.
	SysProcAttr *syscall.SysProcAttr
	// Enter runs before each start, on the thread that forks the process and that
	// nothing else uses: namespaces that it enters apply to the process and to
	// nothing else. If it fails, so does the start. It may be nil.
	Enter func() error
}

// Process is a started command. Its methods are safe for concurrent use.
type Process struct {
	command Command
	tail    tail
	restart sync.Mutex // held for the whole of Restart

	mu      sync.Mutex
	current *run
}

// run is one life of a process.
type run struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when reaped
	err  error         // of Wait; may be read once done is closed
}

// Start starts a command. The process is in the namespaces of this process, whatever
// the calling thread has entered, unless SysProcAttr or Enter says otherwise. The
// caller must end it with Kill or Stop.
func Start(command Command) (*Process, error) {
	p := &Process{command: command}
	current, err := p.start()
	if err != nil {
		return nil, err
	}
	p.current = current
	return p, nil
}

// Restart kills the process if it still runs and starts the same command again. Done,
// Err and PID then refer to the new life; Tail keeps the end of all lives.
func (p *Process) Restart() error {
	p.restart.Lock()
	defer p.restart.Unlock()
	p.Kill()
	p.tail.begin()
	current, err := p.start()
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.current = current
	return nil
}

// Kill sends SIGKILL to the whole process group and returns once the process is
// reaped. If it has already ended, Kill does nothing.
func (p *Process) Kill() {
	r := p.life()
	r.signal(syscall.SIGKILL)
	<-r.done
}

// Stop sends SIGTERM to the process group and returns once the process is reaped.
// After grace it kills what is left, and reports that as an error; how the process
// exits otherwise is not an error of Stop.
func (p *Process) Stop(grace time.Duration) error {
	r := p.life()
	r.signal(syscall.SIGTERM)
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-r.done:
		return nil
	case <-timer.C:
	}
	p.Kill()
	return fmt.Errorf("%s did not stop within %s of SIGTERM and was killed", p.command.Path, grace)
}

// Done is closed when the process has ended and is reaped.
func (p *Process) Done() <-chan struct{} { return p.life().done }

// Err returns how the process ended: nil while it runs and if it exited with 0, else
// an *exec.ExitError.
func (p *Process) Err() error {
	r := p.life()
	select {
	case <-r.done:
		return r.err
	default:
		return nil
	}
}

// Ending describes how the process ended, for messages: "exit status 0", or the text
// of Err.
func (p *Process) Ending() string {
	if err := p.Err(); err != nil {
		return err.Error()
	}
	return "exit status 0"
}

// PID returns the process's id, which is also that of its process group.
func (p *Process) PID() int { return p.life().cmd.Process.Pid }

// Tail returns the last few KiB that the process printed on its standard
// output and error.
func (p *Process) Tail() string { return p.tail.last(false) }

// LifeTail returns the part of Tail that the process printed since its last start.
func (p *Process) LifeTail() string { return p.tail.last(true) }

// String returns the command line, for messages.
func (p *Process) String() string {
	return strings.Join(append([]string{p.command.Path}, p.command.Args...), " ")
}

func (p *Process) life() *run {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.current
}

func (r *run) signal(sig syscall.Signal) {
	select {
	case <-r.done: // the id may belong to another process by now
	default:
		_ = syscall.Kill(-r.cmd.Process.Pid, sig) // ESRCH: it ended just now
	}
}
