package cni_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/internal/fault"
)

func execScript(t *testing.T, ctx context.Context, body string, opts *cni.ExecOptions) error {
	t.Helper()
	file := filepath.Join(t.TempDir(), "plugin")
	if err := os.WriteFile(file, []byte("#!/bin/sh\n"+body), 0o755); err != nil {
		t.Fatal(err)
	}
	_, err := cni.Exec(ctx, file, map[string]string{"PATH": os.Getenv("PATH")}, nil, opts)
	return err
}

// TestExecTellsStdout: what a plugin that fails wrote to stdout is in the error, also where
// it is no error object: there is often nothing else to go by.
func TestExecTellsStdout(t *testing.T) {
	for name, body := range map[string]string{
		"a line before":      `echo starting; echo '{"code":7,"msg":"no subnet"}'`,
		"result and error":   `echo '{"cniVersion":"1.1.0"}{"code":7,"msg":"no subnet"}'`,
		"code in a string":   `echo '{"code":"7","msg":"no subnet"}'`,
		"beside much of it":  `echo no subnet; head -c 100000 /dev/zero | tr '\0' x`,
		"beside some stderr": `echo no subnet; echo usage >&2`,
	} {
		err := execScript(t, t.Context(), body+"\nexit 1", nil)
		if err == nil || !strings.Contains(err.Error(), "no subnet") || !strings.Contains(err.Error(), "exit status 1") || len(err.Error()) > 1000 {
			t.Errorf("%s: %.1000v", name, err)
		}
	}
}

// TestExecEndedInTime: a plugin's own error counts, although its context has ended when
// what the plugin has left behind closes the pipes.
func TestExecEndedInTime(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	err := execScript(t, ctx, `sleep 1 & echo '{"code":7,"msg":"no subnet"}'; exit 1`, nil)
	if ctx.Err() == nil || cni.CodeOf(err) != cni.CodeConfig || err.Error() != "no subnet" {
		t.Errorf("code %d, %v", cni.CodeOf(err), err)
	}
}

// TestExecOutputHeld: what a plugin leaves behind may hold its pipes for a while, which does
// not depend on the time that the plugin has for its rollback.
func TestExecOutputHeld(t *testing.T) {
	t.Parallel()
	err := execShell(t.Context(), "sleep 15 & echo '{}'", nil)
	if cni.CodeOf(err) != cni.CodeDelegate || !strings.Contains(err.Error(), "holds its stdout or stderr open") {
		t.Errorf("code %d, %v", cni.CodeOf(err), err)
	}
}

// TestExecOutputHeldAfterTheContext: what a plugin leaves behind that ends as it is told
// does not have the plugin's grace period, and is killed.
func TestExecOutputHeldAfterTheContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	began, held := time.Now(), filepath.Join(t.TempDir(), "pid")
	err := execShell(ctx, `(trap '' TERM; exec sleep 30) & echo $! >`+held+`; echo ready >&2; wait`,
		&cni.ExecOptions{Grace: time.Minute, Stderr: onWrite(cancel)})
	if took := time.Since(began); cni.CodeOf(err) != cni.CodeTryAgain || took > 25*time.Second {
		t.Errorf("code %d, %v after %v", cni.CodeOf(err), err, took)
	}
	pid, err := os.ReadFile(held)
	if err != nil {
		t.Fatal(err)
	}
	process := "/proc/" + strings.TrimSpace(string(pid)) + "/cmdline" // empty once it is a zombie
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if line, _ := os.ReadFile(process); len(line) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("what the plugin left behind goes on")
		}
	}
}

// TestExecKilled: a plugin that does not end as it is told has its grace period.
func TestExecKilled(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	err := execShell(ctx, `trap 'echo told >&2' TERM; echo ready >&2; while :; do sleep 0.1; done`,
		&cni.ExecOptions{Grace: 2 * time.Second, Stderr: onWrite(cancel)})
	if cni.CodeOf(err) != cni.CodeTryAgain || !strings.Contains(err.Error(), "signal: killed") || !strings.Contains(err.Error(), "told") {
		t.Errorf("code %d, %v", cni.CodeOf(err), err)
	}
}

