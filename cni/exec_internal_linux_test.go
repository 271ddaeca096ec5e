package cni

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestChildWithoutPidfd: kernels before Linux 5.2 have no descriptor that tells of a
// process's end.
func TestChildWithoutPidfd(t *testing.T) {
	t.Parallel()
	for script, want := range map[string]string{
		"sleep 0.1; printf done":             "<nil>",
		"printf done; exec >&- 2>&-; exit 3": "exit status 3",
		"printf done; kill -9 $$":            "signal: killed",
		"sleep 15 & printf done":             exec.ErrWaitDelay.Error(),
	} {
		t.Run(want, func(t *testing.T) {
			t.Parallel()
			var stdout, stderr bytes.Buffer
			c, err := start("/bin/sh", os.Environ(), []byte(script), &stdout, &stderr)
			if err != nil {
				t.Fatal(err)
			}
			if err := unix.Close(c.pidfd); err != nil {
				t.Fatal(err)
			}
			c.pidfd = -1
			began := time.Now()
			err = c.wait()
			if got := fmt.Sprint(err); got != want || stdout.String() != "done" || stderr.Len() > 0 {
				t.Errorf("%q, stdout %q, stderr %q", got, &stdout, &stderr)
			}
			if took := time.Since(began); want != exec.ErrWaitDelay.Error() && took > 5*time.Second {
				t.Errorf("it took %v", took)
			}
			if err := c.terminate(); !errors.Is(err, os.ErrProcessDone) {
				t.Errorf("terminating it afterwards: %v", err)
			}
			c.kill()
		})
	}
}
