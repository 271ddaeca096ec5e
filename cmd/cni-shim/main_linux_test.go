package main_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/internal/shimwire"
)

type config struct {
	Wait string `json:"wait"`
	Echo string `json:"echo"`
}

// builds are the two ways to link the shim: main does everything, or whatever goes well is
// done before the Go runtime starts.
var builds = map[string]string{"main": "", "entry": "-E main.entry"}

// built is where TestMain has put them.
var built string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "cni-shim")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	built = dir
	for name, flags := range builds {
		cmd := exec.Command("go", "build", "-ldflags="+flags, "-o", filepath.Join(dir, name), ".")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "building the shim: %v\n%s", err, out)
			return 1
		}
	}
	return m.Run()
}

// each runs the test with each build.
func each(t *testing.T, test func(*testing.T, *daemon)) {
	for name := range builds {
		t.Run(name, func(t *testing.T) { test(t, start(t, name)) })
	}
}

// daemon is a server in this process, and the shim that leads to it.
type daemon struct {
	shim   string
	server *cni.Server
	stop   func()
	undone chan struct{}
}

// shim returns the shim of a build, in a directory of its own.
func shim(t *testing.T, build string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "hello")
	if err := os.Link(filepath.Join(built, build), file); err != nil {
		t.Fatal(err)
	}
	return file
}

func start(t *testing.T, build string) *daemon {
	t.Helper()
	d := &daemon{shim: shim(t, build), undone: make(chan struct{}, 1)}
	p := cni.New("hello", cni.Handlers[config]{
		Add: func(ctx context.Context, r *cni.Request, c *config) (*cni.Result, error) {
			r.Log.Info("working", "container", r.ContainerID, "arg", r.Args["X"])
			r.Undo("it", func(context.Context) error { d.undone <- struct{}{}; return nil })
			if c.Wait != "" {
				_ = os.WriteFile(c.Wait, nil, 0o600)
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return &cni.Result{DNS: types.DNS{Domain: r.ContainerID + "." + r.IfName + c.Echo}}, nil
		},
		Del: func(context.Context, *cni.Request, *config) error { return errors.New("no way") },
	})
	p.IPAM = true // which needs no namespace
	d.server = &cni.Server{Plugins: []*cni.Plugin{p}, Dir: t.TempDir(), Logger: slog.New(slog.DiscardHandler)}
	d.serve(t)
	if err := os.Symlink(filepath.Join(d.server.Dir, "hello.sock"), d.shim+".sock"); err != nil {
		t.Fatal(err)
	}
	return d
}

func (d *daemon) serve(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	s := *d.server
	go func() { ended <- s.Serve(ctx) }()
	d.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("serving: %v", err)
		}
	})
	t.Cleanup(d.stop)
}

func (d *daemon) command(ctx context.Context, command, stdin string) (*exec.Cmd, *bytes.Buffer, *bytes.Buffer) {
	cmd := exec.CommandContext(ctx, d.shim)
	cmd.Env = []string{"CNI_COMMAND=" + command, "CNI_CONTAINERID=c1", "CNI_IFNAME=eth0", "CNI_NETNS=/none", "CNI_ARGS=X=y"}
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	return cmd, &stdout, &stderr
}

// TestLong: a configuration and a result that are longer than the shim's own buffer, and as
// long as it is.
func TestLong(t *testing.T) { each(t, testLong) }

func testLong(t *testing.T, d *daemon) {
	const megabyte = 1 << 20
	for _, length := range []int{megabyte / 4, megabyte/2 - 200, megabyte/2 - 100, megabyte / 2, megabyte - 300, megabyte - 200, megabyte, 3 * megabyte} {
		echo := strings.Repeat("x", length)
		cmd, stdout, _ := d.command(t.Context(), "ADD", `{"cniVersion":"1.0.0","name":"n","type":"hello","echo":"`+echo+`"}`)
		if err := cmd.Run(); err != nil || !strings.Contains(stdout.String(), `"domain":"c1.eth0`+echo+`"`) {
			t.Errorf("%d bytes: %v, %d bytes came back, %.300s", length, err, stdout.Len(), stdout)
		}
	}
}

const request = `{"cniVersion":"1.0.0","name":"n","type":"hello"}`

func TestCall(t *testing.T) { each(t, testCall) }

func testCall(t *testing.T, d *daemon) {
	cmd, stdout, stderr := d.command(t.Context(), "ADD", request)
	if err := cmd.Run(); err != nil || !strings.Contains(stdout.String(), `"domain":"c1.eth0"`) || !strings.Contains(stdout.String(), `"cniVersion":"1.0.0"`) {
		t.Errorf("ADD: %v, %s", err, stdout)
	}
	if !strings.Contains(stderr.String(), "container=c1") || !strings.Contains(stderr.String(), "arg=y") {
		t.Errorf("the handler's log did not reach stderr: %q", stderr)
	}
	cmd, stdout, _ = d.command(t.Context(), "DEL", request)
	var exit *exec.ExitError
	if err := cmd.Run(); !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(stdout.String(), "no way") {
		t.Errorf("DEL that fails: %v, %s", err, stdout)
	}
	cmd, stdout, _ = d.command(t.Context(), "VERSION", `{"cniVersion":"0.4.0"}`)
	if err := cmd.Run(); err != nil || !strings.Contains(stdout.String(), `"cniVersion":"0.4.0"`) {
		t.Errorf("VERSION: %v, %s", err, stdout)
	}
}

