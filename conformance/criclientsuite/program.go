package criclientsuite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/nodekit-project/nodekit/conformance"
	"github.com/nodekit-project/nodekit/internal/supervisor"
)

// Command is a kubelet started by a command line. Endpoint, Manifests and State are
// replaced in its words, in Env, Setup and Cleanup; they are in the environment, too,
// under the names between the brackets.
type Command struct {
	// Exec is the program and its arguments.
	Exec []string
	// Env is added to the environment, in the form NAME=value.
	Env []string
	// Setup and Cleanup are run by /bin/sh, before the first start and after the end.
	// Empty means none.
	Setup, Cleanup string
}

// CommandOf returns the command that a profile declares, without Exec, which is left
// to the caller that splits command lines. A nil profile declares nothing.
func CommandOf(profile *conformance.Profile) Command {
	var c Command
	c.Setup, _ = profile.Fact("setup")
	c.Cleanup, _ = profile.Fact("cleanup")
	env, _ := profile.Fact("env")
	c.Env = strings.Fields(env)
	return c
}

// stopTime is how long a kubelet may take to end on request.
const stopTime = 15 * time.Second

// program is a started command.
type program struct {
	Command
	process *supervisor.Process
	place   *strings.Replacer
	env     []string
}

// Start is a Target's Start.
func (c Command) Start(ctx context.Context, p Place) (*Kubelet, error) {
	if len(c.Exec) == 0 {
		return nil, errors.New("the command that starts the kubelet is empty")
	}
	run := &program{Command: c, place: strings.NewReplacer(Endpoint, p.Endpoint, Manifests, p.Manifests, State, p.State)}
	run.env = append(os.Environ(),
		"CONTAINER_RUNTIME_ENDPOINT="+p.Endpoint, "MANIFEST_DIRECTORY="+p.Manifests, "STATE_DIRECTORY="+p.State)
	for _, e := range c.Env {
		run.env = append(run.env, run.place.Replace(e))
	}
	if err := run.shell(ctx, c.Setup); err != nil {
		return nil, err
	}
	args := make([]string, len(c.Exec))
	for i, word := range c.Exec {
		args[i] = run.place.Replace(word)
	}
	var err error
	run.process, err = supervisor.Start(supervisor.Command{Path: args[0], Args: args[1:], Env: run.env})
	if err != nil {
		return nil, errors.Join(err, run.shell(ctx, c.Cleanup))
	}
	return &Kubelet{Kill: run.kill, Revive: run.revive, Close: run.close, Said: run.said}, nil
}

// shell runs a command to its end.
func (p *program) shell(ctx context.Context, line string) error {
	if line == "" {
		return nil
	}
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", p.place.Replace(line))
	cmd.Env = p.env
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", line, err, out)
	}
	return nil
}

func (p *program) kill() error {
	p.process.Kill()
	return nil
}

func (p *program) revive(context.Context) error { return p.process.Restart() }

func (p *program) close(ctx context.Context) error {
	return errors.Join(p.process.Stop(stopTime), p.shell(ctx, p.Cleanup))
}

// endedWords begin what said returns for a kubelet that has ended.
const endedWords = "it ended"

// said returns the end of the output, preceded by how the process ended if it did.
func (p *program) said() string {
	select {
	case <-p.process.Done():
		return fmt.Sprintf(endedWords+" (%s)\n%s", p.process.Ending(), p.process.Tail())
	default:
		return p.process.Tail()
	}
}
