package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nodekit-project/nodekit/internal/testenv"
)

// start runs podtool in a process of its own, as process 1 of a PID namespace
// when asked, and waits for its first line.
func start(t *testing.T, asInit bool, args ...string) (cmd *exec.Cmd, first string) {
	t.Helper()
	cmd = exec.Command("/proc/self/exe", args...)
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
	if first, err = bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatalf("waiting for the first line: %v", err)
	}
	return cmd, strings.TrimSpace(first)
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
				cmd, _ := start(t, asInit, c.args...)
				if err := cmd.Process.Signal(c.send); err != nil {
					t.Fatal(err)
				}
				wantExit(t, cmd, c.code)
			}
		})
	}
}

// TestIgnoreTerm looks from inside, where it shows from when on the command ignores.
func TestIgnoreTerm(t *testing.T) {
	sig, stop := watchSignals(t.Context())
	defer stop()
	seen := make(chan os.Signal, 1)
	signal.Notify(seen, syscall.SIGTERM)
	defer signal.Stop(seen)
	tool := &tool{stdout: io.Discard, stderr: io.Discard, signals: sig}
	ended := make(chan int, 1)
	go func() { ended <- tool.code(tool.execute(sig.ctx, []string{"do", "ignore-term", "exit 5"})) }()
	for !sig.ignoreTerm.Load() {
		time.Sleep(time.Millisecond)
	}
	if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-seen // so that the other one comes behind it
	if err := syscall.Kill(os.Getpid(), syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if code := <-ended; code != 130 {
		t.Errorf("after SIGTERM and SIGINT it ended with %d, want 130", code)
	}
}

// TestReapsOrphans makes podtool process 1 of a namespace in which a process
// that it did not start has lost its parent, and then ends.
func TestReapsOrphans(t *testing.T) {
	testenv.Require(t, testenv.Root)
	cmd := exec.Command("/bin/sh", "-c", `exec 3<&0; (cat <&3 &); exec "$0" do "echo up" "sleep forever"`, "")
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Args[len(cmd.Args)-1] = exe
	cmd.Env = append(os.Environ(), "PODTOOL_TEST_RUN=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
	living, err := cmd.StdinPipe() // as long as it is open the orphan lives
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cmd.Process.Kill()
		cmd.Wait()
	}()
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatalf("waiting for the first line: %v", err)
	}
	children := func() string {
		list, err := os.ReadFile(fmt.Sprintf("/proc/%[1]d/task/%[1]d/children", cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		return string(list)
	}
	if children() == "" {
		t.Fatal("there is no orphan")
	}
	if err := living.Close(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(5 * time.Second); children() != ""; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("orphan %swas not reaped", children())
		}
	}
}

func TestTrapOfAnotherSignal(t *testing.T) {
	cmd, _ := start(t, true, "trap", "--signal", "USR1", "3")
	if err := cmd.Process.Signal(syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	wantExit(t, cmd, 3)
}

func TestCountReadsToTheEnd(t *testing.T) {
	_, line := start(t, false, "count", "0") // any port: other tests use some, too
	_, port, err := net.SplitHostPort(strings.TrimPrefix(line, "counting on "))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", port))
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
