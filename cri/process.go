package cri

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"time"

	"github.com/nodekit-project/nodekit/cri/internal/hostproc"
	"github.com/nodekit-project/nodekit/cri/internal/record"
	"github.com/nodekit-project/nodekit/cri/log"
)

// Processes runs every container as one process of the host: a program, or the monitor
// of a virtual machine. Its methods are functions of a Runtime; the author provides the
// command. The process leads a process group, which ends with it (on Linux), writes to
// the container's log, and ends with the server: after a crash, Recover kills what is
// left (on Linux) and reports the containers as ended.
//
// The Pod's settings reach the process only through the author's command: HostCommand
// passes the container's environment variables on. A monitor must not get them
// (LD_PRELOAD is one), because it is not a program of the Pod.
//
// Use one Processes for one Runtime. Create it with NewProcesses.
type Processes struct {
	command func(*Container) (*exec.Cmd, error)
	set     *hostproc.Set
}

// NewProcesses returns Processes that start what command returns. command must not set
// the output streams or SysProcAttr.
func NewProcesses(command func(*Container) (*exec.Cmd, error)) *Processes {
	return &Processes{command: command, set: hostproc.NewSet()}
}

// HostCommand returns the container's program as a process of the host, for
// NewProcesses: its command and arguments, working directory, and environment variables
// in addition to those of this process. It refuses with ErrInvalid a container without
// a command, which would have to come from the image, and one that asks for a terminal.
// It ignores the rest of the config; in particular, the process runs as this process's
// user.
func (c *Container) HostCommand() (*exec.Cmd, error) {
	argv := slices.Concat(c.Config.GetCommand(), c.Config.GetArgs())
	if len(argv) == 0 {
		return nil, ErrInvalid.Errorf("container %q: it has no command, and its image has none here", c.ID)
	}
	if c.Config.GetTty() {
		return nil, ErrInvalid.Errorf("container %q: it wants a terminal, and a process of the host has none here", c.ID)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = c.Config.GetWorkingDir()
	cmd.Env = cmd.Environ()
	for _, e := range c.Config.GetEnvs() {
		cmd.Env = append(cmd.Env, e.GetKey()+"="+string(e.GetValue()))
	}
	return cmd, nil
}

// Start implements Runtime.StartContainer.
func (p *Processes) Start(_ context.Context, c *Container) error {
	cmd, err := p.command(c)
	if err != nil {
		return err
	}
	stdout, stderr, err := c.OpenLog()
	if err != nil {
		return err
	}
	return p.set.Start(c.ID, cmd, stdout, stderr)
}

// Stop implements Runtime.StopContainer: it sends SIGTERM to the process group, and
// SIGKILL after grace.
func (p *Processes) Stop(ctx context.Context, c *Container, grace time.Duration) error {
	return p.set.Stop(ctx, c.ID, grace)
}

// Watch implements Runtime.Watch.
func (p *Processes) Watch(ctx context.Context, ended func(string, Exit)) error {
	p.set.Watch(ctx, func(id string, state *os.ProcessState) { ended(id, ExitOf(state)) })
	return nil
}

// Recover implements Runtime.Recover.
func (p *Processes) Recover(_ context.Context, _ []*Sandbox, containers []*Container) error {
	for _, c := range containers {
		if !c.Running() {
			continue
		}
		if err := hostproc.KillLeft(c.ID); err != nil {
			return fmt.Errorf("ending what container %q left running: %w", c.ID, err)
		}
		c.Exit = &Exit{Code: 137, Reason: "ContainerStatusUnknown", Message: "its runtime was killed"}
	}
	return nil
}

// ExitOf returns the exit of a process that was waited for: its exit code, or 128 plus
// the number of the signal that killed it.
func ExitOf(state *os.ProcessState) Exit {
	return Exit(*record.Exit{Code: hostproc.Code(state)}.Normal())
}

// OpenLog opens the container's log for appending, in the CRI format (cri/log). Each
// stream may be used by one goroutine at a time. Closing both writes unfinished lines
// and closes the file. Without a LogPath the output is discarded.
func (c *Container) OpenLog() (stdout, stderr io.WriteCloser, err error) {
	if c.LogPath == "" {
		return discard{io.Discard}, discard{io.Discard}, nil
	}
	return log.OpenStreams(c.Sandbox.Config.GetLogDirectory(), c.Config.GetLogPath())
}

type discard struct{ io.Writer }

func (discard) Close() error { return nil }
