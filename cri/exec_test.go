package cri_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	utilexec "k8s.io/client-go/util/exec"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri"
	"github.com/nodekit-project/nodekit/internal/rpc"
)

func rpcError(err error) error { return rpc.FromStatus(err) }

// execing is a running container of a runtime whose Exec is exec.
func execing(t *testing.T, exec func(context.Context, *cri.Container, []string, cri.Streams) (int32, error)) (*node, string) {
	_, rt := newFake()
	rt.Exec = exec
	n := serve(t, rt, t.TempDir())
	return n, n.started(n.sandbox("a"), "main")
}

func (n *node) exec(id string, timeout int64) (*runtimeapi.ExecSyncResponse, error) {
	return n.Runtime.ExecSync(n.t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"cmd"}, Timeout: timeout})
}

func TestExecSync(t *testing.T) {
	n, id := execing(t, func(_ context.Context, _ *cri.Container, _ []string, s cri.Streams) (int32, error) {
		_, _ = io.WriteString(s.Stdout, "out")
		_, _ = io.WriteString(s.Stderr, "err")
		return 3, nil
	})
	resp, err := n.exec(id, 0)
	if err != nil || string(resp.Stdout) != "out" || string(resp.Stderr) != "err" || resp.ExitCode != 3 {
		t.Errorf("got %v, %v", resp, err)
	}
	if err := n.stopContainer(id, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := n.exec(id, 0); !errors.Is(err, cri.ErrFailedPrecondition) {
		t.Errorf("in an ended container: %v", err)
	}
}

// "If the stdout of the command produces more than 16MB, the remaining output
// should be discarded, and the command should proceed with no error."
func TestExecSyncCapsOutput(t *testing.T) {
	n, id := execing(t, func(_ context.Context, _ *cri.Container, _ []string, s cri.Streams) (int32, error) {
		for range 20 {
			for _, w := range []io.Writer{s.Stdout, s.Stderr} {
				if n, err := w.Write(make([]byte, 1<<20)); n != 1<<20 || err != nil {
					return 0, errors.New("the writer does not take everything")
				}
			}
		}
		return 0, nil
	})
	resp, err := n.exec(id, 0)
	if err != nil {
		t.Fatal(err)
	}
	if got := len(resp.Stdout) + len(resp.Stderr); got < 15<<20 || got > 16<<20 {
		t.Errorf("kept %d bytes", got)
	}
}

// An author whose Exec does not return, because something keeps the streams
// open, does not hold up the answer.
func TestExecSyncTimeout(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	n, id := execing(t, func(_ context.Context, _ *cri.Container, _ []string, s cri.Streams) (int32, error) {
		<-release
		_, _ = io.WriteString(s.Stdout, "too late")
		return 0, nil
	})
	start := time.Now()
	_, err := n.exec(id, 1)
	if status.Code(err) != codes.DeadlineExceeded || !strings.Contains(err.Error(), "timed out") {
		t.Errorf("got %v", err)
	}
	if took := time.Since(start); took > 4*time.Second {
		t.Errorf("took %v", took)
	}
}

// streamTo runs a command over the streaming server as kubectl does.
func (n *node) streamTo(rawURL string, o remotecommand.StreamOptions) error {
	n.t.Helper()
	u, err := url.Parse(rawURL)
	if err != nil {
		n.t.Fatal(err)
	}
	if host, _, _ := net.SplitHostPort(u.Host); !net.ParseIP(host).IsLoopback() {
		n.t.Errorf("streams are served on %q, want loopback", u.Host)
	}
	ex, err := remotecommand.NewSPDYExecutor(&rest.Config{}, http.MethodPost, u)
	if err != nil {
		n.t.Fatal(err)
	}
	return ex.StreamWithContext(n.t.Context(), o)
}

func TestExecStream(t *testing.T) {
	n, id := execing(t, func(_ context.Context, _ *cri.Container, cmd []string, s cri.Streams) (int32, error) {
		_, _ = io.Copy(s.Stdout, s.Stdin)
		_, _ = io.WriteString(s.Stderr, cmd[0])
		return 42, nil
	})
	resp, err := n.Runtime.Exec(t.Context(), &runtimeapi.ExecRequest{ContainerId: id, Cmd: []string{"cmd"}, Stdin: true, Stdout: true, Stderr: true})
	if err != nil {
		t.Fatal(err)
	}
	var out, errOut bytes.Buffer
	err = n.streamTo(resp.Url, remotecommand.StreamOptions{Stdin: strings.NewReader("hello"), Stdout: &out, Stderr: &errOut})
	var code utilexec.CodeExitError
	if !errors.As(err, &code) || code.Code != 42 {
		t.Errorf("got %v, want exit code 42", err)
	}
	if out.String() != "hello" || errOut.String() != "cmd" {
		t.Errorf("got %q and %q", out.String(), errOut.String())
	}
	if err := n.streamTo(resp.Url, remotecommand.StreamOptions{Stdout: io.Discard}); err == nil {
		t.Error("a URL worked twice")
	}
}

type oneSize struct{ sent bool }

func (o *oneSize) Next() *remotecommand.TerminalSize {
	if o.sent {
		return nil
	}
	o.sent = true
	return &remotecommand.TerminalSize{Width: 80, Height: 24}
}

func TestAttachWithTerminal(t *testing.T) {
	_, rt := newFake()
	rt.Attach = func(_ context.Context, _ *cri.Container, s cri.Streams) error {
		if !s.TTY || s.Stderr != nil {
			return errors.New("not one terminal")
		}
		if size := <-s.Resize; size != (cri.Size{Width: 80, Height: 24}) {
			return errors.New("wrong size")
		}
		_, err := io.WriteString(s.Stdout, "resized")
		return err
	}
	n := serve(t, rt, t.TempDir())
	id := n.started(n.sandbox("a"), "main")
	resp, err := n.Runtime.Attach(t.Context(), &runtimeapi.AttachRequest{ContainerId: id, Tty: true, Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := n.streamTo(resp.Url, remotecommand.StreamOptions{Stdout: &out, Tty: true, TerminalSizeQueue: &oneSize{}}); err != nil || out.String() != "resized" {
		t.Errorf("got %q, %v", out.String(), err)
	}
	_, err = n.Runtime.Attach(t.Context(), &runtimeapi.AttachRequest{ContainerId: id, Tty: true, Stderr: true})
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("a terminal with stderr: %v", err)
	}
}

func TestPortForward(t *testing.T) {
	_, rt := newFake()
	rt.PortForward = func(_ context.Context, _ *cri.Sandbox, port int32, conn io.ReadWriteCloser) error {
		defer conn.Close()
		_, err := io.Copy(conn, conn)
		return err
	}
	n := serve(t, rt, t.TempDir())
	resp, err := n.Runtime.PortForward(t.Context(), &runtimeapi.PortForwardRequest{PodSandboxId: n.sandbox("a")})
	if err != nil {
		t.Fatal(err)
	}
	u, _ := url.Parse(resp.Url)
	transport, upgrader, err := spdy.RoundTripperFor(&rest.Config{})
	if err != nil {
		t.Fatal(err)
	}
	dialer := spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, u)
	stop, ready := make(chan struct{}), make(chan struct{})
	pf, err := portforward.NewOnAddresses(dialer, []string{"127.0.0.1"}, []string{"0:80"}, stop, ready, io.Discard, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- pf.ForwardPorts() }()
	<-ready
	ports, err := pf.GetPorts()
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.DialTCP("tcp", nil, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(ports[0].Local)})
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(conn, "echo")
	_ = conn.CloseWrite()
	got, err := io.ReadAll(conn)
	if err != nil || string(got) != "echo" {
		t.Errorf("got %q, %v", got, err)
	}
	conn.Close()
	close(stop)
	if err := <-done; err != nil {
		t.Error(err)
	}
}
