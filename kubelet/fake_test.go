package kubelet_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// fake is a CRI runtime without processes, behind the real SDK and a real
// socket. What a container does is its command: "run" until stopped, "exit N"
// at once, "after DURATION exit N".
type fake struct {
	endpoint string
	state    string
	ended    chan end

	mu      sync.Mutex
	starts  []string // container names in the order in which they started
	running map[string]*time.Timer
	images  map[string]bool
	// hold, when it is set, holds up the making of sandboxes until it is closed,
	// whether anybody still waits for them or not.
	hold chan struct{}
	deaf bool // StopContainer waits for ever
	// password is what a pull has to have, "" for no pull at all; pulls are the
	// passwords that were tried.
	password string
	pulls    []string
}

const imageID = "sha256:0000000000000000000000000000000000000000000000000000000000000000"

type end struct {
	id   string
	exit cri.Exit
}

// newFake serves a fake runtime until the test ends.
func newFake(t *testing.T) *fake {
	dir, err := os.MkdirTemp("", "fakecri") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	f := &fake{
		endpoint: "unix://" + filepath.Join(dir, "cri.sock"), state: filepath.Join(dir, "state"), ended: make(chan end, 100),
		running: map[string]*time.Timer{}, images: map[string]bool{"nodekit.test/image:1": true},
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- cri.Serve(ctx, f.endpoint, f.runtime(), &cri.Options{StateDir: f.state}) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serving the fake runtime: %v", err)
		}
	})
	return f
}

func (f *fake) runtime() *cri.Runtime {
	return &cri.Runtime{
		Name: "fake", Version: "1",
		RunSandbox: func(_ context.Context, s *cri.Sandbox) error {
			s.IPs = []string{"127.0.0.1"}
			f.mu.Lock()
			hold := f.hold
			f.mu.Unlock()
			if hold != nil {
				<-hold
			}
			return nil
		},
		StopSandbox:   func(context.Context, *cri.Sandbox) error { return nil },
		RemoveSandbox: func(context.Context, *cri.Sandbox) error { return nil },
		CreateContainer: func(_ context.Context, c *cri.Container) error {
			c.ImageRef = imageID
			return nil
		},
		StartContainer:  f.start,
		StopContainer:   f.stop,
		RemoveContainer: func(context.Context, *cri.Container) error { return nil },
		Watch: func(ctx context.Context, ended func(string, cri.Exit)) error {
			for {
				select {
				case e := <-f.ended:
					ended(e.id, e.exit)
				case <-ctx.Done():
					return nil
				}
			}
		},
		Images: &cri.Images{
			List:   func(context.Context) ([]*runtimeapi.Image, error) { return nil, nil },
			Status: f.image,
			Pull:   f.pull,
			Remove: func(context.Context, *runtimeapi.ImageSpec) error { return nil },
			FsInfo: func(context.Context) (*runtimeapi.FilesystemUsage, error) { return &runtimeapi.FilesystemUsage{}, nil },
		},
	}
}

func (f *fake) pull(_ context.Context, req *runtimeapi.PullImageRequest) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.password == "" {
		return "", cri.ErrNotFound.Errorf("no registry has %q", req.Image.Image)
	}
	f.pulls = append(f.pulls, req.GetAuth().GetPassword())
	if req.GetAuth().GetPassword() != f.password {
		return "", fault.Unauthenticated.Errorf("%q is for those who know the password", req.Image.Image)
	}
	f.images[req.Image.Image] = true
	return imageID, nil
}

func (f *fake) image(_ context.Context, spec *runtimeapi.ImageSpec) (*runtimeapi.Image, error) {
	ref := spec.Image
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.images[ref] && ref != imageID {
		return nil, nil
	}
	return &runtimeapi.Image{Id: imageID, RepoTags: []string{"nodekit.test/image:1"}, Size: 1}, nil
}

func (f *fake) start(_ context.Context, c *cri.Container) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.running[c.ID] != nil {
		return fmt.Errorf("container %q was started twice", c.ID)
	}
	f.starts = append(f.starts, c.Config.Metadata.Name)
	after, code := script(c.Config.Command)
	id := c.ID
	f.running[id] = time.AfterFunc(after, func() { f.ended <- end{id, cri.Exit{Code: code, At: time.Now()}} })
	return nil
}

// script reads a command: when the container ends, and with which code.
func script(words []string) (after time.Duration, code int32) {
	after = time.Hour
	for i, w := range words {
		switch w {
		case "after":
			after, _ = time.ParseDuration(words[i+1])
		case "exit":
			n, _ := strconv.Atoi(words[i+1])
			code = int32(n)
			if after == time.Hour {
				after = time.Millisecond
			}
		}
	}
	return after, code
}

func (f *fake) stop(ctx context.Context, c *cri.Container, _ time.Duration) error {
	f.mu.Lock()
	timer, deaf := f.running[c.ID], f.deaf
	f.mu.Unlock()
	if deaf {
		<-ctx.Done()
		return ctx.Err()
	}
	if timer != nil && timer.Stop() {
		f.ended <- end{c.ID, cri.Exit{Code: 143, At: time.Now()}}
	}
	return nil
}

func (f *fake) started() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.starts...)
}
