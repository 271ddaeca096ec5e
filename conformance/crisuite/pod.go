package crisuite

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri"
	"github.com/nodekit-project/nodekit/cri/log"
)

const (
	// endTime is how long a container may be shown as running after it was killed or, if
	// its program exits at once, after its start.
	endTime = 5 * time.Second
	// logTime is how late the last line may be written after the exit is known.
	logTime = time.Second
	// forever is the program of a container that has nothing to do.
	forever = "sleep forever"
)

// pod is a sandbox that a rule created.
type pod struct {
	s      *subject
	id     string
	config *runtimeapi.PodSandboxConfig
	boxes  int
}

// box is a container that a rule created.
type box struct {
	*pod
	id     string
	config *runtimeapi.ContainerConfig
	seen   atomic.Bool // a process of it was seen
}

type (
	podEdit = func(*runtimeapi.PodSandboxConfig)
	edit    = func(*runtimeapi.ContainerConfig)
)

// pod runs a sandbox.
func (s *subject) pod(ctx context.Context, edits ...podEdit) (*pod, error) {
	p := &pod{s: s, config: s.sandbox(fmt.Sprintf("pod%d", s.pods.Add(1)))}
	for _, e := range edits {
		e(p.config)
	}
	var err error
	p.id, err = s.run(ctx, p.config)
	return p, err
}

// describe returns the config of another container of the Pod, as the kubelet writes it.
// verb is what podtool does in it.
func (p *pod) describe(ctx context.Context, verb string, edits ...edit) (*runtimeapi.ContainerConfig, error) {
	image, err := p.s.present(ctx, mainImage)
	if err != nil {
		return nil, err
	}
	p.boxes++
	name := fmt.Sprintf("box%d", p.boxes)
	c := &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: name},
		Image:    &runtimeapi.ImageSpec{Image: image, UserSpecifiedImage: image},
		Command:  append([]string{p.s.tool()}, strings.Fields(verb)...),
		Envs:     []*runtimeapi.KeyValue{{Key: "SUITE_MARK", Value: []byte(p.s.mark + "-" + p.config.GetMetadata().GetName() + "-" + name + ".")}},
		Labels:   map[string]string{label: p.s.mark, "name": name},
		LogPath:  p.config.GetMetadata().GetName() + "-" + name + ".log",
		Linux: &runtimeapi.LinuxContainerConfig{
			Resources: &runtimeapi.LinuxContainerResources{},
			SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
				NamespaceOptions: p.config.GetLinux().GetSecurityContext().GetNamespaceOptions(),
			},
		},
	}
	for _, e := range edits {
		e(c)
	}
	return c, nil
}

// tool returns the path of podtool in containers.
func (s *subject) tool() string {
	if s.target.Tool != "" {
		return s.target.Tool
	}
	return toolPath
}

// create creates a container in the Pod.
func (p *pod) create(ctx context.Context, verb string, edits ...edit) (*box, error) {
	config, err := p.describe(ctx, verb, edits...)
	if err != nil {
		return nil, err
	}
	return p.createAs(ctx, config)
}

func (p *pod) createAs(ctx context.Context, config *runtimeapi.ContainerConfig) (*box, error) {
	resp, err := p.s.Runtime.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: p.id, Config: config, SandboxConfig: p.config})
	if err != nil {
		return nil, fmt.Errorf("CreateContainer: %w", err)
	}
	if resp.GetContainerId() == "" {
		return nil, errors.New("CreateContainer answered with an empty id")
	}
	p.s.in.Target.house.note(p.s.rule, short(resp.GetContainerId()))
	return &box{pod: p, id: resp.GetContainerId(), config: config}, nil
}

// start creates a container in the Pod and starts it.
func (p *pod) start(ctx context.Context, verb string, edits ...edit) (*box, error) {
	b, err := p.create(ctx, verb, edits...)
	if err != nil {
		return nil, err
	}
	return b, b.start(ctx)
}

// box creates a Pod with one container and starts it.
func (s *subject) box(ctx context.Context, verb string, edits ...edit) (*box, error) {
	p, err := s.pod(ctx)
	if err != nil {
		return nil, err
	}
	return p.start(ctx, verb, edits...)
}

