package crisuite

import (
	"context"
	"errors"
	"fmt"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	stopSentence  = "This call is idempotent, and must not return an error if all relevant resources have already been reclaimed."
	identSentence = "This information will uniquely identify the sandbox, and the runtime should leverage this to ensure correct operation."
)

func sandboxRules() []rule {
	return []rule{
		must("CRI-SBX-001", "stops and removes a sandbox again without an error",
			"StopPodSandbox, RemovePodSandbox", stopSentence+" [...] This call is idempotent, and must not return an error if the sandbox has already been removed.", checkIdempotent),
		must("CRI-SBX-002", "answers RunPodSandbox with a ready sandbox that has the metadata, labels and annotations it was given",
			"RunPodSandbox", "Runtimes must ensure the sandbox is in the ready state on success.", checkReady),
		must("CRI-SBX-003", "combines the fields of a sandbox filter with AND",
			"PodSandboxFilter", "PodSandboxFilter is used to filter a list of PodSandboxes. All those fields are combined with 'AND'", checkFilter),
		should("CRI-SBX-004", "rejects an unknown runtime handler",
			"RunPodSandboxRequest", "If the runtime handler is unknown, this request should be rejected.", checkHandler),
		must("CRI-SBX-005", "stops a sandbox that has been removed without an error",
			"StopPodSandbox", stopSentence+" [...] Hence, multiple StopPodSandbox calls are expected.", checkStopRemoved),
		relied("CRI-SBX-006", "stops and removes a sandbox that never was without an error",
			"container GC", "The kubelet's garbage collection gives up on a Pod for any error of StopPodSandbox and RemovePodSandbox, also for one that says that there is no such sandbox.", checkStopUnknown),
		relied("CRI-SBX-007", "shows a stopped sandbox as not ready until it is removed",
			"killPod", "The kubelet takes a Pod for down when none of its sandboxes is ready, and removes what it finds so.", checkNotReady),
		must("CRI-SBX-008", "ends the containers of a sandbox that is stopped",
			"StopPodSandbox", "If there are any running containers in the sandbox, they must be forcibly terminated.", checkStopEnds, Containers),
		must("CRI-SBX-009", "removes a sandbox with running containers, and them with it",
			"RemovePodSandbox", "If there are any running containers in the sandbox, they must be forcibly terminated and removed.", checkRemoveRunning, Containers),
		relied("CRI-SBX-010", "makes sandboxes of one Pod with different attempts side by side",
			"SyncPod", "The kubelet makes the next sandbox of a Pod with the attempt counted up while the one before is still there.", checkAttempts),
		relied("CRI-SBX-011", "says when a sandbox was made, in nanoseconds, and never twice differently",
			"PodSandboxStatus", "The kubelet's client refuses a status without an id, a name, a namespace, a uid or a time of creation; which sandbox is the newest it takes from that time.", checkCreatedAt),
		should("CRI-SBX-012", "makes no second sandbox for a request that is repeated",
			"PodSandboxConfig", identSentence, checkRepeatedRun),
		must("CRI-SBX-013", "does not alter annotations, however odd",
			"PodSandboxConfig", "Annotations MUST NOT be altered by the runtime; the annotations stored here MUST be returned in the PodSandboxStatus associated with the pod this PodSandboxConfig creates.", checkAnnotations),
		facto("CRI-SBX-014", "makes no container in a stopped sandbox",
			"killPod", "A container that is made while its Pod is taken down would be left behind.", checkCreateInStopped, Containers),
		facto("CRI-SBX-015", "takes an update of a Pod's resources",
			"in-place resize", "The kubelet tells the runtime of a resized Pod behind the change of its cgroup.", checkUpdateSandbox, Resources),
		should("CRI-SBX-016", "gives extra information of a sandbox only to those who ask for it",
			"PodSandboxStatusResponse", "It should only be returned non-empty when Verbose is true.", checkSandboxInfo),
	}
}

