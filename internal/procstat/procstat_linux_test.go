package procstat_test

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/procstat"
)

// With headless in its environment the test binary ends its first thread, and goes on.
const headless = "NODEKIT_PROCSTAT_HEADLESS"

func TestMain(m *testing.M) {
	if os.Getenv(headless) == "" {
		os.Exit(m.Run())
	}
	time.AfterFunc(time.Minute, func() { os.Exit(1) })
	for leave(); ; time.Sleep(time.Millisecond) {
		go leave()
	}
}

// leave ends the thread that it runs on if that is the first.
func leave() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if unix.Gettid() == os.Getpid() {
		unix.Syscall(unix.SYS_EXIT, 0, 0, 0)
	}
}

// TestFirstThreadEnded: a process without its first thread shows a zombie's state, and
// goes on until its other threads have ended.
func TestFirstThreadEnded(t *testing.T) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), headless+"=1")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	defer cmd.Wait()
	defer cmd.Process.Kill()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		s, err := procstat.Read(pid)
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("%+v, %v", s, err)
		}
		if s.State != 'Z' {
			continue
		}
		if s.Zombie() || procstat.Ended(pid) {
			t.Errorf("%+v has ended", s)
		}
		break
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
	if !procstat.Ended(pid) {
		t.Error("a process without threads has not ended")
	}
}

// TestRead looks at a program with an odd name, at its zombie, and at what is no more.
func TestRead(t *testing.T) {
	const name = ") Z 1 (b"
	cmd := exec.Command("sh", "-c", `printf '%s' "$0" >/proc/$$/comm; echo; read -r line; exit 3`, name)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(stdout, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	live, err := procstat.Read(pid)
	if err != nil || live.Comm != name || live.PPID != os.Getpid() || live.Zombie() || live.Kernel() || live.VSize == 0 || live.EnvEnd == 0 {
		t.Errorf("while it runs: %+v, %v", live, err)
	}
	self, err := procstat.Read(os.Getpid())
	if err != nil || self.StartTime == 0 || self.StartTime > live.StartTime {
		t.Errorf("this process started at %d, its child at %d: %v", self.StartTime, live.StartTime, err)
	}
	if procstat.Ended(pid) {
		t.Error("it has ended while it runs")
	}

	stdin.Close()
	if err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
	dead, err := procstat.Read(pid)
	if err != nil || !dead.Zombie() || unix.WaitStatus(dead.ExitCode).ExitStatus() != 3 || dead.StartTime != live.StartTime || dead.VSize != 0 {
		t.Errorf("as a zombie: %+v, %v", dead, err)
	}
	if !procstat.Ended(pid) {
		t.Error("a zombie has not ended")
	}

	if err := cmd.Wait(); err == nil {
		t.Error("it ended well")
	}
	if _, err := procstat.Read(pid); !errors.Is(err, fs.ErrNotExist) || !errors.Is(err, unix.ESRCH) {
		t.Errorf("when it is gone: %v", err)
	}
	if !procstat.Ended(pid) {
		t.Error("what is gone has not ended")
	}
}

func TestKernelThread(t *testing.T) {
	// The thread that starts the others, where this is the first namespace of processes.
	if s, err := procstat.Read(2); err == nil && s.Comm == "kthreadd" && !s.Kernel() {
		t.Errorf("kthreadd is not of the kernel: %+v", s)
	}
}