// prints runs a container to its end and returns what it printed to stdout. A
// program that fails is an error.
func (s *subject) prints(ctx context.Context, verb string, edits ...edit) (string, error) {
	p, err := s.pod(ctx)
	if err != nil {
		return "", err
	}
	return p.prints(ctx, verb, edits...)
}

func (p *pod) prints(ctx context.Context, verb string, edits ...edit) (string, error) {
	b, err := p.start(ctx, verb, append(slices.Clip(edits), ending)...)
	if err != nil {
		return "", err
	}
	st, err := b.exited(ctx)
	if err != nil {
		return "", err
	}
	stdout, stderr, err := b.output(ctx)
	if errors.Is(err, errNoEnd) && st.GetExitCode() != 0 {
		err = nil // it was killed, or never ran
	}
	if err != nil {
		return "", err
	}
	if st.GetExitCode() != 0 {
		return stdout, failedError{append(b.config.GetCommand(), b.config.GetArgs()...), st.GetExitCode(), stderr}
	}
	return stdout, nil
}

// failedError is the exit of a program that failed.
type failedError struct {
	verb   []string
	code   int32
	stderr string
}

func (e failedError) Error() string {
	return fmt.Sprintf("in the container %q ended with code %d: %s", e.verb, e.code, strings.TrimSpace(e.stderr))
}

// refused returns nil when a program in a container failed with an error that contains
// the text, or when the container could not be created; anything else is an error.
func refused(what string, err error, texts ...string) error {
	var failed failedError
	switch {
	case err == nil:
		return fmt.Errorf("%s succeeded", what)
	case !errors.As(err, &failed):
		return err
	}
	for _, text := range texts {
		if strings.Contains(failed.stderr, text) {
			return nil
		}
	}
	return fmt.Errorf("%s: %w, want one of %q", what, err, texts)
}

// runsNot returns nil when a container fails to run because of what is wrong with it: a
// container without that runs.
func (s *subject) runsNot(ctx context.Context, what string, wrong edit) error {
	if _, err := s.prints(ctx, "echo ran"); err != nil {
		return fmt.Errorf("a container without what is wrong: %w", err)
	}
	if _, err := s.prints(ctx, "echo ran", wrong); err == nil {
		return fmt.Errorf("a container %s ran", what)
	}
	return nil
}

func (b *box) start(ctx context.Context) error {
	if _, err := b.s.Runtime.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: b.id}); err != nil {
		return fmt.Errorf("StartContainer: %w", err)
	}
	return nil
}

func (b *box) stop(ctx context.Context, grace int64) error {
	if _, err := b.s.Runtime.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: b.id, Timeout: grace}); err != nil {
		return fmt.Errorf("StopContainer: %w", err)
	}
	return nil
}

func (b *box) remove(ctx context.Context) error {
	if _, err := b.s.Runtime.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: b.id}); err != nil {
		return fmt.Errorf("RemoveContainer: %w", err)
	}
	return nil
}

func (b *box) status(ctx context.Context) (*runtimeapi.ContainerStatus, error) {
	resp, err := b.s.Runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: b.id})
	if err != nil {
		return nil, fmt.Errorf("ContainerStatus: %w", err)
	}
	return resp.GetStatus(), nil
}

// in returns nil when the container's status shows the state.
func (b *box) in(ctx context.Context, want runtimeapi.ContainerState) error {
	st, err := b.status(ctx)
	if err == nil && st.GetState() != want {
		return fmt.Errorf("ContainerStatus shows %v, want %v", st.GetState(), want)
	}
	return err
}

// exited waits until the container is shown as exited.
func (b *box) exited(ctx context.Context) (*runtimeapi.ContainerStatus, error) {
	if err := until(ctx, endTime, func() error { return b.in(ctx, runtimeapi.ContainerState_CONTAINER_EXITED) }); err != nil {
		return nil, fmt.Errorf("%v after its program's end: %w", endTime, err)
	}
	return b.status(ctx)
}

