package crisuite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/conformance"
	"github.com/nodekit-project/nodekit/cri"
	"github.com/nodekit-project/nodekit/internal/mount"
	"github.com/nodekit-project/nodekit/internal/rpc"
)

const (
	// closeTime bounds the removal of what a rule created.
	closeTime = 15 * time.Second
	// label is on every sandbox that the suite creates; its value is the rule run's mark.
	label = "conformance.nodekit.dev/run"
	// poll is the interval for polling what happens by itself.
	poll = 5 * time.Millisecond
)

// subject is a runtime while one rule tests it.
type subject struct {
	*runtime
	in   *input
	rule string
	logs string // the log directory of all sandboxes
	host bool   // Pods are on the host's network
	mark string // in the names of all that the rule creates
	pods atomic.Int64
	// detach are directories that the rule made into mounts.
	detach []string
	files  []string // files and directories outside of the rule's own directory, in order of removal
	// cgroups are those that the rule created for Pods.
	cgroups []string
	plugins []*plugin    // that the rule has connected
	turns   atomic.Int64 // counts what they were told
}

func newSubject(_ context.Context, rule string, in *input, rt *runtime) (*subject, error) {
	s := &subject{runtime: rt, in: in, rule: rule, mark: "nk" + strconv.FormatUint(in.Rand.Uint64(), 36)}
	s.logs = filepath.Join(in.TempDir, "logs")
	s.host = !rt.network || slices.ContainsFunc(indifferent(), func(area string) bool { return strings.HasPrefix(rule, area) })
	return s, os.Mkdir(s.logs, 0o755) // which the kubelet would create
}

// indifferent returns the areas of rules to which a Pod's network makes no difference but
// time: creating one takes longer than creating a container.
func indifferent() []string {
	return []string{
		"CRI-CODE", "CRI-CONF", "CRI-CTR", "CRI-DEV", "CRI-EVENT", "CRI-EXEC", "CRI-IMG", "CRI-LIST", "CRI-LOG", "CRI-MOUNT", "CRI-NRI", "CRI-PULL", "CRI-RES",
		"CRI-SEC", "CRI-STATS", "CRI-STOP", "CRI-STREAM", "CRI-USER",
	}
}

// close removes what the rule created. It only logs what cannot be removed, because
// another rule reports that.
func (s *subject) close(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTime)
	defer cancel()
	for _, p := range s.plugins {
		p.close()
	}
	if err := s.removeAll(ctx); err != nil {
		s.in.Log.Warn("removing what the rule made", "err", err)
	}
	for _, dir := range s.detach {
		if err := mount.DetachTree(dir); err != nil {
			s.in.Log.Warn("detaching what the rule mounted", "err", err)
		}
	}
	for _, file := range s.files {
		_ = os.Remove(file) // the rule may have failed before it created the file
	}
	for _, path := range s.cgroups {
		if err := removeCgroup(path); err != nil {
			s.in.Log.Warn("removing the rule's cgroup", "err", err)
		}
	}
}

func (s *subject) removeAll(ctx context.Context) error {
	items, err := s.list(ctx)
	errs := []error{err}
	for _, item := range items {
		errs = append(errs, s.remove(ctx, item.GetId()))
	}
	return errors.Join(errs...)
}

// sandbox returns the config of a sandbox as the kubelet writes it for an ordinary Pod,
// or for one on the host's network if the rule or the runtime has no other. The latter
// has no hostname, because runtimes refuse one on the host's network.
func (s *subject) sandbox(name string) *runtimeapi.PodSandboxConfig {
	network, hostname := runtimeapi.NamespaceMode_POD, name
	if s.host {
		network, hostname = runtimeapi.NamespaceMode_NODE, ""
	}
	return &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: name, Namespace: "conformance", Uid: s.mark + "-" + name},
		Hostname:     hostname,
		Labels:       map[string]string{label: s.mark, "name": name},
		Annotations:  map[string]string{"conformance.nodekit.dev/rule": s.rule},
		LogDirectory: s.logs,
		Linux: &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
			NamespaceOptions: &runtimeapi.NamespaceOption{Network: network, Pid: runtimeapi.NamespaceMode_CONTAINER},
		}},
	}
}

func (s *subject) run(ctx context.Context, config *runtimeapi.PodSandboxConfig) (id string, err error) {
	s.in.Target.house.note(s.rule, config.GetMetadata().GetUid())
	resp, err := s.Runtime.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: config})
	if err != nil {
		return "", fmt.Errorf("RunPodSandbox: %w", err)
	}
	if resp.GetPodSandboxId() == "" {
		return "", errors.New("RunPodSandbox answered with an empty id")
	}
	s.in.Target.house.note(s.rule, short(resp.GetPodSandboxId()))
	return resp.GetPodSandboxId(), nil
}

// list returns the sandboxes that this rule created.
func (s *subject) list(ctx context.Context) ([]*runtimeapi.PodSandbox, error) {
	resp, err := s.Runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return nil, fmt.Errorf("ListPodSandbox: %w", err)
	}
	return slices.DeleteFunc(resp.GetItems(), func(item *runtimeapi.PodSandbox) bool {
		return !strings.HasPrefix(item.GetMetadata().GetUid(), s.mark)
	}), nil
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

func (s *subject) sandboxStatus(ctx context.Context, id string) (*runtimeapi.PodSandboxStatus, error) {
	resp, err := s.Runtime.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: id})
	if err != nil {
		return nil, fmt.Errorf("PodSandboxStatus: %w", err)
	}
	return resp.GetStatus(), nil
}

// absent returns nil when the runtime says that the sandbox does not exist.
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

// present makes sure that the runtime has one of the suite's images, and returns its
// name.
func (s *subject) present(ctx context.Context, image string) (string, error) {
	if s.target.Image != "" {
		return s.target.Image, nil
	}
	ref := s.images.ref(image)
	s.pullOnce.Lock()
	defer s.pullOnce.Unlock()
	if s.pulled[ref] {
		return ref, nil
	}
	if !slices.Contains(s.target.Lacks, Pull) {
		if _, err := s.pull(ctx, ref); err != nil {
			return "", err
		}
	}
	s.pulled[ref] = true
	return ref, nil
}

// pull pulls an image and returns its id.
func (s *subject) pull(ctx context.Context, ref string) (id string, err error) {
	resp, err := s.Images.PullImage(ctx, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: ref}})
	if err != nil {
		return "", fmt.Errorf("PullImage of %q: %w", ref, err)
	}
	return resp.GetImageRef(), nil
}

// until calls look repeatedly until it returns nil or the time is up; then it returns the
// last error of look.
func until(ctx context.Context, patience time.Duration, look func() error) error {
	for late := time.Now().Add(patience); ; time.Sleep(poll) {
		err := look()
		if err == nil || time.Now().After(late) || ctx.Err() != nil {
			return err
		}
	}
}

// unimplemented returns NotApplicable for Unimplemented, the answer to a call that a
// runtime may omit.
func unimplemented(call string, err error) error {
	if err = rpc.FromStatus(err); errors.Is(err, cri.ErrUnimplemented) { // streams return a bare status
		return conformance.NotApplicable("the runtime does not implement %s", call)
	}
	return fmt.Errorf("%s: %w", call, err)
}

// short returns the part of an id for names of limited length.
func short(id string) string { return id[:min(len(id), 12)] }
