package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/nodekit-project/nodekit/internal/testenv"
)

// start runs podtool in a process of its own, as process 1 of a PID namespace
// when asked, and waits for its first line.
func start(t *testing.T, asInit bool, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), "PODTOOL_TEST_RUN=1")
	cmd.Stderr = os.Stderr
	if asInit {
		testenv.Require(t, testenv.Root)
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
	}
	if _, err := cmd.StdinPipe(); err != nil { // stays open
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			cmd.Process.Kill()
			cmd.Wait()
		}
	})
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatalf("waiting for the first line: %v", err)
	}
	return cmd
}

func wantExit(t *testing.T, cmd *exec.Cmd, code int) {
	t.Helper()
	ended := make(chan struct{})
	go func() {
		cmd.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		cmd.Process.Kill()
		<-ended
		t.Errorf("%v did not end", cmd.Args)
		return
	}
	if got := cmd.ProcessState.ExitCode(); got != code {
		t.Errorf("%v ended with %v, want exit code %d", cmd.Args, cmd.ProcessState, code)
	}
}

func TestSignals(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
		send syscall.Signal
		code int
	}{
		{"sleep", []string{"do", "echo up", "sleep forever", "echo unreached"}, syscall.SIGTERM, 143},
		{"interrupt", []string{"do", "echo up", "sleep forever"}, syscall.SIGINT, 130},
		{"serve", []string{"do", "serve --port 0", "exit 9"}, syscall.SIGTERM, 0},
		{"trap", []string{"do", "echo up", "trap --delay 10ms 7"}, syscall.SIGTERM, 7},
		{"eat", []string{"eat", "1Mi"}, syscall.SIGTERM, 143},
		{"copy-stdin", []string{"do", "echo up", "copy-stdin"}, syscall.SIGTERM, 143},
		{"lines", []string{"lines", "--interval", "1ms", "0"}, syscall.SIGTERM, 143},
		{"get", []string{"do", "echo up", "get --retry 1m http://127.0.0.1:1/"}, syscall.SIGTERM, 143},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, asInit := range []bool{false, true} {
				cmd := start(t, asInit, c.args...)
				if err := cmd.Process.Signal(c.send); err != nil {
					t.Fatal(err)
				}
				wantExit(t, cmd, c.code)
			}
		})
	}
}

func TestIgnoreTerm(t *testing.T) {
	cmd := start(t, false, "do", "echo up", "ignore-term 300ms", "exit 5")
	time.Sleep(50 * time.Millisecond) // it says "up" before it ignores
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	wantExit(t, cmd, 5)
}

// TestReapsOrphans makes podtool process 1 of a namespace in which a process
// that it did not start loses its parent and ends.
func TestReapsOrphans(t *testing.T) {
	testenv.Require(t, testenv.Root)
	cmd := exec.Command("/bin/sh", "-c", `(sleep 0.1 &); exec "$0" do "echo up" "sleep forever"`, "")
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Args[len(cmd.Args)-1] = exe
	cmd.Env = append(os.Environ(), "PODTOOL_TEST_RUN=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cmd.Process.Kill()
		cmd.Wait()
	}()
	children := fmt.Sprintf("/proc/%[1]d/task/%[1]d/children", cmd.Process.Pid)
	seen := false
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		left, err := os.ReadFile(children)
		if err != nil {
			t.Fatal(err)
		}
		if seen = seen || len(left) > 0; seen && len(left) == 0 {
			return
		}
	}
	t.Errorf("orphan seen: %v; want one that was reaped", seen)
}

func TestTrapOfAnotherSignal(t *testing.T) {
	cmd := start(t, true, "trap", "--signal", "USR1", "3")
	if err := cmd.Process.Signal(syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	wantExit(t, cmd, 3)
}

func TestCountReadsToTheEnd(t *testing.T) {
	const port = "38123"
	start(t, false, "count", port)
	conn, err := net.Dial("tcp", "127.0.0.1:"+port)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write(make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if answer, err := io.ReadAll(conn); err != nil || string(answer) != "1000 bytes, <nil>\n" {
		t.Errorf("got %q, %v", answer, err)
	}
}
