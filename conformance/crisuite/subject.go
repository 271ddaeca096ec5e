package crisuite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/conformance"
	"github.com/nodekit-project/nodekit/cri"
	"github.com/nodekit-project/nodekit/cri/client"
	"github.com/nodekit-project/nodekit/internal/mount"
	"github.com/nodekit-project/nodekit/internal/supervisor"
)

const (
	// startTime bounds the start of the runtime up to its first answer.
	startTime = 20 * time.Second
	// closeTime bounds the removal of what a rule made.
	closeTime = 15 * time.Second
	// label is on every sandbox that the suite makes; its value is the rule
	// run's own mark.
	label = "conformance.nodekit.dev/run"
)

type input = conformance.Input[Target]

// subject is a runtime while one rule looks at it.
type subject struct {
	*client.Client
	in      *input
	process *supervisor.Process // nil for a target with an Endpoint
	root    string              // of a target with Exec
	logs    string              // the log directory of all sandboxes
	mark    string              // in the names of all that the rule makes
	network bool                // Pods can have a network of their own
}

// with makes a rule's check of a function that looks at a running runtime.
func with(look func(context.Context, *subject) error) func(context.Context, *input) error {
	return func(ctx context.Context, in *input) error {
		s, err := start(ctx, in, nil)
		if err != nil {
			return err
		}
		defer s.close(ctx)
		return look(ctx, s)
	}
}

// withExec is with for rules that kill the runtime.
func withExec(look func(context.Context, *subject) error) func(context.Context, *input) error {
	return func(ctx context.Context, in *input) error {
		if len(in.Target.Exec) == 0 {
			return conformance.NotApplicable("the target is an endpoint: rules that kill the runtime need Target.Exec")
		}
		return with(look)(ctx, in)
	}
}

// start starts or dials the target. enter is the supervisor's, or nil.
func start(ctx context.Context, in *input, enter func() error) (*subject, error) {
	s := &subject{in: in, mark: "nk" + strconv.FormatUint(in.Rand.Uint64(), 36)}
	s.logs = filepath.Join(in.TempDir, "logs")
	if err := os.Mkdir(s.logs, 0o755); err != nil { // the kubelet's part
		return nil, err
	}
	endpoint := in.Target.Endpoint
	if len(in.Target.Exec) > 0 {
		var err error
		if endpoint, err = s.launch(enter); err != nil {
			return nil, err
		}
	}
	var err error
	if s.Client, err = client.Dial(endpoint, nil); err != nil {
		s.end()
		return nil, err
	}
	if err := s.await(ctx); err != nil {
		s.Close()
		s.end()
		return nil, err
	}
	return s, nil
}

func (s *subject) launch(enter func() error) (endpoint string, err error) {
	s.root = filepath.Join(s.in.TempDir, "root")
	if err := os.Mkdir(s.root, 0o700); err != nil {
		return "", err
	}
	endpoint = "unix://" + filepath.Join(s.in.TempDir, "s.sock")
	place := strings.NewReplacer(Endpoint, endpoint, Root, s.root)
	command := make([]string, len(s.in.Target.Exec))
	for i, arg := range s.in.Target.Exec {
		command[i] = place.Replace(arg)
	}
	env := append(os.Environ(), "CONTAINER_RUNTIME_ENDPOINT="+endpoint, "STATE_DIRECTORY="+s.root)
	for _, e := range s.in.Target.Env {
		env = append(env, place.Replace(e))
	}
	s.process, err = supervisor.Start(supervisor.Command{Path: command[0], Args: command[1:], Env: env, Enter: enter})
	if err != nil {
		return "", fmt.Errorf("starting the runtime: %w", err)
	}
	return endpoint, nil
}

// await waits until the runtime answers and says that it is ready.
func (s *subject) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	if s.process != nil {
		died := s.process.Done()
		go func() {
			select {
			case <-died:
				cancel()
			case <-ctx.Done():
			}
		}()
	}
	_, err := s.Wait(ctx)
	if err != nil && s.process != nil {
		return fmt.Errorf("the runtime does not answer: %w\nit printed: %s", err, s.process.Tail())
	}
	if err != nil {
		return fmt.Errorf("the runtime does not answer: %w", err)
	}
	status, err := s.Runtime.Status(ctx, &runtimeapi.StatusRequest{})
	if err != nil {
		return fmt.Errorf("asking for the runtime's status: %w", err)
	}
	s.network = condition(status, runtimeapi.NetworkReady)
	return nil
}

func condition(r *runtimeapi.StatusResponse, name string) bool {
	for _, c := range r.GetStatus().GetConditions() {
		if c.GetType() == name {
			return c.GetStatus()
		}
	}
	return false
}

