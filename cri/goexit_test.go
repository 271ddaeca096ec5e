package cri_test

import (
	"context"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri"
)

// exits ends its goroutine, as t.FailNow does.
func exits(context.Context, *cri.Sandbox) error {
	runtime.Goexit()
	return nil
}

// exited fails the test unless an error says that an author's function ended its
// goroutine.
func exited(t *testing.T, function string, err error) {
	t.Helper()
	if status.Code(err) != codes.Internal || !strings.Contains(err.Error(), function+" ended its goroutine") {
		t.Errorf("%v, want Internal and that %s ended its goroutine", err, function)
	}
}

// TestGoexit: whoever waits for a function that ends its goroutine gets an answer, also
// those who have joined a call, and the creation is undone.
func TestGoexit(t *testing.T) {
	f, rt := newFake()
	entered, leave := make(chan struct{}, 1), make(chan struct{})
	rt.RunSandbox = func(ctx context.Context, s *cri.Sandbox) error {
		entered <- struct{}{}
		<-leave
		return exits(ctx, s)
	}
	n := serve(t, rt, t.TempDir())
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var all sync.WaitGroup
	errs := make([]error, 2)
	for i := range errs {
		all.Go(func() {
			_, errs[i] = n.Runtime.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: sandboxConfig("a")})
		})
		if i == 0 {
			<-entered
		}
	}
	time.Sleep(20 * time.Millisecond) // the second one joins
	close(leave)
	all.Wait()
	for _, err := range errs {
		exited(t, "RunSandbox", err)
	}
	if calls := strings.Join(f.noted(), ", "); calls != "stop a, remove a" {
		t.Errorf("the sandbox was undone by %q", calls)
	}
	n.empty()
}

// TestGoexitOfEach: no call is left without an answer, and the server goes on and stops.
func TestGoexitOfEach(t *testing.T) {
	_, rt := newFake()
	n := serve(t, rt, t.TempDir())
	sandbox := n.sandbox("a")
	id, created := n.started(sandbox, "runs"), n.container(sandbox, "created")
	n.stop()

	rt.StopSandbox, rt.RemoveSandbox = exits, exits
	ofContainer := func(context.Context, *cri.Container) error { runtime.Goexit(); return nil }
	rt.StartContainer, rt.RemoveContainer, rt.ReopenLog = ofContainer, ofContainer, ofContainer
	rt.StopContainer = func(context.Context, *cri.Container, time.Duration) error { runtime.Goexit(); return nil }
	rt.Exec = func(context.Context, *cri.Container, []string, cri.Streams) (int32, error) {
		runtime.Goexit()
		return 0, nil
	}
	rt.Stats = func(context.Context, *cri.Container) (*runtimeapi.ContainerStats, error) {
		runtime.Goexit()
		return nil, nil
	}
	rt.Images = &cri.Images{
		List: func(context.Context) ([]*runtimeapi.Image, error) { runtime.Goexit(); return nil, nil },
		Status: func(context.Context, *runtimeapi.ImageSpec) (*runtimeapi.Image, error) {
			runtime.Goexit()
			return nil, nil
		},
		Pull:   func(context.Context, *runtimeapi.PullImageRequest) (string, error) { runtime.Goexit(); return "", nil },
		Remove: func(context.Context, *runtimeapi.ImageSpec) error { runtime.Goexit(); return nil },
		FsInfo: func(context.Context) (*runtimeapi.FilesystemUsage, error) { runtime.Goexit(); return nil, nil },
	}
	n = serve(t, rt, n.dir)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	r, im, image := n.Runtime, n.Images, &runtimeapi.ImageSpec{Image: "x"}
	for function, call := range map[string]func() error{
		"StopSandbox": func() error {
			_, err := r.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: n.sandbox("b")})
			return err
		},
		"StartContainer": func() error {
			_, err := r.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: created})
			return err
		},
		"StopContainer": func() error {
			_, err := r.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: id})
			return err
		},
		"ReopenLog": func() error {
			_, err := r.ReopenContainerLog(ctx, &runtimeapi.ReopenContainerLogRequest{ContainerId: id})
			return err
		},
		"Exec": func() error {
			_, err := r.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"true"}})
			return err
		},
		"Stats": func() error {
			_, err := r.ContainerStats(ctx, &runtimeapi.ContainerStatsRequest{ContainerId: id})
			return err
		},
		"Images.List": func() error { _, err := im.ListImages(ctx, &runtimeapi.ListImagesRequest{}); return err },
		"Images.Status": func() error {
			_, err := im.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: image})
			return err
		},
		"Images.Pull": func() error {
			_, err := im.PullImage(ctx, &runtimeapi.PullImageRequest{Image: image})
			return err
		},
		"Images.Remove": func() error {
			_, err := im.RemoveImage(ctx, &runtimeapi.RemoveImageRequest{Image: image})
			return err
		},
		"Images.FsInfo": func() error { _, err := im.ImageFsInfo(ctx, &runtimeapi.ImageFsInfoRequest{}); return err },
	} {
		exited(t, function, call())
	}
}
