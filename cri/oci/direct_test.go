package oci_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri"
	"github.com/nodekit-project/nodekit/cri/oci"
	"github.com/nodekit-project/nodekit/internal/syncbuf"
)

func itoa(n int) string { return strconv.Itoa(n) }

func readlink(t testing.TB, path string) string {
	t.Helper()
	to, err := os.Readlink(path)
	if err != nil {
		t.Fatal(err)
	}
	return to
}

// direct calls the runtime's functions without a server, for tests that would need a
// streaming client.
type direct struct {
	*node
	oci     *oci.Runtime
	rt      *cri.Runtime // what oci serves
	sandbox *cri.Sandbox
}

func newDirect(t *testing.T) *direct {
	t.Helper()
	n := newNode(t)
	n.kill()
	rt, closeNetwork, err := openRuntime(t.Context(), n.dir, nil, nil)
	n.must(err)
	d := &direct{node: n, oci: rt, rt: rt.CRI()}
	d.sandbox = &cri.Sandbox{ID: "direct", Dir: n.dir + "/direct", Config: &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: "direct"}, Hostname: "direct",
	}}
	n.must(os.Mkdir(d.sandbox.Dir, 0o700))
	t.Cleanup(func() {
		if err := errors.Join(rt.Shutdown(context.Background()), closeNetwork()); err != nil {
			t.Error(err)
		}
	})
	n.must(d.rt.RunSandbox(t.Context(), d.sandbox))
	return d
}

func (d *direct) create(id string, config *runtimeapi.ContainerConfig) *cri.Container {
	d.t.Helper()
	config.Metadata, config.Image = &runtimeapi.ContainerMetadata{Name: id}, &runtimeapi.ImageSpec{Image: imageName}
	c := &cri.Container{ID: id, Sandbox: d.sandbox, Config: config, Dir: d.dir + "/" + id, ImageRef: imageName, LogPath: d.dir + "/logs/" + id}
	d.must(os.Mkdir(c.Dir, 0o700))
	d.must(d.rt.CreateContainer(d.t.Context(), c))
	return c
}

func (d *direct) start(id string, config *runtimeapi.ContainerConfig) *cri.Container {
	d.t.Helper()
	c := d.create(id, config)
	d.must(d.rt.StartContainer(d.t.Context(), c))
	c.StartedAt = time.Now()
	return c
}

// buffer is the output of a container.
type buffer struct{ syncbuf.Buffer }

func (b *buffer) waitFor(t *testing.T, want string) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !strings.Contains(b.String(), want); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("got %q, want %q in it", b.String(), want)
		}
	}
}

func TestExecStreams(t *testing.T) {
	d := newDirect(t)
	c := d.start("main", &runtimeapi.ContainerConfig{Args: []string{"sleep", "forever"}})
	var out buffer
	code, err := d.rt.Exec(t.Context(), c, []string{"/podtool", "copy-stdin"}, cri.Streams{Stdin: strings.NewReader("through\n"), Stdout: &out})
	if err != nil || code != 0 || out.String() != "through\n" {
		t.Errorf("exec with stdin: %d, %v, %q", code, err, out.String())
	}

	in, type_ := io.Pipe()
	sizes := make(chan cri.Size, 1)
	sizes <- cri.Size{Width: 81, Height: 24}
	var tty buffer
	done := make(chan error, 1)
	go func() {
		code, err := d.rt.Exec(t.Context(), c, []string{"/podtool", "copy-stdin"}, cri.Streams{Stdin: in, Stdout: &tty, TTY: true, Resize: sizes})
		if err == nil && code != 0 {
			err = fmt.Errorf("exit code %d", code)
		}
		done <- err
	}()
	fmt.Fprint(type_, "typed\n")
	tty.waitFor(t, "typed\r\ntyped\r\n") // the echo and the copy
	fmt.Fprint(type_, "\x04")            // end of file
	if err := <-done; err != nil {
		t.Error(err)
	}
	close(sizes)
}

