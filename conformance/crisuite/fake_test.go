package crisuite_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri"
	"github.com/nodekit-project/nodekit/cri/client"
	"github.com/nodekit-project/nodekit/internal/rpc"
)

// fake is a runtime whose sandboxes are a process each, and whose containers
// are timers.
type fake struct {
	fault string
	mu    sync.Mutex
	procs map[string]*exec.Cmd
	ended func(id string, e cri.Exit)
}

// serveFake serves a runtime with a fault: the SDK on an inner socket, and in
// front of it a proxy that does the fault's part on the wire.
func serveFake(fault, root, endpoint string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := serveBoth(ctx, fault, root, endpoint); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func serveBoth(ctx context.Context, fault, root, endpoint string) error {
	p := &proxy{fault: fault, again: started(root), calls: map[string]int{}}
	inner := filepath.Join(root, "inner.sock")
	f := &fake{fault: fault, procs: map[string]*exec.Cmd{}, ended: func(string, cri.Exit) {}}
	served := make(chan error, 1)
	go func() {
		served <- cri.Serve(ctx, inner, f.runtime(), &cri.Options{StateDir: filepath.Join(root, "state")})
	}()
	c, err := client.Dial(inner, nil)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Wait(ctx); err != nil {
		return err
	}
	if p.conn, err = grpc.NewClient("unix:"+inner, grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
		return err
	}
	defer p.conn.Close()
	g := grpc.NewServer(grpc.UnaryInterceptor(p.forward))
	runtimeapi.RegisterRuntimeServiceServer(g, eventProxy{p: p})
	runtimeapi.RegisterImageServiceServer(g, runtimeapi.UnimplementedImageServiceServer{})
	l, err := rpc.Listen(endpoint)
	if err != nil {
		return err
	}
	if err := rpc.Serve(ctx, g, l, time.Second); err != nil {
		return err
	}
	return <-served
}

// proxy forwards every unary call, and lets the fault see it.
type proxy struct {
	fault string
	again bool
	conn  *grpc.ClientConn
	mu    sync.Mutex
	calls map[string]int
}

func (p *proxy) forward(ctx context.Context, req any, info *grpc.UnaryServerInfo, _ grpc.UnaryHandler) (any, error) {
	message := req.(proto.Message)
	key := info.FullMethod + fmt.Sprint(message)
	p.mu.Lock()
	p.calls[key]++
	w := wire{method: path.Base(info.FullMethod), req: message, again: p.again, calls: p.calls[key]}
	p.mu.Unlock()
	request(p.fault, message)
	resp, err := answerOf(info.FullMethod)
	if err != nil {
		return nil, err
	}
	err = p.conn.Invoke(ctx, info.FullMethod, message, resp)
	if do := faults()[p.fault]; do != nil {
		return do(w, resp, err)
	}
	return resp, err
}

// eventProxy is the one method of the proxy that streams.
type eventProxy struct {
	runtimeapi.UnimplementedRuntimeServiceServer
	p *proxy
}

func (e eventProxy) GetContainerEvents(req *runtimeapi.GetEventsRequest, to grpc.ServerStreamingServer[runtimeapi.ContainerEventResponse]) error {
	from, err := runtimeapi.NewRuntimeServiceClient(e.p.conn).GetContainerEvents(to.Context(), req)
	if err != nil {
		return err
	}
	if _, err := from.Header(); err != nil {
		return err
	}
	if e.p.fault != "odd" { // a subscription need not be confirmed
		if err := to.SendHeader(nil); err != nil {
			return err
		}
	}
	for {
		event, err := from.Recv()
		if err != nil {
			return err
		}
		if e.p.fault == "no stop event" && event.ContainerEventType == runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT {
			continue
		}
		if err := to.Send(event); err != nil {
			return err
		}
	}
}

// answerOf returns an empty answer of a method ("/runtime.v1.X/Y").
func answerOf(method string) (proto.Message, error) {
	service, name := path.Split(method)
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(path.Base(service) + "." + name))
	if err != nil {
		return nil, err
	}
	t, err := protoregistry.GlobalTypes.FindMessageByName(d.(protoreflect.MethodDescriptor).Output().FullName())
	if err != nil {
		return nil, err
	}
	return t.New().Interface(), nil
}

