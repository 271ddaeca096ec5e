package cni

import (
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
