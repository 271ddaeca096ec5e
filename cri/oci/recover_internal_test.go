package oci

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nodekit-project/nodekit/cri"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// TestRecoverWithoutKeeper: of the containers that no keeper knows, one whose start was
// only intended may still be started; one that may have run is ended.
func TestRecoverWithoutKeeper(t *testing.T) {
	testenv.Require(t, testenv.Root) // it kills what may be left in the cgroup
	dir := t.TempDir()
	log := filepath.Join(dir, "0.log")
	if err := os.WriteFile(log, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	for what, c := range map[string]struct {
		started  time.Time
		log      string
		end, ran bool
	}{
		"created":                      {log: filepath.Join(dir, "none")},
		"start meant, and never begun": {started: begun, log: filepath.Join(dir, "none")},
		"start begun":                  {started: begun, log: log, end: true, ran: true},
		"start of one without a log":   {started: begun, end: true, ran: true},
	} {
		t.Run(what, func(t *testing.T) {
			r := &Runtime{cfg: Config{CgroupParent: "/nodekit-recover-test"}}
			have := &cri.Container{ID: "c", Sandbox: &cri.Sandbox{ID: "s"}, StartedAt: c.started, LogPath: c.log}
			if err := r.recoverContainer(have, nil); err != nil {
				t.Fatal(err)
			}
			if (have.Exit != nil) != c.end || have.StartedAt.IsZero() == c.ran {
				t.Errorf("it is %+v", have)
			}
		})
	}
}
