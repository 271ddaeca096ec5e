package cni

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"strings"
	"time"
)

// Grace is how long a plugin may keep running after the context of its call has ended,
// for its rollback; then the caller kills it or, if it is in process, abandons it. It
// is the sum of the longest these steps can take, even if delegates hang: three seconds
// after which a handler is abandoned, the rollback, and the end of a delegate within
// it.
const Grace = abandonTime + undoTime + delegateGrace + 2*time.Second

// delegateGrace is the grace of a delegate, which must lie within that of the
// plugin. A delegate that is killed loses its own rollback, but gets the DEL of
// the plugin that called it.
const delegateGrace = 2 * time.Second

// drainTime is how long the pipes of a plugin that has ended, or was killed, may
// be held open by a descendant of it. On a busy machine it also has to do for
// reading what stands in them.
const drainTime = 10 * time.Second

// ExecOptions configures Exec. Nil means the defaults.
type ExecOptions struct {
	// Stderr receives what the plugin writes to stderr, also if it fails. If nil, only
	// the end of it is kept, for the error.
	Stderr io.Writer
	// Grace is the time that the plugin has for its rollback after ctx has ended,
	// before it is killed. Zero means the constant Grace.
	Grace time.Duration
}

// Exec runs a plugin's executable with exactly the environment env and returns what it
// wrote to stdout. If the plugin fails, cannot be started, or is still running when ctx
// ends, the error is an *Error; if it fails without an error object, or writes more
// than 16 MiB to stdout, the code is CodeDelegate and the details are the end of
// stderr.
//
// When ctx ends, the process and its descendants receive SIGTERM and, after the grace
// period, SIGKILL. On Linux the process is also killed when the calling process dies,
// so that it cannot interfere with the cleanup after a crash.
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
	cmd := exec.CommandContext(ctx, file)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), answer, tail
	cmd.Dir = "/"
	cmd.Env = make([]string, 0, len(env))
	for key, value := range env {
		cmd.Env = append(cmd.Env, key+"="+value)
	}
	cmd.WaitDelay = grace + drainTime
	defer contain(cmd, grace)()
	err := cmd.Run()
	stdout, over := answer.bytes()
	switch e, failed := decodeError(stdout); {
	case over:
		err = fmt.Errorf("it writes more than %d bytes to stdout", maxStdout)
	case err == nil:
		return stdout, nil
	case failed && ctx.Err() == nil:
		return stdout, e
	}
	return stdout, execError(ctx, file, err, tail.end)
}

func execError(ctx context.Context, file string, err error, stderr []byte) *Error {
	e := &Error{CNIVersion: Newest, Code: CodeDelegate, Msg: fmt.Sprintf("running %q: %v", file, err), Details: strings.TrimSpace(string(stderr))}
	if errors.Is(err, exec.ErrWaitDelay) {
		e.Msg = fmt.Sprintf("running %q: it has ended, and something that it started holds its stdout or stderr open: redirect those of what goes on", file)
	}
	if cause := ctx.Err(); cause != nil {
		e.Code = CodeTryAgain
		if errors.Is(cause, context.DeadlineExceeded) {
			e.Msg = fmt.Sprintf("running %q: it did not end in time and was stopped", file)
		}
	}
	return e
}

// tail keeps the end of what passes through it.
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