func (f *fake) runtime() *cri.Runtime {
	return &cri.Runtime{
		Name: "fake", Version: "1",
		RunSandbox: f.runSandbox, StopSandbox: f.stopSandbox,
		RemoveSandbox:   func(context.Context, *cri.Sandbox) error { return nil },
		CreateContainer: func(context.Context, *cri.Container) error { return nil },
		StartContainer:  f.startContainer,
		StopContainer: func(_ context.Context, c *cri.Container, _ time.Duration) error {
			f.ended(c.ID, cri.Exit{Code: 137})
			return nil
		},
		RemoveContainer: func(context.Context, *cri.Container) error { return nil },
		Recover:         f.recover,
		Exec: func(ctx context.Context, _ *cri.Container, cmd []string, _ cri.Streams) (int32, error) {
			if cmd[0] == "fail" {
				return 7, nil
			}
			<-ctx.Done()
			return 137, nil
		},
		Watch: func(ctx context.Context, ended func(string, cri.Exit)) error {
			f.ended = ended
			<-ctx.Done()
			return nil
		},
		Images: &cri.Images{
			Status: func(_ context.Context, image *runtimeapi.ImageSpec) (*runtimeapi.Image, error) {
				if image.Image != "any" && f.fault != "any image" {
					return nil, nil
				}
				return &runtimeapi.Image{Id: "sha256:0", Size: 1}, nil
			},
		},
	}
}

func (f *fake) runSandbox(_ context.Context, s *cri.Sandbox) error {
	time.Sleep(3 * time.Millisecond) // room to be killed in
	if f.fault == "leaves link" {
		if out, err := exec.Command("ip", "link", "add", "f"+s.ID[:12], "type", "bridge").CombinedOutput(); err != nil {
			return fmt.Errorf("adding the link: %w: %s", err, out)
		}
	}
	sleep := exec.Command("sleep", "1000")
	sleep.Env = []string{"SANDBOX=" + s.ID}
	if err := sleep.Start(); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.procs[s.ID] = sleep
	return nil
}

func (f *fake) stopSandbox(_ context.Context, s *cri.Sandbox) error {
	if f.fault == "leaves process" {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if sleep := f.procs[s.ID]; sleep != nil {
		_ = sleep.Process.Kill()
		_ = sleep.Wait() // it was killed
		delete(f.procs, s.ID)
	}
	return nil
}

func (f *fake) startContainer(_ context.Context, c *cri.Container) error {
	if c.Config.Command[0] == "fail" {
		time.AfterFunc(10*time.Millisecond, func() { f.ended(c.ID, cri.Exit{Code: 7}) })
	}
	if c.Config.Command[0] != "print" {
		return nil
	}
	defer time.AfterFunc(10*time.Millisecond, func() { f.ended(c.ID, cri.Exit{}) })
	if f.fault == "raw log" {
		return os.WriteFile(c.LogPath, []byte("hello\n"), 0o600)
	}
	stdout, stderr, err := c.OpenLog()
	if err != nil {
		return err
	}
	_, err = io.WriteString(stdout, "hello\n")
	return errors.Join(err, stdout.Close(), stderr.Close())
}

// recover: nothing of this runtime outlives it.
func (f *fake) recover(_ context.Context, sandboxes []*cri.Sandbox, containers []*cri.Container) error {
	for _, s := range sandboxes {
		s.Ready = f.fault != "odd"
	}
	for _, c := range containers {
		if c.Exit == nil {
			c.Exit = &cri.Exit{Code: 137, Reason: "ContainerStatusUnknown"}
		}
	}
	return nil
}