// crash kills the runtime with SIGKILL and starts it again.
func (s *subject) crash(ctx context.Context) error {
	s.process.Kill()
	return s.restart(ctx)
}

func (s *subject) restart(ctx context.Context) error {
	if err := s.process.Restart(); err != nil {
		return fmt.Errorf("starting the runtime again: %w", err)
	}
	return s.await(ctx)
}

// close removes what the rule made and ends what the suite started. It logs
// what does not go, because that is another rule's finding.
func (s *subject) close(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTime)
	defer cancel()
	if err := s.removeAll(ctx); err != nil {
		s.in.Log.Warn("removing what the rule made", "err", err)
	}
	s.Close()
	s.end()
}

func (s *subject) removeAll(ctx context.Context) error {
	items, err := s.list(ctx)
	errs := []error{err}
	for _, item := range items {
		errs = append(errs, s.remove(ctx, item.GetId()))
	}
	return errors.Join(errs...)
}

// end stops a runtime that the suite started, and then what it left running on
// purpose, as a monitor of containers does: its directory goes next.
func (s *subject) end() {
	if s.process == nil {
		return
	}
	if err := s.process.Stop(5 * time.Second); err != nil {
		s.in.Log.Warn("stopping the runtime", "err", err)
	}
	if err := supervisor.EndMarked(s.root); err != nil {
		s.in.Log.Warn("ending what the runtime left running", "err", err)
	}
	if err := mount.DetachTree(s.in.TempDir); err != nil && !errors.Is(err, mount.ErrUnsupported) {
		s.in.Log.Warn("detaching what the runtime left mounted", "err", err)
	}
}

// sandbox returns the config of a sandbox as the kubelet makes it for an
// ordinary Pod, on the host's network, and with its name, where the runtime has
// no other: runtimes refuse a name for the host.
func (s *subject) sandbox(name string) *runtimeapi.PodSandboxConfig {
	network, hostname := runtimeapi.NamespaceMode_POD, name
	if !s.network {
		network, hostname = runtimeapi.NamespaceMode_NODE, ""
	}
	return &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: name, Namespace: "conformance", Uid: s.mark + "-" + name},
		Hostname:     hostname,
		Labels:       map[string]string{label: s.mark, "name": name},
		LogDirectory: s.logs,
		Linux: &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
			NamespaceOptions: &runtimeapi.NamespaceOption{Network: network, Pid: runtimeapi.NamespaceMode_CONTAINER},
		}},
	}
}

func (s *subject) run(ctx context.Context, config *runtimeapi.PodSandboxConfig) (id string, err error) {
	resp, err := s.Runtime.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: config})
	if err != nil {
		return "", fmt.Errorf("RunPodSandbox: %w", err)
	}
	if resp.GetPodSandboxId() == "" {
		return "", errors.New("RunPodSandbox answered with an empty id")
	}
	return resp.GetPodSandboxId(), nil
}

// list returns the sandboxes that this rule made.
func (s *subject) list(ctx context.Context) ([]*runtimeapi.PodSandbox, error) {
	resp, err := s.Runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return nil, fmt.Errorf("ListPodSandbox: %w", err)
	}
	var mine []*runtimeapi.PodSandbox
	for _, item := range resp.GetItems() {
		if strings.HasPrefix(item.GetMetadata().GetUid(), s.mark) {
			mine = append(mine, item)
		}
	}
	return mine, nil
}

func (s *subject) stop(ctx context.Context, id string) error {
	if _, err := s.Runtime.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: id}); err != nil {
		return fmt.Errorf("StopPodSandbox: %w", err)
	}
	return nil
}

// remove stops and removes a sandbox as the kubelet does.
func (s *subject) remove(ctx context.Context, id string) error {
	if err := s.stop(ctx, id); err != nil {
		return err
	}
	if _, err := s.Runtime.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: id}); err != nil {
		return fmt.Errorf("RemovePodSandbox: %w", err)
	}
	return nil
}

// absent returns nil when the runtime says that the sandbox is not there.
func (s *subject) absent(ctx context.Context, id string) error {
	_, err := s.Runtime.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: id})
	if err == nil {
		return fmt.Errorf("PodSandboxStatus of the removed sandbox %q succeeded, want an error", id)
	}
	if errors.Is(err, cri.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("PodSandboxStatus: %w", err)
	}
	items, err := s.list(ctx)
	if err != nil {
		return err
	}
	for _, item := range items {
		if item.GetId() == id {
			return fmt.Errorf("the removed sandbox %q is still in ListPodSandbox", id)
		}
	}
	return nil
}
