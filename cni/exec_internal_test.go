package cni

import (
	"context"
	"os/exec"
	"strings"
	"testing"
)

// TestSomethingHoldsTheOutput: a plugin whose descendant keeps its stdout open has an error
// that says so, and what to do.
func TestSomethingHoldsTheOutput(t *testing.T) {
	err := execError(nil, "/bin/p", exec.ErrWaitDelay, []byte("started"))
	if err.Code != CodeDelegate || !strings.Contains(err.Error(), "holds its stdout or stderr open") || !strings.Contains(err.Error(), "started") {
		t.Errorf("%d, %v", err.Code, err)
	}
}

// TestStoppedWithAnError: what a plugin says that was told to end is an error object.
func TestStoppedWithAnError(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	_, err := Exec(ctx, "/bin/sh", nil, []byte(`trap 'echo "{\"code\":7,\"msg\":\"told\"}"; exit 1' TERM
echo ready >&2
sleep 60 & wait`), &ExecOptions{Stderr: onWrite(cancel)})
	if CodeOf(err) != CodeTryAgain || strings.Contains(err.Error(), "no error object") {
		t.Errorf("%d, %v", CodeOf(err), err)
	}
}

// onWrite is called for each write.
type onWrite func()

func (f onWrite) Write(b []byte) (int, error) {
	f()
	return len(b), nil
}
