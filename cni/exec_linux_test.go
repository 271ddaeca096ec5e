package cni_test

import (
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