// TestWithoutDaemon: what the runtime is told, and that a daemon that comes up
// again in time is waited for.
func TestWithoutDaemon(t *testing.T) { each(t, testWithoutDaemon) }

func testWithoutDaemon(t *testing.T, d *daemon) {
	d.stop()
	var all sync.WaitGroup
	for command, code := range map[string]uint{"ADD": cni.CodeTryAgain, "STATUS": cni.CodeUnavailable} {
		all.Go(func() {
			cmd, stdout, _ := d.command(t.Context(), command, request)
			err := cmd.Run()
			var e cni.Error
			if jerr := json.Unmarshal(stdout.Bytes(), &e); err == nil || jerr != nil || e.Code != code || e.CNIVersion != "1.0.0" || !strings.Contains(e.Msg, d.shim+".sock") {
				t.Errorf("%s without a daemon: %v, %s", command, err, stdout)
			}
		})
	}
	all.Wait()
	cmd, stdout, _ := d.command(t.Context(), "ADD", request)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	d.serve(t)
	if err := cmd.Wait(); err != nil {
		t.Errorf("ADD while the daemon comes up: %v, %s", err, stdout)
	}
}

// TestClosedDescriptors: a runtime that closes stdin, stdout or stderr instead of redirecting
// them gets the rest.
func TestClosedDescriptors(t *testing.T) { each(t, testClosedDescriptors) }

func testClosedDescriptors(t *testing.T, d *daemon) {
	for closed, want := range map[string]string{"0<&-": "code", "1>&-": "", "2>&-": "c1.eth0", "0<&- 2>&-": "code", "0<&- 1>&- 2>&-": ""} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		cmd, stdout, _ := d.command(ctx, "ADD", request)
		cmd.Path, cmd.Args = "/bin/sh", []string{"sh", "-c", `exec "$0" ` + closed, d.shim}
		if err := cmd.Run(); ctx.Err() != nil || !strings.Contains(stdout.String(), want) || (want == "") != (stdout.Len() == 0) {
			t.Errorf("%s: %v, %s", closed, err, stdout)
		}
	}
}

// TestNobodyReads: a runtime that has closed its end of stderr gets the result, and one that
// has closed that of stdout the exit status.
func TestNobodyReads(t *testing.T) { each(t, testNobodyReads) }

func testNobodyReads(t *testing.T, d *daemon) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	cmd, stdout, _ := d.command(t.Context(), "ADD", request)
	cmd.Stderr = w
	if err := cmd.Run(); err != nil || !strings.Contains(stdout.String(), "c1.eth0") {
		t.Errorf("nobody reads stderr: %v, %q", err, stdout)
	}
	cmd, _, stderr := d.command(t.Context(), "ADD", request)
	cmd.Stdout = w
	if err := cmd.Run(); err != nil || !strings.Contains(stderr.String(), "container=c1") {
		t.Errorf("nobody reads stdout: %v, %q", err, stderr)
	}
}

// TestRestartDuringStdin: a daemon that is restarted before the shim has all of its stdin
// does not fail the call.
func TestRestartDuringStdin(t *testing.T) { each(t, testRestartDuringStdin) }

func testRestartDuringStdin(t *testing.T, d *daemon) {
	cmd, stdout, _ := d.command(t.Context(), "VERSION", "")
	if err := cmd.Run(); err != nil { // and by now the daemon is up
		t.Fatalf("%v: %s", err, stdout)
	}
	cmd, stdout, _ = d.command(t.Context(), "ADD", "")
	cmd.Stdin = nil
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(stdin, request[:1]); err != nil {
		t.Fatal(err)
	}
	time.Sleep(100 * time.Millisecond) // a shim that connects now would have
	d.stop()
	d.serve(t)
	_, err = io.WriteString(stdin, request[1:])
	if err := errors.Join(err, stdin.Close(), cmd.Wait()); err != nil {
		t.Errorf("%v, %s", err, stdout)
	}
}

// TestKilledShim: the runtime gives up, and the ADD is undone.
func TestKilledShim(t *testing.T) { each(t, testKilledShim) }