func checkIdempotent(ctx context.Context, s *subject) error {
	p, err := s.pod(ctx)
	if err != nil {
		return err
	}
	for i := range 3 {
		if err := s.stop(ctx, p.id); err != nil {
			return fmt.Errorf("call %d: %w", i+1, err)
		}
	}
	for i := range 3 {
		if _, err := s.Runtime.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: p.id}); err != nil {
			return fmt.Errorf("call %d: RemovePodSandbox: %w", i+1, err)
		}
	}
	return s.absent(ctx, p.id)
}

func checkStopRemoved(ctx context.Context, s *subject) error {
	p, err := s.pod(ctx)
	if err != nil {
		return err
	}
	if err := s.remove(ctx, p.id); err != nil {
		return err
	}
	if err := s.stop(ctx, p.id); err != nil {
		return fmt.Errorf("for a sandbox that has been removed: %w", err)
	}
	return nil
}

func checkStopUnknown(ctx context.Context, s *subject) error {
	if err := s.remove(ctx, unknownID); err != nil {
		return fmt.Errorf("of an id that never was: %w", err)
	}
	return nil
}

func checkReady(ctx context.Context, s *subject) error {
	p, err := s.pod(ctx)
	if err != nil {
		return err
	}
	st, err := s.sandboxStatus(ctx, p.id)
	if err != nil {
		return err
	}
	if err := sameSandbox(p.config, st.GetMetadata(), st.GetLabels(), st.GetAnnotations()); err != nil {
		return fmt.Errorf("PodSandboxStatus: %w", err)
	}
	if st.GetId() != p.id || st.GetState() != runtimeapi.PodSandboxState_SANDBOX_READY {
		return fmt.Errorf("PodSandboxStatus: id %q, state %v; want id %q, ready", st.GetId(), st.GetState(), p.id)
	}
	items, err := s.list(ctx)
	if err != nil {
		return err
	}
	if len(items) != 1 || items[0].GetId() != p.id || items[0].GetState() != runtimeapi.PodSandboxState_SANDBOX_READY {
		return fmt.Errorf("ListPodSandbox shows %v, want the one ready sandbox %q", items, p.id)
	}
	if err := sameSandbox(p.config, items[0].GetMetadata(), items[0].GetLabels(), items[0].GetAnnotations()); err != nil {
		return fmt.Errorf("ListPodSandbox: %w", err)
	}
	return nil
}

// sameSandbox allows a runtime to add labels and annotations of its own.
func sameSandbox(config *runtimeapi.PodSandboxConfig, m *runtimeapi.PodSandboxMetadata, labels, annotations map[string]string) error {
	want := config.GetMetadata()
	if m.GetName() != want.GetName() || m.GetNamespace() != want.GetNamespace() || m.GetUid() != want.GetUid() || m.GetAttempt() != want.GetAttempt() {
		return fmt.Errorf("metadata %v, want %v", m, want)
	}
	if !contains(labels, config.GetLabels()) {
		return fmt.Errorf("labels %v, want %v", labels, config.GetLabels())
	}
	if !contains(annotations, config.GetAnnotations()) {
		return fmt.Errorf("annotations %q, want %q", annotations, config.GetAnnotations())
	}
	return nil
}

func checkAnnotations(ctx context.Context, s *subject) error {
	p, err := s.pod(ctx, func(c *runtimeapi.PodSandboxConfig) {
		c.Annotations = map[string]string{
			"conformance.nodekit.dev/odd": "ünï, = \"quoted\"\n second line", "empty": "", "not a key, of Kubernetes": "{}",
		}
	})
	if err != nil {
		return err
	}
	st, err := s.sandboxStatus(ctx, p.id)
	if err != nil {
		return err
	}
	return sameSandbox(p.config, st.GetMetadata(), st.GetLabels(), st.GetAnnotations())
}