// absent returns nil when the runtime says that the container does not exist.
func (b *box) absent(ctx context.Context) error {
	_, err := b.status(ctx)
	if err == nil {
		return errors.New("ContainerStatus of a removed container succeeded, want an error")
	}
	if errors.Is(err, cri.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	all, err := b.s.containers(ctx, nil)
	if err == nil && slices.ContainsFunc(all, func(c *runtimeapi.Container) bool { return c.GetId() == b.id }) {
		return fmt.Errorf("the removed container %q is still in ListContainers", b.id)
	}
	return err
}

func (b *box) logFile() string { return filepath.Join(b.s.logs, b.config.GetLogPath()) }

// endMark is the last line of both streams of a program whose output is waited for.
const endMark = "the-end-of-the-output"

// ending has podtool print the mark after everything else.
func ending(c *runtimeapi.ContainerConfig) {
	c.Envs = append(c.Envs, &runtimeapi.KeyValue{Key: "PODTOOL_END", Value: []byte(endMark)})
}

// errNoEnd is the error for a log without a program's end mark.
var errNoEnd = errors.New("the log does not have the last line that the program prints to each stream")

// output returns all that an exited container printed; the container must be created with
// ending. For a program that was killed the error is errNoEnd.
func (b *box) output(ctx context.Context) (stdout, stderr string, err error) {
	err = until(ctx, logTime, func() (err error) {
		if stdout, stderr, err = b.printed(); err != nil {
			return err
		}
		out, whole := strings.CutSuffix(stdout, endMark+"\n")
		errOut, both := strings.CutSuffix(stderr, endMark+"\n")
		if !whole || !both {
			return errNoEnd
		}
		stdout, stderr = out, errOut
		return nil
	})
	return stdout, stderr, err
}

// printed returns what the container's log has now.
func (b *box) printed() (stdout, stderr string, err error) {
	records, err := b.records()
	if err != nil {
		return "", "", err
	}
	var out, errOut strings.Builder
	for _, r := range records {
		to := &out
		if r.Stream == log.Stderr {
			to = &errOut
		}
		to.Write(r.Content)
		if !r.Partial {
			to.WriteByte('\n')
		}
	}
	return out.String(), errOut.String(), nil
}

// says waits for a text in the container's log.
func (b *box) says(ctx context.Context, text string) error {
	return until(ctx, endTime, func() error {
		var out bytes.Buffer
		if err := log.Read(ctx, b.logFile(), &out, &out, nil); err != nil {
			return err
		}
		if !strings.Contains(out.String(), text) {
			return fmt.Errorf("the container's log has no %q: %.200q", text, out.String())
		}
		return nil
	})
}

// exec runs podtool in the container and returns what it printed. A program that fails
// is an error.
func (b *box) exec(ctx context.Context, verb string) (string, error) {
	resp, err := b.execSync(ctx, verb, 0)
	if err != nil {
		return "", err
	}
	if resp.GetExitCode() != 0 {
		return "", failedError{strings.Fields(verb), resp.GetExitCode(), string(resp.GetStderr())}
	}
	return string(resp.GetStdout()), nil
}

func (b *box) execSync(ctx context.Context, verb string, timeout int64) (*runtimeapi.ExecSyncResponse, error) {
	cmd := append([]string{b.s.tool()}, strings.Fields(verb)...)
	resp, err := b.s.Runtime.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: b.id, Cmd: cmd, Timeout: timeout})
	if err != nil {
		return nil, fmt.Errorf("ExecSync of %q: %w", verb, err)
	}
	return resp, nil
}

// do gives podtool several steps.
func do(steps ...string) edit {
	return func(c *runtimeapi.ContainerConfig) {
		c.Command = append(c.Command[:1:1], append([]string{"do"}, steps...)...)
	}
}

// secure edits the container's security context.
func secure(change func(*runtimeapi.LinuxContainerSecurityContext)) edit {
	return func(c *runtimeapi.ContainerConfig) { change(c.GetLinux().GetSecurityContext()) }
}

// limit edits the container's resources.
func limit(change func(*runtimeapi.LinuxContainerResources)) edit {
	return func(c *runtimeapi.ContainerConfig) { change(c.GetLinux().GetResources()) }
}

// namespaces edits a Pod's namespaces.
func namespaces(change func(*runtimeapi.NamespaceOption)) podEdit {
	return func(c *runtimeapi.PodSandboxConfig) { change(c.GetLinux().GetSecurityContext().GetNamespaceOptions()) }
}

// contains allows a runtime to add labels and annotations of its own.
func contains(have, want map[string]string) bool {
	for k := range maps.Keys(want) {
		if v, ok := have[k]; !ok || v != want[k] {
			return false
		}
	}
	return true
}
