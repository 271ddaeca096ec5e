package crisuite

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri"
	"github.com/nodekit-project/nodekit/cri/client"
	"github.com/nodekit-project/nodekit/internal/mount"
	"github.com/nodekit-project/nodekit/internal/supervisor"
)

// startTime bounds the start of the runtime, up to its first answer.
const startTime = 20 * time.Second

// runtime is a runtime that answers: a process of the suite, or an endpoint.
type runtime struct {
	*client.Client
	target   Target
	house    *house
	endpoint string
	dir      string
	root     string              // of a target with Exec
	process  *supervisor.Process // nil for a target with an Endpoint
	images   *registry           // nil if the suite's images are not used
	network  bool                // Pods can have a network of their own
	status   *runtimeapi.StatusResponse
	pullOnce sync.Mutex
	pulled   map[string]bool
}

// startRuntime starts or dials the house's target. enter is for the supervisor, or nil.
func startRuntime(ctx context.Context, h *house, dir string, images *registry, enter func() error) (*runtime, error) {
	if in := h.vain.Load(); in != nil {
		return nil, *in
	}
	r := &runtime{target: h.target, house: h, dir: dir, images: images, pulled: map[string]bool{}}
	target, endpoint := h.target, h.target.Endpoint
	var err error
	if len(target.Exec) > 0 {
		if endpoint, err = r.launch(enter); err != nil {
			return nil, err
		}
	}
	r.endpoint = endpoint
	if r.Client, err = client.Dial(endpoint, nil); err != nil {
		r.kill()
		return nil, err
	}
	err = r.await(ctx)
	if err == nil && target.Load != "" && images != nil {
		err = r.load(ctx, endpoint)
	}
	if err != nil {
		r.Close()
		r.kill()
		return nil, err
	}
	return r, nil
}

func (r *runtime) launch(enter func() error) (endpoint string, err error) {
	r.root = filepath.Join(r.dir, "root")
	if err := errors.Join(os.Mkdir(r.root, 0o700), os.Chmod(r.root, passableMode)); err != nil {
		return "", err
	}
	endpoint = "unix://" + filepath.Join(r.dir, "s.sock")
	place, env := r.places(endpoint)
	command := make([]string, len(r.target.Exec))
	for i, arg := range r.target.Exec {
		command[i] = place.Replace(arg)
	}
	r.process, err = supervisor.Start(supervisor.Command{Path: command[0], Args: command[1:], Env: env, Enter: enter})
	if err != nil {
		return "", fmt.Errorf("starting the runtime: %w", err)
	}
	return endpoint, nil
}

// places returns the replacer of names in commands, and the environment.
func (r *runtime) places(endpoint string) (*strings.Replacer, []string) {
	place := strings.NewReplacer(Endpoint, endpoint, Root, r.root, Archive, filepath.Join(r.dir, "images.tar"))
	env := append(os.Environ(), "CONTAINER_RUNTIME_ENDPOINT="+endpoint, "STATE_DIRECTORY="+r.root)
	for _, e := range r.target.Env {
		env = append(env, place.Replace(e))
	}
	return place, env
}

// nriSocket is where the runtime's NRI plugins connect.
func (r *runtime) nriSocket() string {
	place, _ := r.places(r.endpoint)
	return place.Replace(r.target.NRI)
}

// load loads the images into a runtime that does not pull.
func (r *runtime) load(ctx context.Context, endpoint string) error {
	archive := filepath.Join(r.dir, "images.tar")
	if err := r.images.archive(ctx, archive); err != nil {
		return err
	}
	defer os.Remove(archive)
	place, env := r.places(endpoint)
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", place.Replace(r.target.Load))
	cmd.Env = env
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("loading the suite's images: %w\n%s", err, out)
	}
	return nil
}

// await waits until the runtime answers.
func (r *runtime) await(ctx context.Context) error {
	rule := ctx
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	err := r.answers(ctx)
	var misplaced misplacedError
	if errors.As(err, &misplaced) && rule.Err() == nil && !r.house.answered.Load() {
		r.house.vain.Store(&misplaced)
	}
	if err != nil {
		return err
	}
	r.house.answered.Store(true)
	// A runtime that is up may need a moment for its network. One without a network at
	// its first start is taken to have none.
	for late := time.Now().Add(networkTime); ; time.Sleep(20 * time.Millisecond) {
		if r.status, err = r.Runtime.Status(ctx, &runtimeapi.StatusRequest{}); err != nil {
			return fmt.Errorf("asking for the runtime's status: %w", err)
		}
		r.network = condition(r.status, runtimeapi.NetworkReady)
		if r.network {
			r.house.online.Store(true)
		}
		if r.network || r.house.offline.Load() || time.Now().After(late) {
			r.house.offline.Store(!r.house.online.Load())
			return nil
		}
	}
}