func checkFilter(ctx context.Context, s *subject) error {
	one, err := s.pod(ctx)
	if err != nil {
		return err
	}
	two, err := s.pod(ctx)
	if err != nil {
		return err
	}
	if err := s.stop(ctx, two.id); err != nil {
		return err
	}
	ready := &runtimeapi.PodSandboxStateValue{State: runtimeapi.PodSandboxState_SANDBOX_READY}
	mine := map[string]string{label: s.mark}
	for _, c := range []struct {
		filter *runtimeapi.PodSandboxFilter
		want   []string
	}{
		{&runtimeapi.PodSandboxFilter{LabelSelector: mine}, []string{one.id, two.id}},
		{&runtimeapi.PodSandboxFilter{LabelSelector: mine, State: ready}, []string{one.id}},
		{&runtimeapi.PodSandboxFilter{Id: two.id}, []string{two.id}},
		{&runtimeapi.PodSandboxFilter{Id: two.id, State: ready}, nil},
		{&runtimeapi.PodSandboxFilter{Id: one.id, LabelSelector: map[string]string{label: s.mark, "name": "pod2"}}, nil},
	} {
		resp, err := s.Runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{Filter: c.filter})
		if err != nil {
			return fmt.Errorf("ListPodSandbox: %w", err)
		}
		if err := exactly(resp.GetItems(), c.want...); err != nil {
			return fmt.Errorf("ListPodSandbox with filter %v: %w", c.filter, err)
		}
	}
	return nil
}

// exactly returns nil when a list has exactly these ids, each once.
func exactly[T interface{ GetId() string }](items []T, want ...string) error {
	got := make([]string, len(items))
	for i, item := range items {
		got[i] = item.GetId()
	}
	if !sameSet(got, want) {
		return fmt.Errorf("the list has the ids %q, want exactly %q, in any order", got, want)
	}
	return nil
}

func checkHandler(ctx context.Context, s *subject) error {
	resp, err := s.Runtime.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{
		Config: s.sandbox("handler"), RuntimeHandler: s.mark + "-no-such-handler",
	})
	if err == nil {
		return fmt.Errorf("RunPodSandbox with an unknown runtime handler made sandbox %q, want an error", resp.GetPodSandboxId())
	}
	items, err := s.list(ctx)
	if err != nil {
		return err
	}
	if len(items) > 0 {
		return fmt.Errorf("RunPodSandbox with an unknown runtime handler failed and left %v", items)
	}
	return nil
}

func checkNotReady(ctx context.Context, s *subject) error {
	p, err := s.pod(ctx)
	if err != nil {
		return err
	}
	if err := s.stop(ctx, p.id); err != nil {
		return err
	}
	st, err := s.sandboxStatus(ctx, p.id)
	if err != nil {
		return fmt.Errorf("of a stopped sandbox: %w", err)
	}
	if st.GetState() != runtimeapi.PodSandboxState_SANDBOX_NOTREADY {
		return fmt.Errorf("a stopped sandbox is shown as %v, want NOTREADY", st.GetState())
	}
	items, err := s.list(ctx)
	if err == nil && (len(items) != 1 || items[0].GetState() != runtimeapi.PodSandboxState_SANDBOX_NOTREADY) {
		return fmt.Errorf("of a stopped sandbox ListPodSandbox shows %v, want it once, as NOTREADY", items)
	}
	return err
}

func checkStopEnds(ctx context.Context, s *subject) error {
	p, err := s.pod(ctx)
	if err != nil {
		return err
	}
	b, err := p.start(ctx, "ignore-term")
	if err == nil {
		err = b.witness(ctx)
	}
	if err != nil {
		return err
	}
	if err := s.stop(ctx, p.id); err != nil {
		return err
	}
	if err := b.in(ctx, runtimeapi.ContainerState_CONTAINER_EXITED); err != nil {
		return fmt.Errorf("after StopPodSandbox: %w", err)
	}
	return b.ended()
}

func checkRemoveRunning(ctx context.Context, s *subject) error {
	p, err := s.pod(ctx)
	if err != nil {
		return err
	}
	b, err := p.start(ctx, "ignore-term")
	if err == nil {
		err = b.witness(ctx)
	}
	if err != nil {
		return err
	}
	if _, err := s.Runtime.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: p.id}); err != nil {
		return fmt.Errorf("RemovePodSandbox with a running container: %w", err)
	}
	return errors.Join(s.absent(ctx, p.id), b.absent(ctx), b.ended())
}

