package cni

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/nodekit-project/nodekit/internal/execerr"
)

// Grace is how long a plugin may keep running after the context of its call has ended,
// for its rollback; then the caller kills it or, if it is in process, abandons it. It
// is the sum of the longest these steps can take, even if delegates hang: three seconds
// after which a handler is abandoned, the rollback, and the end of a delegate within
// it.
const Grace = abandonTime + undoTime + delegateGrace + 2*time.Second

// delegateGrace is the grace of a delegate, which must be within that of the plugin.
// A delegate that is killed does not finish its own rollback, but the plugin that
// called it calls its DEL.
const delegateGrace = 2 * time.Second

// drainTime is how long a descendant may hold open the pipes of a plugin that has
// exited or was killed. On a busy machine it must also suffice for reading what the
// pipes still hold.
const drainTime = 10 * time.Second

// ExecOptions configures Exec. Nil means the defaults.
type ExecOptions struct {
	// Stderr receives what the plugin writes to stderr, also if it fails. Exec waits for
	// each Write. If nil, only the end of it is kept, for the error.
	Stderr io.Writer
	// Grace is the time that the plugin has for its rollback after ctx has ended,
	// before it is killed. Zero means the constant Grace.
	Grace time.Duration
	// Started is called once the plugin's process runs, before Exec waits for it. A
	// plugin for which it was not called has done nothing. Nil means nobody.
	Started func()
}

// Exec runs a plugin's executable with exactly the environment env and returns what it
// wrote to stdout. If the plugin fails, cannot be started, or is still running when ctx
// ends, the error is an *Error; if it fails without an error object, writes more than
// 16 MiB to stdout, or leaves something running that holds its stdout or stderr open for
// ten seconds, the code is CodeDelegate and the details are the end of stderr. A plugin
// whose file is being written gets CodeTryAgain.
//
// When ctx ends while the process runs, it and its descendants receive SIGTERM. After the
// grace period they receive SIGKILL; descendants already when the process has ended and its
// output is closed, or those ten seconds have passed. On Linux the process is also killed
// when the calling process dies, so that it cannot interfere with the cleanup after a crash.
func Exec(ctx context.Context, file string, env map[string]string, stdin []byte, opts *ExecOptions) ([]byte, error) {
	if opts == nil {
		opts = &ExecOptions{}
	}
	grace := cmp.Or(opts.Grace, Grace)
	// The kernel's parent death signal follows the thread that forked.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	answer := &capture{most: maxStdout, strict: true}
	tail := &tail{to: opts.Stderr}
	list := make([]string, 0, len(env))
	for key, value := range env {
		list = append(list, key+"="+value)
	}
	if ctx.Err() != nil {
		return nil, &Error{CNIVersion: Newest, Code: CodeTryAgain, Msg: fmt.Sprintf("running %q: it was not started: %v", file, ctx.Err())}
	}
	c, err := start(file, list, stdin, answer, tail)
	if err != nil {
		return nil, execError(nil, file, execerr.Explain(file, err), nil)
	}
	if opts.Started != nil {
		opts.Started()
	}
	late, err := wait(ctx, c, grace)
	stdout, over := answer.bytes()
	switch e, failed := decodeError(stdout); {
	case over:
		err = fmt.Errorf("it writes more than %d bytes to stdout", maxStdout)
	case err == nil:
		return stdout, nil
	case failed && late == nil:
		return stdout, e
	case !failed && len(stdout) > 0 && !errors.Is(err, exec.ErrWaitDelay):
		err = fmt.Errorf("%w, and what it wrote to stdout is no error object: %.300q", err, stdout)
	}
	return stdout, execError(late, file, err, tail.end)
}

// wait waits for the process and its output, and ends them after ctx has. If the process
// was then still running, late is the error of ctx, and err is not nil either.
func wait(ctx context.Context, c *child, grace time.Duration) (late, err error) {
	told := make(chan struct{})
	var kill *time.Timer
	stop := context.AfterFunc(ctx, func() {
		defer close(told)
		if c.terminate() == nil {
			late, kill = ctx.Err(), time.AfterFunc(grace, c.kill)
		}
	})
	err = c.wait()
	if stop() {
		return nil, err
	}
	<-told
	if late != nil {
		kill.Stop()
		c.kill()
	}
	return late, cmp.Or(err, late)
}

// execError is the error of a plugin that could not be started, or failed without one of its
// own; late is that of the context for which it was stopped, if it was.
func execError(late error, file string, err error, stderr []byte) *Error {
	e := &Error{CNIVersion: Newest, Code: CodeDelegate, Msg: fmt.Sprintf("running %q: %v", file, err), Details: strings.TrimSpace(string(stderr))}
	switch {
	case errors.Is(err, syscall.ETXTBSY): // somebody installs it
		e.Code = CodeTryAgain
	case errors.Is(err, exec.ErrWaitDelay):
		e.Msg = fmt.Sprintf("running %q: it has ended, and something that it started holds its stdout or stderr open: redirect those of what goes on", file)
	}
	if late != nil {
		e.Code = CodeTryAgain
		if errors.Is(late, context.DeadlineExceeded) {
			e.Msg = fmt.Sprintf("running %q: it did not end in time and was stopped", file)
		}
	}
	return e
}

// tail passes on what is written to it and keeps the end.
type tail struct {
	to  io.Writer
	end []byte
}

const tailSize = 4 << 10

func (t *tail) Write(b []byte) (int, error) {
	t.end = append(t.end, b...)
	if extra := len(t.end) - tailSize; extra > 0 {
		t.end = t.end[extra:]
	}
	if t.to != nil {
		return t.to.Write(b)
	}
	return len(b), nil
}