// TestExecGivenUp: if the caller gives up, nothing is written after the call has
// returned, although the program has more output.
func TestExecGivenUp(t *testing.T) {
	d := newDirect(t)
	c := d.start("main", &runtimeapi.ContainerConfig{Args: []string{"sleep", "forever"}})
	for range 5 {
		ctx, cancel := context.WithCancel(t.Context())
		out := &watched{first: cancel}
		if _, err := d.rt.Exec(ctx, c, []string{"/podtool", "lines", "0"}, cri.Streams{Stdout: out}); err == nil {
			t.Error("an exec that was given up ended well")
		}
		if !out.end() {
			t.Error("something was being written when the call returned")
		}
		time.Sleep(20 * time.Millisecond)
		if out.late.Load() {
			t.Error("something was written after the call had returned")
		}
	}
}

// watched notices writes that come, or are still in progress, after end.
type watched struct {
	first            func()
	inside           atomic.Int32
	over, late, once atomic.Bool
}

func (w *watched) Write(p []byte) (int, error) {
	w.inside.Add(1)
	defer w.inside.Add(-1)
	if w.over.Load() {
		w.late.Store(true)
	}
	if w.once.CompareAndSwap(false, true) {
		w.first()
	}
	time.Sleep(2 * time.Millisecond)
	return len(p), nil
}

func (w *watched) end() (quiet bool) {
	w.over.Store(true)
	return w.inside.Load() == 0
}

func TestAttach(t *testing.T) {
	d := newDirect(t)
	c := d.start("pipe", &runtimeapi.ContainerConfig{Args: []string{"copy-stdin"}, Stdin: true, StdinOnce: true})
	var out buffer
	if err := d.rt.Attach(t.Context(), c, cri.Streams{Stdin: strings.NewReader("all of it\n"), Stdout: &out}); err != nil {
		t.Fatal(err)
	}
	if out.String() != "all of it\n" {
		t.Errorf("attach saw %q", out.String())
	}

	c = d.start("tty", &runtimeapi.ContainerConfig{Args: []string{"copy-stdin"}, Stdin: true, Tty: true})
	in, type_ := io.Pipe()
	var tty buffer
	done := make(chan error, 1)
	go func() {
		done <- d.rt.Attach(t.Context(), c, cri.Streams{Stdin: in, Stdout: &tty, TTY: true})
	}()
	fmt.Fprint(type_, "typed\n")
	tty.waitFor(t, "typed\r\ntyped\r\n")
	fmt.Fprint(type_, "\x04")
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestPortForward(t *testing.T) {
	d := newDirect(t)
	d.start("serve", &runtimeapi.ContainerConfig{Args: []string{"serve", "--port", "8080", "--text", "from inside"}})
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		reply, err := d.ask(8080, "GET / HTTP/1.0\r\n\r\n")
		if err == nil && strings.Contains(reply, "from inside") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the answer is %q, %v", reply, err)
		}
	}
}

// ask makes one request through a forwarded port.
func (d *direct) ask(port int32, request string) (reply string, err error) {
	client, server := net.Pipe()
	done := make(chan error, 1)
	go func() { done <- d.rt.PortForward(d.t.Context(), d.sandbox, port, server) }()
	_, err = io.WriteString(client, request)
	text, rerr := io.ReadAll(client)
	return string(text), errors.Join(err, rerr, <-done)
}

// TestReopenLog: a container that prints continuously loses no line in a rotation.
func TestReopenLog(t *testing.T) {
	d := newDirect(t)
	c := d.start("log", &runtimeapi.ContainerConfig{Args: []string{"lines", "--interval", "1ms", "0"}})
	tenLines := func() bool {
		text, _ := os.ReadFile(c.LogPath)
		return bytes.Count(text, []byte("\n")) >= 10
	}
	d.waitFor(tenLines, "lines before the rotation")
	d.must(os.Rename(c.LogPath, c.LogPath+".1"))
	d.must(d.rt.ReopenLog(t.Context(), c))
	d.waitFor(tenLines, "lines after the rotation")
	d.must(d.rt.StopContainer(t.Context(), c, 0))
	old, err := os.ReadFile(c.LogPath + ".1")
	d.must(err)
	fresh, err := os.ReadFile(c.LogPath)
	d.must(err)
	n := 0
	for line := range strings.Lines(string(old) + string(fresh)) {
		if n++; !strings.HasSuffix(line, fmt.Sprintf(" %d\n", n)) {
			t.Fatalf("line %d of the logs before and after the rotation is %q", n, line)
		}
	}
}