// TestExecStoppedWithAnError: what a plugin says that was told to end is an error object.
func TestExecStoppedWithAnError(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	err := execShell(ctx, `trap 'echo "{\"code\":7,\"msg\":\"told\"}"; exit 1' TERM
echo ready >&2
sleep 60 & wait`, &cni.ExecOptions{Stderr: onWrite(cancel)})
	if cni.CodeOf(err) != cni.CodeTryAgain || strings.Contains(err.Error(), "no error object") {
		t.Errorf("code %d, %v", cni.CodeOf(err), err)
	}
}

// execShell is for tests that run at once: none of them writes a program, which another would
// have open while it forks.
func execShell(ctx context.Context, script string, opts *cni.ExecOptions) error {
	_, err := cni.Exec(ctx, "/bin/sh", map[string]string{"PATH": os.Getenv("PATH")}, []byte(script), opts)
	return err
}

// TestExecPipes: a long configuration and a long answer do not wait for each other, a
// configuration that nobody reads does not keep the plugin from ending, and the plugin sees
// where it ends.
func TestExecPipes(t *testing.T) {
	before := descriptors(t)
	long := bytes.Repeat([]byte("0123456789abcde\n"), 64<<10)
	for script, c := range map[string]struct{ stdin, want []byte }{
		"cat":                            {long, long},
		"sleep 0.2; cat":                 {long[:64<<10], long[:64<<10]},
		"cat; printf done":               {nil, []byte("done")},
		"exec <&-; printf done":          {long, []byte("done")},
		"head -c 99984 | tail -n 1":      {long, long[:16]},
		"cat >&2; printf done":           {long, []byte("done")},
		"printf done; exec >&-; cat >&2": {long[:100], []byte("done")},
		"exec >&- 2>&-; cat; exit 0":     {nil, nil},
		"exec >&- 2>&- <&-; sleep .3":    {long, nil},
	} {
		file := filepath.Join(t.TempDir(), "plugin")
		if err := os.WriteFile(file, []byte("#!/bin/sh\n"+script), 0o755); err != nil {
			t.Fatal(err)
		}
		got, err := cni.Exec(t.Context(), file, map[string]string{"PATH": os.Getenv("PATH")}, c.stdin, nil)
		if err != nil || !bytes.Equal(got, c.want) {
			t.Errorf("%s: %d bytes, %v", script, len(got), err)
		}
	}
	if after := descriptors(t); after != before {
		t.Errorf("%d descriptors are open, not %d as before", after, before)
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(open)
}

// TestExecStarted: whoever has to undo what a plugin did knows whether it ran at all.
func TestExecStarted(t *testing.T) {
	ended, cancel := context.WithDeadline(t.Context(), time.Unix(0, 0))
	defer cancel()
	for name, c := range map[string]struct {
		ctx  context.Context
		file string
		want bool
		says string
	}{
		"fails":      {t.Context(), "#!/bin/sh\nexit 1", true, "exit status 1"},
		"no program": {t.Context(), "\x7fELF", false, "exec format error"},
		"too late":   {ended, "#!/bin/sh\nexit 1", false, "it was not started: context deadline exceeded"},
	} {
		file := filepath.Join(t.TempDir(), "plugin")
		if err := os.WriteFile(file, []byte(c.file), 0o755); err != nil {
			t.Fatal(err)
		}
		got := false
		if _, err := cni.Exec(c.ctx, file, nil, nil, &cni.ExecOptions{Started: func() { got = true }}); err == nil || got != c.want || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: started is %t, %v", name, got, err)
		}
	}
}

// TestExecWhileInstalled: a file that is being written can be executed in a moment.
func TestExecWhileInstalled(t *testing.T) {
	file := filepath.Join(t.TempDir(), "plugin")
	f, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString("#!/bin/sh\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := cni.Exec(t.Context(), file, nil, nil, nil); !errors.Is(err, fault.Unavailable) || cni.CodeOf(err) != cni.CodeTryAgain {
		t.Errorf("code %d, %v", cni.CodeOf(err), err)
	}
}

// onWrite is called for each write.
type onWrite func()

func (f onWrite) Write(b []byte) (int, error) {
	f()
	return len(b), nil
}
