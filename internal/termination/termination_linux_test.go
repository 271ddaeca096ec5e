package termination

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestMain lets the test binary be the process that is asked to end.
func TestMain(m *testing.M) {
	switch os.Getenv("TERMINATION_TEST") {
	case "":
		os.Exit(m.Run())
	case "signals":
		end(Context())
	case "busy":
		ctx := Context()
		for range 8 {
			go work(ctx)
		}
		end(ctx)
	case "os/signal":
		wait := notify()
		fmt.Println("ready")
		fmt.Println(wait())
	case "child":
		ctx := Context()
		child := exec.Command("sleep", "60")
		if err := child.Start(); err != nil {
			panic(err)
		}
		fmt.Println("ready")
		if err := child.Process.Signal(syscall.SIGTERM); err != nil {
			panic(err)
		}
		fmt.Println(child.Wait(), ctx.Err())
	}
}

func end(ctx context.Context) {
	fmt.Println("ready")
	<-ctx.Done()
	fmt.Println(context.Cause(ctx))
}

// work keeps threads in all that they can be in when a signal comes: in Go's code, in
// the garbage collector's, in system calls, and about to end.
func work(ctx context.Context) {
	for ctx.Err() == nil {
		done := make(chan bool)
		go func() {
			runtime.LockOSThread() // the thread ends with the goroutine
			_ = make([]byte, 1<<20)
			syscall.Getppid()
			_, _ = os.ReadFile("/proc/self/stat")
			close(done)
		}()
		<-done
		runtime.GC()
	}
}

// process starts the test binary, and returns what it prints behind its first line.
func process(t *testing.T, what string, command ...string) (p *os.Process, printed func() string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	command = append(command, self)
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env = append(os.Environ(), "TERMINATION_TEST="+what)
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() }) // it may have ended
	lines := bufio.NewScanner(stdout)
	if !lines.Scan() || lines.Text() != "ready" {
		t.Fatalf("the process begins with %q, %v", lines.Text(), lines.Err())
	}
	return cmd.Process, func() string {
		var all []string
		for lines.Scan() {
			all = append(all, lines.Text())
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("the process: %v", err)
		}
		return strings.Join(all, "\n")
	}
}

func TestContext(t *testing.T) {
	for _, c := range []struct {
		name, what string
		sig        syscall.Signal
		want       string
		command    []string
	}{
		{"SIGTERM", "signals", syscall.SIGTERM, "terminated signal received", nil},
		{"SIGINT", "signals", syscall.SIGINT, "interrupt signal received", nil},
		{"ignored before", "signals", syscall.SIGTERM, "terminated signal received", []string{"/bin/sh", "-c", `trap "" TERM INT; exec "$0"`}},
		{"by os/signal", "os/signal", syscall.SIGINT, "interrupt", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, printed := process(t, c.what, c.command...)
			if err := p.Signal(c.sig); err != nil {
				t.Fatal(err)
			}
			if got := printed(); got != c.want {
				t.Errorf("it says %q, want %q", got, c.want)
			}
		})
	}
}

// TestManySignals: whatever the threads do when signals come, and however many do, the
// process goes on, and the first is named.
func TestManySignals(t *testing.T) {
	for range 10 {
		p, printed := process(t, "busy")
		for began := time.Now(); time.Since(began) < 50*time.Millisecond; {
			if p.Signal(syscall.SIGTERM) != nil {
				break // it has ended
			}
		}
		if got := printed(); got != "terminated signal received" {
			t.Fatalf("it says %q", got)
		}
	}
}

// TestChildren: what the process executes ends by the signal.
func TestChildren(t *testing.T) {
	_, printed := process(t, "child")
	if got := printed(); got != "signal: terminated <nil>" {
		t.Errorf("it says %q", got)
	}
}
