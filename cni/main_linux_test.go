package cni_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/internal/netns"
	"github.com/nodekit-project/nodekit/internal/netnstest"
	"github.com/nodekit-project/nodekit/internal/procstat"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// The plugins of these tests are this binary under other names.
func TestMain(m *testing.M) {
	name, isPlugin := strings.CutPrefix(filepath.Base(os.Args[0]), "test-plugin-")
	if !isPlugin {
		os.Exit(m.Run())
	}
	p := cni.New(name, cni.Handlers[execConfig]{Add: executed[name], Del: func(_ context.Context, _ *cni.Request, c *execConfig) error {
		return os.WriteFile(filepath.Join(c.Dir, "deleted"), nil, 0o600)
	}})
	p.IPAM = true // which needs no namespace
	cni.Main(p)
}

type execConfig struct {
	Dir  string   `json:"dir"`
	IPAM cni.IPAM `json:"ipam"`
}

func (c *execConfig) touch(name string) error {
	return os.WriteFile(filepath.Join(c.Dir, name), fmt.Append(nil, os.Getpid()), 0o600)
}

// executed are the ADDs of the plugins by name.
var executed = map[string]func(context.Context, *cni.Request, *execConfig) (*cni.Result, error){
	"polite": func(ctx context.Context, r *cni.Request, c *execConfig) (*cni.Result, error) {
		r.Undo("it", func(context.Context) error { return c.touch("undone") })
		if err := c.touch("working"); err != nil {
			return nil, err
		}
		<-ctx.Done()
		return nil, ctx.Err()
	},
	"stubborn": func(_ context.Context, r *cni.Request, c *execConfig) (*cni.Result, error) {
		r.Undo("it", func(context.Context) error { return c.touch("undone") })
		if err := c.touch("working"); err != nil {
			return nil, err
		}
		select {}
	},
	"deaf": func(_ context.Context, _ *cni.Request, c *execConfig) (*cni.Result, error) {
		signal.Ignore(syscall.SIGTERM)
		if err := c.touch("working"); err != nil {
			return nil, err
		}
		select {}
	},
	"late": func(ctx context.Context, r *cni.Request, c *execConfig) (*cni.Result, error) {
		r.Undo("it", func(context.Context) error { return c.touch("undone") })
		if err := c.touch("working"); err != nil {
			return nil, err
		}
		<-ctx.Done()
		return &cni.Result{}, nil
	},
	"delegating": func(ctx context.Context, r *cni.Request, c *execConfig) (*cni.Result, error) {
		return r.Delegate(c.IPAM.Type).Add(ctx)
	},
	"talking": func(context.Context, *cni.Request, *execConfig) (*cni.Result, error) {
		fmt.Println("a line that an author left")
		fmt.Fprintln(os.Stderr, "another one")
		return &cni.Result{}, nil
	},
	"hanging": func(_ context.Context, r *cni.Request, _ *execConfig) (*cni.Result, error) {
		r.Undo("it", func(context.Context) error { select {} })
		return nil, cni.Errorf(cni.CodeConfig, "a mistake")
	},
	"leaving": func(_ context.Context, r *cni.Request, c *execConfig) (*cni.Result, error) {
		r.Undo("it", func(context.Context) error { return c.touch("undone") })
		return nil, netns.Do("/proc/self/ns/net", func() error {
			runtime.Goexit()
			return nil
		})
	},
	"panicking": func(_ context.Context, r *cni.Request, c *execConfig) (*cni.Result, error) {
		r.Undo("it", func(context.Context) error { return c.touch("undone") })
		panic("an author's mistake")
	},
}

// execution is one run of a plugin.
type execution struct {
	*exec.Cmd
	dir            string
	stdout, stderr bytes.Buffer
}

