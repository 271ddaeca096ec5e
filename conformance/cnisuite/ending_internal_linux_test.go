package cnisuite

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/netns"
	"github.com/nodekit-project/nodekit/internal/procstat"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// untilReady starts the daemon hoards and waits for it.
const untilReady = `echo $$ >"$DIR/group"; "%s" & for i in $(seq 1000); do [ -e "$DIR/ready" ] && exit 0; sleep 0.05; done; exit 1`

// TestTearDownWaitsForTheLastDescriptor has processes that are killed and not seen any
// more, and hold a lock still.
func TestTearDownWaitsForTheLastDescriptor(t *testing.T) {
	testenv.Require(t, testenv.Root)
	for name, teardown := range map[string]string{"killed by the suite": "", "killed by the teardown": `kill -KILL "-$(cat "$DIR/group")"`} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			self, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			daemon := filepath.Join(dir, "test-plugin-hoards")
			if err := os.Symlink(self, daemon); err != nil {
				t.Fatal(err)
			}
			l := newLab(&Target{Setup: fmt.Sprintf(untilReady, daemon), Teardown: teardown}, dir)
			if err := os.Mkdir(l.state(), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := netns.Create(l.host); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := netns.Remove(l.host); err != nil {
					t.Error(err)
				}
			})
			if err := l.setUp(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := l.tearDown(t.Context()); err != nil {
				t.Error(err)
			}
			lock, err := os.Open(filepath.Join(l.state(), "lock"))
			if err != nil {
				t.Fatal(err)
			}
			defer lock.Close()
			if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
				t.Errorf("taking the lock of what has ended: %v", err)
			}
		})
	}
}

// TestSetUpThatDoesNotReturn has a daemon in the foreground.
func TestSetUpThatDoesNotReturn(t *testing.T) {
	testenv.Require(t, testenv.Root)
	l := newLab(&Target{Setup: "echo serving; exec sleep 100"}, t.TempDir())
	if err := netns.Create(l.host); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netns.Remove(l.host); err != nil {
			t.Error(err)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := l.setUp(ctx); err == nil || !strings.Contains(err.Error(), "in the background, with &, and to answer; it printed: serving") {
		t.Errorf("%v, want what setup has to do", err)
	}
}

// TestTearDownLeavesOutZombies has one that nobody waits for in the daemon's group.
func TestTearDownLeavesOutZombies(t *testing.T) {
	testenv.Require(t, testenv.Root)
	l := newLab(&Target{}, t.TempDir())
	cmd := exec.Command("true")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	l.daemon = cmd.Process.Pid
	if err := unix.Waitid(unix.P_PID, l.daemon, nil, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- l.tearDown(t.Context()) }()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Error("it waits for a zombie")
	}
	_ = cmd.Wait() // it may have been killed
}

// TestHoldKnowsProcessesByTheirStart: one that has the id of another is left alone.
func TestHoldKnowsProcessesByTheirStart(t *testing.T) {
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = cmd.Process.Kill(), cmd.Wait() }()
	pid := cmd.Process.Pid
	st, err := procstat.Read(pid)
	if err != nil {
		t.Fatal(err)
	}
	held := processes{}
	defer held.release()
	if all, err := held.open(map[int]uint64{pid: st.StartTime - 1}); all || err != nil || len(held) > 0 {
		t.Errorf("a process that began later: %v, %v; held: %v", all, err, held)
	}
	if all, err := held.open(map[int]uint64{pid: st.StartTime}); !all || err != nil || len(held) != 1 {
		t.Errorf("the process itself: %v, %v; held: %v", all, err, held)
	}
	if left := held.end(time.Now().Add(time.Minute)); len(left) > 0 {
		t.Errorf("it lives on: %v", left)
	}
	if err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
	if all, err := held.open(map[int]uint64{pid: st.StartTime}); !all || err != nil || len(held) > 0 {
		t.Errorf("a zombie: %v, %v; held: %v", all, err, held)
	}
}
