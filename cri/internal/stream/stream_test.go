package stream_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri/internal/flight"
	"github.com/nodekit-project/nodekit/cri/internal/stream"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/rpc"
)

func start(t *testing.T, base context.Context, f stream.Functions) *stream.Server {
	t.Helper()
	f.Running = func(id string) error {
		if id != "c" {
			return fault.NotFound.Errorf("no such container")
		}
		return nil
	}
	s := stream.New(base, f, flight.NewGroup(base), slog.New(slog.DiscardHandler))
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func request(id string, timeout int64) *runtimeapi.ExecSyncRequest {
	return &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"cmd"}, Timeout: timeout}
}

func TestUnsupportedAndRefused(t *testing.T) {
	none := start(t, t.Context(), stream.Functions{})
	_, exec := none.Exec(t.Context(), nil)
	_, sync := none.ExecSync(t.Context(), nil)
	_, attach := none.Attach(t.Context(), nil)
	_, forward := none.PortForward(t.Context(), nil)
	for _, err := range []error{exec, sync, attach, forward} {
		if !errors.Is(err, fault.Unimplemented) {
			t.Errorf("got %v", err)
		}
	}
	s := start(t, t.Context(), stream.Functions{
		Exec: func(context.Context, string, []string, stream.Streams) (int32, error) { return 0, nil },
	})
	if _, err := s.ExecSync(t.Context(), request("x", 0)); !errors.Is(err, fault.NotFound) {
		t.Errorf("of an unknown container: %v", err)
	}
	odd := request("c", 0)
	odd.Cmd = []string{"x", "\x00"}
	if _, err := s.ExecSync(t.Context(), odd); !errors.Is(err, fault.Invalid) {
		t.Errorf("with a NUL byte: %v", err)
	}
	for what, req := range map[string]*runtimeapi.ExecRequest{
		"without a command":          {ContainerId: "c", Stdout: true},
		"with a NUL byte":            {ContainerId: "c", Cmd: []string{"x", "\x00"}, Stdout: true},
		"without a stream":           {ContainerId: "c", Cmd: []string{"x"}},
		"a terminal that has stderr": {ContainerId: "c", Cmd: []string{"x"}, Tty: true, Stdout: true, Stderr: true},
	} {
		if _, err := s.Exec(t.Context(), req); status.Code(rpc.ToStatus(err)) != codes.InvalidArgument {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestPorts(t *testing.T) {
	s := start(t, t.Context(), stream.Functions{
		PortForward: func(context.Context, string, int32, io.ReadWriteCloser) error { return nil },
		Ready:       func(string) error { return nil },
	})
	for _, port := range []int32{-1, 0, 65536} {
		if _, err := s.PortForward(t.Context(), &runtimeapi.PortForwardRequest{Port: []int32{80, port}}); !errors.Is(err, fault.Invalid) {
			t.Errorf("port %d: %v", port, err)
		}
	}
	if _, err := s.PortForward(t.Context(), &runtimeapi.PortForwardRequest{PodSandboxId: "s", Port: []int32{1, 65535}}); err != nil {
		t.Error(err)
	}
}

// However a command ends when its time is up, the answer is the timeout; the
// end of the client or of the server is not.
func TestExecSyncTimeout(t *testing.T) {
	for name, end := range map[string]func(context.Context) (int32, error){
		"error":    func(ctx context.Context) (int32, error) { return 0, ctx.Err() },
		"killed":   func(context.Context) (int32, error) { return 137, nil },
		"too late": func(context.Context) (int32, error) { time.Sleep(time.Hour); return 0, nil },
	} {
		for _, who := range []string{"timeout", "client", "server"} {
			synctest.Test(t, func(t *testing.T) {
				base, stop := context.WithCancel(t.Context())
				client, leave := context.WithCancel(t.Context())
				f := stream.Functions{Exec: func(ctx context.Context, _ string, _ []string, s stream.Streams) (int32, error) {
					<-ctx.Done()
					code, err := end(ctx)
					_, _ = io.WriteString(s.Stdout, "late")
					return code, err
				}}
				f.Running = func(string) error { return nil }
				calls := flight.NewGroup(base)
				s := stream.New(base, f, calls, slog.New(slog.DiscardHandler))
				timeout := map[string]int64{"timeout": 1}[who]
				time.AfterFunc(time.Second, map[string]func(){"timeout": func() {}, "client": leave, "server": stop}[who])
				begin := time.Now()
				_, err := s.ExecSync(client, request("c", timeout))
				if got := errors.Is(err, context.DeadlineExceeded); got != (who == "timeout") {
					t.Errorf("%s, %s: %v", name, who, err)
				}
				if took := time.Since(begin); took > 2*time.Second {
					t.Errorf("%s, %s: took %v", name, who, took)
				}
				stop()
				leave()
				calls.Close()
			})
		}
	}
}

func TestLatest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := make(chan int)
		out := stream.Latest(t.Context(), in, func(i int) string { return string(rune('a' + i)) })
		for i := range 3 {
			in <- i
		}
		synctest.Wait()
		if got := <-out; got != "c" {
			t.Errorf("got %q, want the latest", got)
		}
		close(in)
		if _, ok := <-out; ok {
			t.Error("not closed at the end")
		}
		if stream.Latest(t.Context(), nil, func(int) int { return 0 }) != nil {
			t.Error("nothing became something")
		}
	})
}