func testKilledShim(t *testing.T, d *daemon) {
	waiting := filepath.Join(t.TempDir(), "waiting")
	cmd, _, _ := d.command(t.Context(), "ADD", `{"cniVersion":"1.0.0","name":"n","wait":"`+waiting+`"}`)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(waiting); err == nil {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	<-d.undone
}

// TestSilentConnection: who connects and says nothing does not hold up the end.
func TestSilentConnection(t *testing.T) { each(t, testSilentConnection) }

func testSilentConnection(t *testing.T, d *daemon) {
	for {
		conn, err := net.Dial("unix", filepath.Join(d.server.Dir, "hello.sock"))
		if err == nil {
			defer conn.Close()
			break
		}
		time.Sleep(time.Millisecond) // it is on its way up
	}
	cmd, stdout, _ := d.command(t.Context(), "VERSION", "")
	if err := cmd.Run(); err != nil { // and by now has taken the silent one
		t.Fatalf("%v: %s", err, stdout)
	}
	d.stop()
}

func TestParallel(t *testing.T) { each(t, testParallel) }

func testParallel(t *testing.T, d *daemon) {
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			cmd, stdout, _ := d.command(t.Context(), "ADD", request)
			if err := cmd.Run(); err != nil {
				t.Errorf("%v: %s", err, stdout)
			}
		})
	}
	all.Wait()
}

// TestThreads: a call that goes well does not start the Go runtime, if the shim is linked for
// that.
func TestThreads(t *testing.T) {
	for build := range builds {
		t.Run(build, func(t *testing.T) {
			file := shim(t, build)
			calls := listen(t, file+".sock")
			cmd := exec.CommandContext(t.Context(), file)
			cmd.Env = []string{"CNI_COMMAND=VERSION", "A=1", "B="}
			cmd.Stdin = strings.NewReader("{}")
			stdout, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			call := <-calls
			want := shimwire.Request{Plugin: "hello", Env: cmd.Env, Stdin: []byte("{}")}
			if !cmp.Equal(call.request, want) {
				t.Errorf("the request was %+v", call.request)
			}
			state, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
			if single := strings.Contains(string(state), "\nThreads:\t1\n"); err != nil || single != (build == "entry") {
				t.Errorf("%v, %s", err, state)
			}
			answer := (&shimwire.Answer{OK: true, Stdout: []byte("yes")}).Append(nil)
			for i := range answer { // a byte at a time
				if _, err := call.conn.Write(answer[i : i+1]); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Millisecond)
			}
			got, rerr := io.ReadAll(stdout)
			if err := cmd.Wait(); err != nil || rerr != nil || string(got) != "yes" {
				t.Errorf("%q, %v, %v", got, rerr, err)
			}
		})
	}
}

// TestBrokenAnswers: the runtime is told to try again, whatever comes instead of an answer.
func TestBrokenAnswers(t *testing.T) {
	whole := string((&shimwire.Answer{OK: true, Stdout: []byte("yes"), Stderr: []byte("log")}).Append(nil))
	answers := map[string]string{
		"nothing":              "",
		"part of the length":   whole[:3],
		"part of the message":  whole[:len(whole)-1],
		"another verdict":      strings.Replace(whole, "ok", "no", 1),
		"too long a length":    "\xff" + whole[1:],
		"a part that is long":  whole[:10] + "\x7f" + whole[11:],
		"a part that is short": whole[:len(whole)-7] + "\x00\x00\x00\x02log",
		"an empty message":     "\x00\x00\x00\x00",
		"half a part":          "\x00\x00\x00\x02\x00\x00",
	}
	for build := range builds {
		file := shim(t, build)
		calls := listen(t, file+".sock")
		for name, answer := range answers {
			go func() {
				call := <-calls
				_, _ = io.WriteString(call.conn, answer)
				_ = call.conn.Close()
			}()
			cmd := exec.CommandContext(t.Context(), file)
			cmd.Env = []string{"CNI_COMMAND=ADD"}
			cmd.Stdin = strings.NewReader(request)
			out, err := cmd.Output()
			var e cni.Error
			if jerr := json.Unmarshal(out, &e); err == nil || jerr != nil || e.Code != cni.CodeTryAgain || e.CNIVersion != "1.0.0" || !strings.Contains(e.Msg, "went away") {
				t.Errorf("%s, %s: %v, %s", build, name, err, out)
			}
		}
	}
}

// call is one that waits for its answer.
type call struct {
	conn    net.Conn
	request shimwire.Request
}

// listen is a daemon whose answers the test gives.
func listen(t *testing.T, path string) <-chan call {
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	calls := make(chan call)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return // the test is over
			}
			in := bufio.NewReader(conn)
			var prefix [shimwire.LengthSize]byte
			_, err = io.ReadFull(in, prefix[:])
			message := make([]byte, max(0, shimwire.Length(prefix)))
			_, merr := io.ReadFull(in, message)
			r, ok := shimwire.ParseRequest(message)
			if err != nil || merr != nil || !ok {
				t.Errorf("a request: %v, %v, %q", err, merr, message)
			}
			calls <- call{conn, r}
		}
	}()
	return calls
}
