package cnisuite

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/nodekit-project/nodekit/conformance"
	"github.com/nodekit-project/nodekit/internal/execerr"
	"github.com/nodekit-project/nodekit/internal/netns"
)

// answerTime is how long an execution may take. It is far above a good duration: it
// only ends a rule whose plugin hangs.
const answerTime = 10 * time.Second

// errHangs is the cause if an execution has used up its time. If instead the rule's
// time is over, nothing is said about the plugin.
var errHangs = errors.New("the plugin does not end")

// with is how one call differs from a runtime's. The zero value is a correct call.
type with struct {
	// keys replace keys of the configuration; nil removes a key.
	keys map[string]any
	// env replaces variables; unset removes some.
	env   map[string]string
	unset []string
	// stdin replaces the whole configuration.
	stdin []byte
	// what names the call in messages. Empty means the command.
	what string
	// within replaces answerTime.
	within time.Duration
}

// call executes the plugin as a runtime would for the container; nil is for commands
// without a container. An error is a fault of the suite: a plugin that fails, or
// hangs until it is killed, is an answer.
func (l *lab) call(ctx context.Context, command string, c *container, w with) (*answer, error) {
	stdin := w.stdin
	if stdin == nil {
		var err error
		if stdin, err = l.document(command, c, w.keys); err != nil {
			return nil, err
		}
	}
	env := l.env(command, c)
	maps.Copy(env, w.env)
	for _, name := range w.unset {
		delete(env, name)
	}
	if w.within == 0 {
		w.within = answerTime
	}
	ctx, cancel := context.WithTimeoutCause(ctx, w.within, errHangs)
	defer cancel()
	if c != nil && command == "ADD" {
		c.owed = true // however it ends
	}
	start := time.Now()
	out, err := l.exec(ctx, env, stdin)
	if err != nil {
		return nil, err
	}
	if out.what = w.what; out.what == "" {
		out.what = command
	}
	out.took = time.Since(start)
	if c != nil {
		c.owed = c.owed && (command != "DEL" || out.rc != 0)
	}
	l.note(command, out)
	return out, nil
}

// document is the request of a command for the container: the target's configuration
// with what a runtime adds. Keys in extra replace others.
func (l *lab) document(command string, c *container, extra map[string]any) ([]byte, error) {
	config, err := l.target.config(l.state())
	if err != nil {
		return nil, err
	}
	config["cniVersion"], config["name"] = l.version, l.network("")
	if args, ok := config["runtimeConfig"].(map[string]any); ok && c != nil {
		config["runtimeConfig"] = ofItsOwn(args, c.number)
	}
	switch {
	case c == nil:
		delete(config, "runtimeConfig")
		if command == "GC" {
			config["cni.dev/valid-attachments"] = []any{}
		}
	case command != "ADD" && c.result != nil:
		config["prevResult"] = c.result
	case c.prev != nil:
		config["prevResult"] = c.prev
	}
	replace := func(keys map[string]any) {
		for key, value := range keys {
			if config[key] = value; value == nil {
				delete(config, key)
			}
		}
	}
	if c != nil {
		replace(c.keys)
	}
	replace(extra)
	return json.Marshal(config)
}

// path are the directories of CNI_PATH.
func (l *lab) path() []string { return slices.Concat(l.ipam.dirs(), l.target.Path) }

// env is the exact environment of an execution.
func (l *lab) env(command string, c *container) map[string]string {
	env := map[string]string{
		"CNI_COMMAND": command,
		"CNI_PATH":    strings.Join(l.path(), ":"),
		"PATH":        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
	}
	if c != nil {
		env["CNI_CONTAINERID"], env["CNI_NETNS"], env["CNI_IFNAME"] = c.id, c.ns, c.ifName
	}
	return env
}