func checkAttempts(ctx context.Context, s *subject) error {
	first, err := s.pod(ctx)
	if err != nil {
		return err
	}
	config := s.sandbox(first.config.GetMetadata().GetName())
	config.Metadata.Attempt = 1
	second, err := s.run(ctx, config)
	if err != nil {
		return fmt.Errorf("with attempt 1: %w", err)
	}
	if second == first.id {
		return fmt.Errorf("attempts 0 and 1 are both sandbox %q", second)
	}
	st, err := s.sandboxStatus(ctx, second)
	if err != nil {
		return err
	}
	if err := sameSandbox(config, st.GetMetadata(), st.GetLabels(), st.GetAnnotations()); err != nil {
		return fmt.Errorf("PodSandboxStatus: %w", err)
	}
	items, err := s.list(ctx)
	if err != nil {
		return err
	}
	for _, item := range items {
		if item.GetId() != second {
			continue
		}
		if err := sameSandbox(config, item.GetMetadata(), item.GetLabels(), item.GetAnnotations()); err != nil {
			return fmt.Errorf("ListPodSandbox: %w", err)
		}
	}
	return exactly(items, first.id, second)
}

func checkCreatedAt(ctx context.Context, s *subject) error {
	p, err := s.pod(ctx)
	if err != nil {
		return err
	}
	st, err := s.sandboxStatus(ctx, p.id)
	if err != nil {
		return err
	}
	items, err := s.list(ctx)
	if err != nil {
		return err
	}
	if len(items) != 1 || items[0].GetCreatedAt() != st.GetCreatedAt() {
		return fmt.Errorf("the status has %d as time of creation, and the list %v", st.GetCreatedAt(), items)
	}
	if err := recent(st.GetCreatedAt()); err != nil {
		return err
	}
	if err := s.stop(ctx, p.id); err != nil {
		return err
	}
	stopped, err := s.sandboxStatus(ctx, p.id)
	if err == nil && stopped.GetCreatedAt() != st.GetCreatedAt() {
		return fmt.Errorf("PodSandboxStatus has %d as time of creation, and %d when it is stopped", st.GetCreatedAt(), stopped.GetCreatedAt())
	}
	return err
}

func checkRepeatedRun(ctx context.Context, s *subject) error {
	config := s.sandbox("again")
	first, err := s.run(ctx, config)
	if err != nil {
		return err
	}
	second, err := s.run(ctx, config)
	if err == nil && second != first {
		return fmt.Errorf("the same RunPodSandbox made sandboxes %q and %q", first, second)
	}
	items, err := s.list(ctx)
	if err != nil {
		return err
	}
	return exactly(items, first)
}

func checkCreateInStopped(ctx context.Context, s *subject) error {
	p, err := s.pod(ctx)
	if err != nil {
		return err
	}
	if err := s.stop(ctx, p.id); err != nil {
		return err
	}
	if b, err := p.create(ctx, forever); err == nil {
		return fmt.Errorf("CreateContainer in a stopped sandbox made container %q, want an error", b.id)
	}
	return nil
}

func checkUpdateSandbox(ctx context.Context, s *subject) error {
	p, err := s.pod(ctx)
	if err != nil {
		return err
	}
	return p.limit(ctx, 512)
}

// limit tells the runtime the Pod's new CPU shares.
func (p *pod) limit(ctx context.Context, shares int64) error {
	_, err := p.s.Runtime.UpdatePodSandboxResources(ctx, &runtimeapi.UpdatePodSandboxResourcesRequest{
		PodSandboxId: p.id, Resources: &runtimeapi.LinuxContainerResources{CpuShares: shares},
	})
	if err != nil {
		return fmt.Errorf("UpdatePodSandboxResources: %w", err)
	}
	return nil
}

func checkSandboxInfo(ctx context.Context, s *subject) error {
	p, err := s.pod(ctx)
	if err != nil {
		return err
	}
	for _, verbose := range []bool{false, true} {
		resp, err := s.Runtime.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: p.id, Verbose: verbose})
		if err != nil {
			return fmt.Errorf("PodSandboxStatus, verbose %v: %w", verbose, err)
		}
		if !verbose && len(resp.GetInfo()) > 0 {
			return fmt.Errorf("PodSandboxStatus that is not verbose has the information %.200q", resp.GetInfo())
		}
		if err := isJSON(resp.GetInfo()); err != nil {
			return err
		}
	}
	return nil
}
