package main_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
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

	"github.com/nodekit-project/nodekit/cni"
)

type config struct {
	Wait string `json:"wait"`
}

// daemon is a server in this process, and the shim that leads to it.
type daemon struct {
	shim   string
	server *cni.Server
	stop   func()
	undone chan struct{}
}

func build(t *testing.T) (shim string) {
	t.Helper()
	shim = filepath.Join(t.TempDir(), "hello")
	cmd := exec.Command("go", "build", "-o", shim, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building the shim: %v\n%s", err, out)
	}
	return shim
}

func start(t *testing.T) *daemon {
	t.Helper()
	d := &daemon{shim: build(t), undone: make(chan struct{}, 1)}
	p := cni.New("hello", cni.Handlers[config]{
		Add: func(ctx context.Context, r *cni.Request, c *config) (*cni.Result, error) {
			r.Log.Info("working", "container", r.ContainerID, "arg", r.Args["X"])
			r.Undo("it", func(context.Context) error { d.undone <- struct{}{}; return nil })
			if c.Wait != "" {
				_ = os.WriteFile(c.Wait, nil, 0o600)
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return &cni.Result{DNS: types.DNS{Domain: r.ContainerID + "." + r.IfName}}, nil
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

const request = `{"cniVersion":"1.0.0","name":"n","type":"hello"}`

func TestCall(t *testing.T) {
	d := start(t)
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
func TestWithoutDaemon(t *testing.T) {
	d := start(t)
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

// TestKilledShim: the runtime gives up, and the ADD is undone.
func TestKilledShim(t *testing.T) {
	d := start(t)
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
func TestSilentConnection(t *testing.T) {
	d := start(t)
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

func TestParallel(t *testing.T) {
	d := start(t)
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