// exec runs the plugin in the host's namespace until it ends or the context does,
// which kills the plugin and what it started.
func (l *lab) exec(ctx context.Context, env map[string]string, stdin []byte) (*answer, error) {
	cmd := l.command(ctx, env, stdin)
	if err := netns.Do(l.host, cmd.Start); err != nil {
		return nil, fmt.Errorf("executing the plugin: %w", execerr.Explain(l.target.Binary, err))
	}
	start := time.Now()
	out, err := collect(ctx, cmd)
	if err == nil {
		l.logCall(env, out, time.Since(start))
	}
	if err == nil && l.boot != "" && out.rc == notRebooted {
		return nil, fmt.Errorf("giving the boot another id: %s", out.stderr)
	}
	return out, err
}

// logCall shows the user an execution with --verbose.
func (l *lab) logCall(env map[string]string, out *answer, took time.Duration) {
	l.log.Debug("call", "command", env["CNI_COMMAND"], "container", env["CNI_CONTAINERID"], "interface", env["CNI_IFNAME"], "netns", env["CNI_NETNS"],
		"exit", out.rc, "took", took, "stdout", string(out.stdout), "stderr", string(out.stderr))
}

// collect waits for the plugin.
func collect(ctx context.Context, cmd *exec.Cmd) (*answer, error) {
	err := cmd.Wait()
	out := &answer{rc: cmd.ProcessState.ExitCode()}
	out.stdout, out.stderr = cmd.Stdout.(*bytes.Buffer).Bytes(), cmd.Stderr.(*bytes.Buffer).Bytes()
	var exit *exec.ExitError
	switch {
	case errors.Is(context.Cause(ctx), errHangs):
		out.hung = true
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.Is(err, exec.ErrWaitDelay), errors.Is(err, syscall.EPIPE):
		// It left a process behind that holds stdout, or did not read stdin: other
		// rules are about that.
	case err != nil && !errors.As(err, &exit):
		return nil, fmt.Errorf("executing the plugin: %w", err)
	}
	return out, nil
}

// execKilled sends the signal to the plugin after some time and, if all is set, also
// to what it started.
func (l *lab) execKilled(ctx context.Context, env map[string]string, stdin []byte, after time.Duration, signal syscall.Signal, all bool) (*answer, error) {
	cmd := l.command(ctx, env, stdin)
	if err := netns.Do(l.host, cmd.Start); err != nil {
		return nil, fmt.Errorf("executing the plugin: %w", execerr.Explain(l.target.Binary, err))
	}
	pid := cmd.Process.Pid
	if all {
		pid = -pid
	}
	timer := time.AfterFunc(after, func() {
		_ = syscall.Kill(pid, signal) // it may have ended already
	})
	err := cmd.Wait()
	timer.Stop()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay) {
		return nil, fmt.Errorf("executing the plugin: %w", err)
	}
	out := &answer{
		what: env["CNI_COMMAND"], rc: cmd.ProcessState.ExitCode(), killed: !cmd.ProcessState.Exited(),
		stdout: cmd.Stdout.(*bytes.Buffer).Bytes(), stderr: cmd.Stderr.(*bytes.Buffer).Bytes(),
	}
	l.logCall(env, out, after)
	return out, nil
}

// hit returns NotApplicable if too few signals came in time to say anything about a
// plugin that gets one.
func hit(hits, rounds int) error {
	if least := max(1, rounds/10); hits < least {
		return conformance.NotApplicable("only %d of %d signals came before the plugin had ended", hits, rounds)
	}
	return nil
}

func (l *lab) command(ctx context.Context, env map[string]string, stdin []byte) *exec.Cmd {
	cmd := exec.CommandContext(ctx, l.target.Binary)
	cmd.Env = []string{}
	for key, value := range env {
		cmd.Env = append(cmd.Env, key+"="+value)
	}
	var stdout, stderr bytes.Buffer
	cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = "/", bytes.NewReader(stdin), &stdout, &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = max(time.Second, l.handOver)
	l.inBoot(cmd)
	return cmd
}
