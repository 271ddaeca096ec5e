package criclientsuite

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri"
	"github.com/nodekit-project/nodekit/cri/client"
)

const (
	// handler is the RuntimeClass handler that the runtime has besides the default one.
	handler = "suite-handler"
	// exitWord as a container's first word makes it end at once, with the code that
	// follows; as the first word of an ExecSync it sets that command's exit code. Any
	// other container runs until it is ended.
	exitWord = "suite-exit"
	// startTime is how long the suite's own runtime may take to answer.
	startTime = 10 * time.Second
)

// engine is a runtime whose containers are entries of a list. The SDK around it keeps
// the records, so engine is as strict with the kubelet as any runtime built on the SDK.
type engine struct {
	*client.Client
	images   *imageStore
	endpoint string
	dir      string
	stop     context.CancelFunc
	done     chan error
	exits    chan exit

	mu    sync.Mutex
	nextN int
}

type exit struct {
	id string
	e  cri.Exit
}

// startEngine serves a runtime on a socket in dir, with the records that an earlier
// one left there.
func startEngine(ctx context.Context, dir string, images *imageStore) (*engine, error) {
	state := filepath.Join(dir, "state")
	if err := os.MkdirAll(state, 0o700); err != nil {
		return nil, err
	}
	const room = 1000
	e := &engine{images: images, dir: dir, endpoint: engineEndpoint(dir), done: make(chan error, 1), exits: make(chan exit, room)}
	live, stop := context.WithCancel(context.WithoutCancel(ctx))
	e.stop = stop
	go func() { e.done <- cri.Serve(live, e.endpoint, e.runtime(), &cri.Options{StateDir: state}) }()
	var err error
	if e.Client, err = client.Dial(e.endpoint, nil); err != nil {
		return nil, errors.Join(err, e.end())
	}
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	if _, err := e.Wait(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("starting the suite's runtime: %w", err), e.end())
	}
	return e, nil
}

func engineEndpoint(dir string) string { return "unix://" + filepath.Join(dir, "e.sock") }

// end ends the runtime. Its records stay.
func (e *engine) end() error {
	var err error
	if e.Client != nil {
		err = e.Close()
	}
	e.stop()
	return errors.Join(err, <-e.done)
}

func (e *engine) runtime() *cri.Runtime {
	nothing := func(context.Context, *cri.Container) error { return nil }
	return &cri.Runtime{
		Name: "recording-runtime", Version: "1.0.0",
		Handlers: []cri.Handler{{RecursiveReadOnlyMounts: true, UserNamespaces: true}, {Name: handler}},
		Features: cri.Features{SupplementalGroupsPolicy: true, UserNamespacesHostNetwork: true, MountOptions: true},

		CgroupDriver:    runtimeapi.CgroupDriver_CGROUPFS,
		RunSandbox:      e.runSandbox,
		StopSandbox:     func(context.Context, *cri.Sandbox) error { return nil },
		RemoveSandbox:   func(context.Context, *cri.Sandbox) error { return nil },
		CreateContainer: e.create,
		StartContainer:  e.start,
		StopContainer:   e.stopContainer,
		RemoveContainer: nothing,
		UpdateContainer: func(context.Context, *cri.Container, *runtimeapi.LinuxContainerResources) error { return nil },
		UpdateSandbox: func(context.Context, *cri.Sandbox, *runtimeapi.LinuxContainerResources, *runtimeapi.LinuxContainerResources) error {
			return nil
		},
		ReopenLog: e.reopen,
		Exec:      execute,
		Stats:     stats,
		Watch:     e.watch,
		Images:    e.images.service(),
	}
}

func (e *engine) runSandbox(_ context.Context, s *cri.Sandbox) error {
	if s.Config.GetLinux().GetSecurityContext().GetNamespaceOptions().GetNetwork() == runtimeapi.NamespaceMode_NODE {
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.nextN++
	const octet = 250
	s.IPs = []string{fmt.Sprintf("198.51.%d.%d", 100+e.nextN/octet, 1+e.nextN%octet)} // of nobody: RFC 5737
	return nil
}

func (e *engine) create(ctx context.Context, c *cri.Container) error {
	image, err := e.images.status(ctx, c.Config.GetImage())
	if err == nil && image == nil {
		err = cri.ErrNotFound.Errorf("image %q is not present", c.Config.GetImage().GetImage())
	}
	return err
}

// start makes a container end soon if its words say so.
func (e *engine) start(_ context.Context, c *cri.Container) error {
	words := slices.Concat(c.Config.GetCommand(), c.Config.GetArgs())
	if err := touch(c.LogPath); err != nil {
		return err
	}
	if len(words) < 2 || words[0] != exitWord {
		return nil
	}
	code, err := strconv.ParseInt(words[1], 10, 32)
	if err != nil {
		return cri.ErrInvalid.Errorf("the code %q: %w", words[1], err)
	}
	const life = 20 * time.Millisecond
	time.AfterFunc(life, func() { e.exit(c.ID, int32(code)) })
	return nil
}

// exit lets a container end by itself.
func (e *engine) exit(id string, code int32) {
	e.exits <- exit{id, cri.Exit{Code: code, At: time.Now()}}
}

func (e *engine) stopContainer(_ context.Context, c *cri.Container, _ time.Duration) error {
	const terminated = 143
	e.exit(c.ID, terminated)
	return nil
}

func (e *engine) watch(ctx context.Context, ended func(string, cri.Exit)) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case x := <-e.exits:
			ended(x.id, x.e)
		}
	}
}

func (e *engine) reopen(_ context.Context, c *cri.Container) error { return touch(c.LogPath) }

// touch creates a log file; the kubelet must create its directory.
func touch(path string) error {
	if path == "" {
		return nil
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	return f.Close()
}

func execute(_ context.Context, _ *cri.Container, cmd []string, s cri.Streams) (int32, error) {
	if len(cmd) < 2 || cmd[0] != exitWord {
		return 0, nil
	}
	code, err := strconv.ParseInt(cmd[1], 10, 32)
	if s.Stdout != nil {
		if _, err := io.WriteString(s.Stdout, "done\n"); err != nil {
			return 0, err
		}
	}
	return int32(code), err
}

func stats(_ context.Context, c *cri.Container) (*runtimeapi.ContainerStats, error) {
	now, none := time.Now().UnixNano(), &runtimeapi.UInt64Value{}
	return &runtimeapi.ContainerStats{
		Attributes:    &runtimeapi.ContainerAttributes{Id: c.ID, Metadata: c.Config.GetMetadata(), Labels: c.Config.GetLabels(), Annotations: c.Config.GetAnnotations()},
		Cpu:           &runtimeapi.CpuUsage{Timestamp: now, UsageCoreNanoSeconds: none, UsageNanoCores: none},
		Memory:        &runtimeapi.MemoryUsage{Timestamp: now, WorkingSetBytes: none},
		WritableLayer: &runtimeapi.FilesystemUsage{Timestamp: now, FsId: &runtimeapi.FilesystemIdentifier{Mountpoint: "/"}, UsedBytes: none, InodesUsed: none},
	}, nil
}