// answers waits for the first answer, until the runtime exits, turns out to serve another
// socket, or ctx ends.
func (r *runtime) answers(ctx context.Context) error {
	if r.process == nil {
		if err := answered(ctx, r.Client); err != nil {
			return fmt.Errorf("the runtime does not answer: %w", err)
		}
		return nil
	}
	began := time.Now()
	waits, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	died := r.process.Done()
	go func() {
		select {
		case <-died:
			cancel(nil)
		case <-waits.Done():
		}
	}()
	go func() {
		if err := r.looksElsewhere(waits); err != nil {
			cancel(err)
		}
	}()
	err := answered(waits, r.Client)
	var misplaced misplacedError
	switch {
	case err == nil:
		return nil
	case errors.As(context.Cause(waits), &misplaced):
		return misplaced
	case !r.lives():
		return fmt.Errorf("the runtime ended (%s) before it answered\nit printed: %s", r.process.Ending(), r.process.LifeTail())
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		if _, gone := os.Lstat(strings.TrimPrefix(r.endpoint, "unix://")); gone != nil {
			return r.misplaced(r.without(time.Since(began)))
		}
	}
	return fmt.Errorf("the runtime does not answer: %w\nit printed: %s", err, r.process.LifeTail())
}

// answered waits until a runtime identifies itself. A runtime that serves before it is
// ready, as containerd does, answers with an error meanwhile; Unimplemented comes from
// something that is not a runtime.
func answered(ctx context.Context, c *client.Client) (last error) {
	for {
		_, err := c.Wait(ctx)
		if err == nil || errors.Is(err, cri.ErrUnimplemented) {
			return err
		}
		if last == nil || ctx.Err() == nil { // a timeout says less than the error before it
			last = err
		}
		select {
		case <-ctx.Done():
			return last
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// without describes a runtime that has not created its socket.
func (r *runtime) without(waited time.Duration) string {
	text := fmt.Sprintf("there was no socket within %v", waited.Round(time.Second))
	if listens := r.listens(); len(listens) > 0 {
		text += ", while it listens at " + strings.Join(listens, ", ")
	}
	return text
}

// networkTime is how long a runtime that answers may say that it has no network yet.
const networkTime = 500 * time.Millisecond

func condition(r *runtimeapi.StatusResponse, name string) bool {
	for _, c := range r.GetStatus().GetConditions() {
		if c.GetType() == name {
			return c.GetStatus()
		}
	}
	return false
}

func (r *runtime) lives() bool {
	if r.process == nil {
		return true
	}
	select {
	case <-r.process.Done():
		return false
	default:
		return true
	}
}

// crash kills the runtime with SIGKILL and starts it again.
func (r *runtime) crash(ctx context.Context) error {
	r.process.Kill()
	return r.restart(ctx)
}

func (r *runtime) restart(ctx context.Context) error {
	if err := r.process.Restart(); err != nil {
		return fmt.Errorf("starting the runtime again: %w", err)
	}
	return r.await(ctx)
}

// kill ends a runtime that did not come up, and what it has created so far.
func (r *runtime) kill() {
	if r.process == nil {
		return
	}
	_ = r.process.Stop(killTime) // it is gone then, whatever the error
	_ = supervisor.EndMarked(r.root)
	_ = mount.DetachTree(r.dir)
}

// killTime is how long a runtime that did not come up may take to stop.
const killTime = 5 * time.Second

// end stops a runtime that the suite started, and then the processes that it left running
// on purpose, such as container monitors: its directory is removed next.
func (r *runtime) end(log *slog.Logger) {
	r.Close()
	if r.process == nil {
		return
	}
	if err := r.process.Stop(10 * time.Second); err != nil {
		log.Warn("stopping the runtime", "err", err)
	}
	if err := supervisor.EndMarked(r.root); err != nil {
		log.Warn("ending what the runtime left running", "err", err)
	}
	if err := mount.DetachTree(r.dir); err != nil && !errors.Is(err, mount.ErrUnsupported) {
		log.Warn("detaching what the runtime left mounted", "err", err)
	}
}