func run(t *testing.T, name, extra string) *execution {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	e := &execution{dir: t.TempDir()}
	bin := filepath.Join(e.dir, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	for plugin := range executed {
		if err := os.Symlink(self, filepath.Join(bin, "test-plugin-"+plugin)); err != nil {
			t.Fatal(err)
		}
	}
	e.Cmd = exec.CommandContext(t.Context(), filepath.Join(bin, "test-plugin-"+name))
	e.Env = []string{"CNI_COMMAND=ADD", "CNI_CONTAINERID=c", "CNI_IFNAME=eth0", "CNI_NETNS=/none", "CNI_PATH=" + bin}
	e.Stdin = strings.NewReader(request(fmt.Sprintf(`,"dir":%q%s`, e.dir, extra)))
	e.Stdout, e.Stderr = &e.stdout, &e.stderr
	return e
}

func (e *execution) has(name string) bool {
	_, err := os.Stat(filepath.Join(e.dir, name))
	return err == nil
}

func (e *execution) await(t *testing.T, name string) {
	t.Helper()
	for !e.has(name) {
		if t.Context().Err() != nil {
			t.Fatalf("%s never came", name)
		}
		time.Sleep(time.Millisecond)
	}
}

// failed returns the error object of a run that must have failed.
func (e *execution) failed(t *testing.T, err error) cni.Error {
	t.Helper()
	var exit *exec.ExitError
	var object cni.Error
	if jerr := json.Unmarshal(e.stdout.Bytes(), &object); !errors.As(err, &exit) || exit.ExitCode() != 1 || jerr != nil {
		t.Fatalf("%v, stdout %q, stderr %q", err, &e.stdout, &e.stderr)
	}
	return object
}

// TestTerminated: SIGTERM leads to a rollback, also of a handler that does not
// listen, of one that succeeds all the same, and of a delegate.
func TestTerminated(t *testing.T) {
	for name, extra := range map[string]string{
		"polite": "", "stubborn": "", "late": "", "delegating": `,"ipam":{"type":"test-plugin-polite"}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := run(t, name, extra)
			if err := e.Start(); err != nil {
				t.Fatal(err)
			}
			e.await(t, "working")
			if err := e.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			object := e.failed(t, e.Wait())
			if object.Code != cni.CodeTryAgain || !e.has("undone") {
				t.Errorf("%+v, undone %v", object, e.has("undone"))
			}
			if name == "delegating" && !e.has("deleted") {
				t.Error("the delegate got no DEL")
			}
		})
	}
}

// TestLeaving: a handler that ends its goroutine in the middle is one that failed.
func TestLeaving(t *testing.T) {
	testenv.Require(t, testenv.Root)
	e := run(t, "leaving", "")
	object := e.failed(t, e.Run())
	if object.Code != cni.CodePanic || !e.has("undone") {
		t.Errorf("%+v, undone %v", object, e.has("undone"))
	}
}

// TestHangingUndo: a rollback that does not end is left behind, and the runtime gets the
// error of the ADD in time.
func TestHangingUndo(t *testing.T) {
	t.Parallel()
	e := run(t, "hanging", "")
	begun := time.Now()
	late := time.AfterFunc(2*cni.Grace, func() { _ = e.Process.Kill() })
	defer late.Stop()
	object := e.failed(t, e.Run())
	if took := time.Since(begun); object.Code != cni.CodeConfig || !strings.HasPrefix(object.Msg, "a mistake\n") || took > cni.Grace {
		t.Errorf("after %v: %+v", took, object)
	}
}

// TestTerminatedWhileReading: a runtime that never closes stdin can still end the
// plugin.
func TestTerminatedWhileReading(t *testing.T) {
	t.Parallel()
	e := run(t, "polite", "")
	e.Stdin = nil
	stdin, err := e.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Start(); err != nil {
		t.Fatal(err)
	}
	// More than a pipe holds: some of it has been read.
	if _, err := stdin.Write(bytes.Repeat([]byte(" "), 1<<20)); err != nil {
		t.Fatal(err)
	}
	if err := e.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	late := time.AfterFunc(20*time.Second, func() { _ = e.Process.Kill() })
	defer late.Stop()
	var exit *exec.ExitError
	if err := e.Wait(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGTERM {
		t.Errorf("it ended with %v", err)
	}
}

// TestTerminatedWithDeafDelegate: the delegate is killed, and the plugin still has
// the time for its rollback.
func TestTerminatedWithDeafDelegate(t *testing.T) {
	t.Parallel()
	e := run(t, "delegating", `,"ipam":{"type":"test-plugin-deaf"}`)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() {
		stdin, err := io.ReadAll(e.Stdin)
		if err == nil {
			_, err = cni.Exec(ctx, e.Path, environment(e.Env), stdin, nil)
		}
		ended <- err
	}()
	e.await(t, "working")
	cancel()
	if err := <-ended; cni.CodeOf(err) != cni.CodeTryAgain || !e.has("deleted") {
		t.Errorf("%v, DEL of the delegate: %v", err, e.has("deleted"))
	}
}

func environment(list []string) map[string]string {
	env := map[string]string{}
	for _, kv := range list {
		key, value, _ := strings.Cut(kv, "=")
		env[key] = value
	}
	return env
}

func TestExecuted(t *testing.T) {
	e := run(t, "talking", "")
	if err := e.Run(); err != nil || !json.Valid(e.stdout.Bytes()) || !strings.Contains(e.stderr.String(), "that an author left") {
		t.Errorf("a plugin that prints: %v, %q, %q", err, &e.stdout, &e.stderr)
	}
	e = run(t, "panicking", "")
	if object := e.failed(t, e.Run()); object.Code != cni.CodePanic || !strings.Contains(object.Msg, "panicked at main_linux_test.go:") || !e.has("undone") || !strings.Contains(e.stderr.String(), "main_linux_test.go") {
		t.Errorf("a plugin that panics: %+v, undone %v, stderr %q", object, e.has("undone"), &e.stderr)
	}
	e = run(t, "delegating", `,"ipam":{"type":"test-plugin-talking"}`)
	if err := e.Run(); err != nil || !strings.Contains(e.stderr.String(), "another one") {
		t.Errorf("the delegate's stderr is lost: %v, %q", err, &e.stderr)
	}
	e = run(t, "delegating", `,"ipam":{"type":"test-plugin-panicking"}`)
	if object := e.failed(t, e.Run()); object.Code != cni.CodePanic || !strings.HasPrefix(object.Msg, `delegate "test-plugin-panicking", ADD: `) {
		t.Errorf("the delegate's error: %+v, want its code, and its name", object)
	}
	e = run(t, "polite", "")
	e.Env = append(e.Env, "CNI_COMMAND=(repair)")
	if object := e.failed(t, e.Run()); object.Code != cni.CodeEnvironment {
		t.Errorf("Repair is on the wire: %+v", object)
	}
}

// TestDiesWithItsCaller: a delegate does not outlive a plugin that was killed.
func TestDiesWithItsCaller(t *testing.T) {
	e := run(t, "delegating", `,"ipam":{"type":"test-plugin-stubborn"}`)
	if err := e.Start(); err != nil {
		t.Fatal(err)
	}
	e.await(t, "working")
	var pid int
	for pid == 0 { // the file is there before its content
		content, err := os.ReadFile(filepath.Join(e.dir, "working"))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = fmt.Sscan(string(content), &pid)
	}
	if err := e.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = e.Wait() // it was killed
	for !procstat.Ended(pid) {
		time.Sleep(time.Millisecond)
	}
}

// inNamespace is a plugin that works in the container.
func inNamespace(t *testing.T, dir string, called *int) *cni.Plugin {
	work := func(_ context.Context, r *cni.Request, _ *execConfig) error {
		*called++
		if r.NetNS == "" {
			return r.InNetNS(func() error { *called += 10; return nil })
		}
		want, err := netns.Open(r.NetNS)
		if err != nil {
			return err
		}
		defer want.Close()
		return r.InNetNS(func() error {
			*called += 10
			own, err := netns.Current()
			if err != nil {
				return err
			}
			defer own.Close()
			a, aerr := own.ID()
			b, berr := want.ID()
			if a != b || r.NetNSFD() < 0 {
				t.Errorf("%s runs in %v, descriptor %d, want %v", r.Command, a, r.NetNSFD(), b)
			}
			return errors.Join(aerr, berr)
		})
	}
	return cni.New("p", cni.Handlers[execConfig]{
		State: func(*execConfig) string { return dir },
		Add: func(ctx context.Context, r *cni.Request, c *execConfig) (*cni.Result, error) {
			return &cni.Result{}, work(ctx, r, c)
		},
		Check: work, Del: work,
	})
}

func TestNetworkNamespace(t *testing.T) {
	testenv.Require(t, testenv.Root)
	paths := []string{netnstest.New(t), netnstest.New(t)}
	called := 0
	p := inNamespace(t, t.TempDir(), &called)
	call := func(command, ns, ifName string) error {
		e := env(command)
		e["CNI_NETNS"], e["CNI_IFNAME"] = ns, ifName
		called = 0
		_, err := cni.Invoke(t.Context(), p, e, []byte(request(`,"prevResult":{"cniVersion":"1.1.0"}`)))
		return err
	}
	for _, ns := range []string{"/proc/self/ns/net", "/proc/self/ns/uts", "/nowhere", os.Args[0]} {
		if err := call("ADD", ns, "eth0"); cni.CodeOf(err) != cni.CodeEnvironment || !strings.Contains(err.Error(), "CNI_NETNS") || called != 0 {
			t.Errorf("ADD with CNI_NETNS %s: %v, called %d", ns, err, called)
		}
	}
	if err := call("ADD", paths[0], "lo"); cni.CodeOf(err) != cni.CodeExists || called != 0 {
		t.Errorf("ADD of an interface that exists: %v, called %d", err, called)
	}
	for _, command := range []string{"ADD", "CHECK"} {
		if err := call(command, paths[0], "eth0"); err != nil || called != 11 {
			t.Errorf("%s: %v, called %d", command, err, called)
		}
	}
	// The path leads to another container by now, and then to the plugin's own.
	for _, ns := range []string{paths[1], "/proc/self/ns/net"} {
		if err := call("DEL", ns, "eth0"); err != nil || called != 1 {
			t.Errorf("DEL with the namespace %s: %v, called %d", ns, err, called)
		}
		if err := call("ADD", paths[0], "eth0"); err != nil {
			t.Fatal(err)
		}
	}
	if err := call("DEL", paths[0], "eth0"); err != nil || called != 11 {
		t.Errorf("DEL: %v, called %d", err, called)
	}
}
