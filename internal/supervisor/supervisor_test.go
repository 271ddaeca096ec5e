//go:build linux

package supervisor_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nodekit-project/nodekit/internal/procstat"
	"github.com/nodekit-project/nodekit/internal/supervisor"
)

// TestMain makes this binary a program of its own when asked to: it starts a
// process under supervision, prints its id and ends without a word to it.
func TestMain(m *testing.M) {
	if script := os.Getenv("SUPERVISOR_ORPHAN"); script != "" {
		p, err := supervisor.Start(supervisor.Command{Path: "sh", Args: []string{"-c", script}})
		if err != nil {
			panic(err)
		}
		os.Stdout.WriteString(strconv.Itoa(p.PID()))
		return
	}
	os.Exit(m.Run())
}

func shell(t *testing.T, script string) *supervisor.Process {
	t.Helper()
	p, err := supervisor.Start(supervisor.Command{Path: "sh", Args: []string{"-c", script}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	return p
}

// waitFor waits for a line in what the process printed and returns the
// number behind it.
func waitFor(t *testing.T, p *supervisor.Process, word string) int {
	t.Helper()
	for range 500 {
		if _, rest, found := strings.Cut(p.Tail(), word+" "); found && strings.Contains(rest, "\n") {
			line, _, _ := strings.Cut(rest, "\n")
			n, err := strconv.Atoi(line)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("no %q in %q", word, p.Tail())
	return 0
}

// gone waits for a process to be no more, a zombie included.
func gone(t *testing.T, pid int) {
	t.Helper()
	for range 500 {
		if procstat.Ended(pid) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("process %d is still there", pid)
}

func TestKillTakesTheGroup(t *testing.T) {
	p := shell(t, "sleep 100 & echo child $!; wait")
	child := waitFor(t, p, "child")
	p.Kill()
	if err := syscall.Kill(p.PID(), 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("the process is not reaped: %v", err)
	}
	gone(t, child)
	p.Kill() // twice is allowed
	var exit *exec.ExitError
	if err := p.Err(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("error %v", err)
	}
}

func TestStop(t *testing.T) {
	p := shell(t, "trap 'echo bye; exit 0' TERM; echo up 1; while :; do sleep 0.01; done")
	waitFor(t, p, "up")
	if err := p.Stop(5 * time.Second); err != nil || p.Err() != nil {
		t.Errorf("stop: %v, exit: %v", err, p.Err())
	}
	if !strings.Contains(p.Tail(), "bye") {
		t.Errorf("last words are missing: %q", p.Tail())
	}
	deaf := shell(t, "trap '' TERM; echo up 1; while :; do sleep 0.01; done")
	waitFor(t, deaf, "up")
	if err := deaf.Stop(50 * time.Millisecond); err == nil || !strings.Contains(err.Error(), "was killed") {
		t.Errorf("stop of a deaf process: %v", err)
	}
}

func TestGroupDiesWithItsLeader(t *testing.T) {
	p := shell(t, "sleep 100 & echo child $!; exit 3")
	<-p.Done()
	gone(t, waitFor(t, p, "child"))
	if err := p.Err(); err == nil || err.Error() != "exit status 3" {
		t.Errorf("error %v", err)
	}
}

// TestLeavers: who leaves the group on purpose lives on and can still write.
func TestLeavers(t *testing.T) {
	p := shell(t, "setsid sh -c 'echo leaver $$; while [ ! -e "+t.TempDir()+"/end ]; do sleep 0.05; echo still; done' & wait")
	leaver := waitFor(t, p, "leaver")
	start := time.Now()
	p.Kill()
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("kill waited %s for somebody else", took)
	}
	before := len(p.Tail())
	for range 500 {
		if len(p.Tail()) > before {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if len(p.Tail()) == before {
		t.Error("the leaver cannot write")
	}
	if err := syscall.Kill(leaver, syscall.SIGKILL); err != nil {
		t.Errorf("the leaver is gone: %v", err)
	}
}

func TestRestart(t *testing.T) {
	p := shell(t, "echo up $$; exec sleep 100")
	first := p.PID()
	done := p.Done()
	waitFor(t, p, "up")
	if err := p.Restart(); err != nil {
		t.Fatal(err)
	}
	<-done
	if p.PID() == first || p.Err() != nil {
		t.Errorf("pid %d after %d, error %v", p.PID(), first, p.Err())
	}
	select {
	case <-p.Done():
		t.Error("the second life has ended")
	default:
	}
}

// TestLifeTail: what a process prints in one life is not taken for that of another.
func TestLifeTail(t *testing.T) {
	p := shell(t, "head -c 20000 /dev/zero | tr '\\0' x; echo end; exit 3")
	for range 3 {
		<-p.Done()
		if life, all := p.LifeTail(), p.Tail(); life != all || !strings.HasSuffix(life, "xend\n") {
			t.Errorf("%d bytes of the life's %d end with %q", len(life), len(all), life[max(len(life)-10, 0):])
		}
		if err := p.Restart(); err != nil {
			t.Fatal(err)
		}
	}
	short := shell(t, "echo up $$")
	for range 3 {
		<-short.Done()
		if life := short.LifeTail(); strings.Count(life, "up") != 1 || short.Ending() != "exit status 0" {
			t.Errorf("it printed %q and ended with %s", life, short.Ending())
		}
		if err := short.Restart(); err != nil {
			t.Fatal(err)
		}
	}
	<-p.Done()
	if got := p.Ending(); got != "exit status 3" {
		t.Errorf("it ended with %s", got)
	}
	if strings.Count(short.Tail(), "up") < 3 {
		t.Errorf("the tail of all lives is %q", short.Tail())
	}
}

// TestDiesWithParent: the process of a parent that simply ends must end.
func TestDiesWithParent(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), "SUPERVISOR_ORPHAN=exec sleep 100")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(string(out))
	if err != nil {
		t.Fatal(err)
	}
	gone(t, pid)
}

// TestSurvivesThreads: the end of other threads of this process must not
// look like the end of the parent.
func TestSurvivesThreads(t *testing.T) {
	var all []*supervisor.Process
	for range 4 {
		all = append(all, shell(t, "exec sleep 100"))
	}
	for range 32 {
		done := make(chan struct{})
		go func() {
			defer close(done)
			runtime.LockOSThread() // never unlocked: the thread ends
		}()
		<-done
	}
	time.Sleep(50 * time.Millisecond)
	for _, p := range all {
		if err := p.Err(); err != nil {
			t.Errorf("process %d: %v", p.PID(), err)
		}
	}
}

func TestStartErrors(t *testing.T) {
	_, err := supervisor.Start(supervisor.Command{Path: "/nonexistent/plugin"})
	if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), `"/nonexistent/plugin"`) {
		t.Errorf("error %v", err)
	}
}

func TestOutput(t *testing.T) {
	var out strings.Builder // written by two pipes, one write at a time
	p, err := supervisor.Start(supervisor.Command{
		Path: "sh", Args: []string{"-c", "echo $A; echo two >&2; head -c 40000 /dev/zero | tr '\\0' x; echo end"},
		Env: []string{"A=one", "PATH=" + os.Getenv("PATH")}, Stdout: &out, Stderr: &out,
	})
	if err != nil {
		t.Fatal(err)
	}
	<-p.Done()
	if got := out.String(); !strings.Contains(got, "one\n") || !strings.Contains(got, "two\n") || len(got) != 40012 {
		t.Errorf("%d bytes: %.20q", len(got), got)
	}
	if tail := p.Tail(); len(tail) != 16<<10 || !strings.Contains(tail, "end\n") { // "two" may come between
		t.Errorf("tail of %d bytes: %.20q", len(tail), tail[max(0, len(tail)-20):])
	}
}

// slow is a listener that takes its time.
type slow struct{ heard int }

func (s *slow) Write(b []byte) (int, error) {
	time.Sleep(300 * time.Millisecond)
	s.heard += len(b)
	return len(b), nil
}

// TestLastWords: all that a process printed is there when it is done, however late
// it is read, and also while somebody else holds its pipes.
func TestLastWords(t *testing.T) {
	const widen = "perl -e 'fcntl(STDOUT, 1031, 1 << 20)'; " // F_SETPIPE_SZ
	for name, before := range map[string]string{"alone": "", "with a leaver": "setsid sleep 3 & ", "with a wide pipe": widen} {
		var out slow
		p, err := supervisor.Start(supervisor.Command{
			Path: "sh", Args: []string{"-c", before + "head -c 200000 /dev/zero | tr '\\0' x; echo end"}, Stdout: &out,
		})
		if err != nil {
			t.Fatal(err)
		}
		<-p.Done()
		if tail := p.Tail(); out.heard < 200000 || !strings.HasSuffix(tail, "xend\n") {
			t.Errorf("%s: %d bytes were heard, and the tail ends in %q", name, out.heard, tail[max(0, len(tail)-20):])
		}
	}
}

func TestKeep(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var pids []int
	var last error
	var waits []time.Duration
	err := supervisor.Keep(ctx, supervisor.Command{Path: "sh", Args: []string{"-c", "exit 7"}}, func(e supervisor.Event) {
		if e.PID != 0 {
			pids = append(pids, e.PID)
		} else {
			last, waits = e.Err, append(waits, e.Restart)
		}
		if len(pids) == 3 {
			cancel()
		}
	})
	if err != nil || len(pids) != 3 || last == nil || last.Error() != "exit status 7" {
		t.Errorf("error %v, pids %v, last %v", err, pids, last)
	}
	if len(waits) < 2 || waits[1] != 2*waits[0] {
		t.Errorf("no back-off: %v", waits)
	}
	if err := supervisor.Keep(ctx, supervisor.Command{Path: "/nonexistent"}, nil); err == nil {
		t.Error("a command that cannot start was kept")
	}
}
