package crisuite

import (
	"context"
	"errors"
	"fmt"
	"maps"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/conformance"
)

func runtimeRules() []conformance.Rule[Target] {
	return []conformance.Rule[Target]{{
		ID: "CRI-STATUS-001", Level: conformance.Must, Tier: conformance.Quick,
		Title: "says who it is and reports both required conditions",
		Spec:  spec("RuntimeStatus", "The required conditions include: RuntimeReady [...], NetworkReady"),
		Check: with(checkStatus),
	}}
}

func checkStatus(ctx context.Context, s *subject) error {
	v, err := s.Runtime.Version(ctx, &runtimeapi.VersionRequest{})
	if err != nil {
		return fmt.Errorf("Version: %w", err)
	}
	if v.GetVersion() == "" || v.GetRuntimeName() == "" || v.GetRuntimeVersion() == "" || v.GetRuntimeApiVersion() == "" {
		return fmt.Errorf("Version left a field empty: %v", v)
	}
	status, err := s.Runtime.Status(ctx, &runtimeapi.StatusRequest{})
	if err != nil {
		return fmt.Errorf("Status: %w", err)
	}
	have := map[string]bool{}
	for _, c := range status.GetStatus().GetConditions() {
		have[c.GetType()] = true
	}
	if !have[runtimeapi.RuntimeReady] || !have[runtimeapi.NetworkReady] {
		return fmt.Errorf("Status reports the conditions %v, want RuntimeReady and NetworkReady among them", status.GetStatus().GetConditions())
	}
	if !condition(status, runtimeapi.RuntimeReady) {
		return errors.New("RuntimeReady is false, and without it nothing else can be tested")
	}
	return nil
}

func sandboxRules() []conformance.Rule[Target] {
	return []conformance.Rule[Target]{{
		ID: "CRI-SBX-001", Level: conformance.Must, Tier: conformance.Quick,
		Title: "stops and removes a sandbox again without an error",
		Spec: spec("StopPodSandbox, RemovePodSandbox", "This call is idempotent, and must not return an error if all relevant resources "+
			"have already been reclaimed / if the sandbox has already been removed."),
		Check: with(checkIdempotent),
	}, {
		ID: "CRI-SBX-002", Level: conformance.Must, Tier: conformance.Quick,
		Title: "answers RunPodSandbox with a ready sandbox that has the metadata, labels and annotations it was given",
		Spec:  spec("RunPodSandbox", "Runtimes must ensure the sandbox is in the ready state on success."),
		Check: with(checkReady),
	}, {
		ID: "CRI-SBX-003", Level: conformance.Must, Tier: conformance.Quick,
		Title: "combines the fields of a sandbox filter with AND",
		Spec:  spec("PodSandboxFilter", "PodSandboxFilter is used to filter a list of PodSandboxes. All those fields are combined with 'AND'"),
		Check: with(checkFilter),
	}, {
		ID: "CRI-SBX-004", Level: conformance.Should, Tier: conformance.Quick,
		Title: "rejects an unknown runtime handler",
		Spec:  spec("RunPodSandboxRequest", "If the runtime handler is unknown, this request should be rejected."),
		Check: with(checkHandler),
	}, {
		ID: "CRI-SBX-005", Level: conformance.Must, Tier: conformance.Quick,
		Title: "stops a sandbox that has been removed without an error",
		Spec: spec("StopPodSandbox", "This call is idempotent, and must not return an error if all relevant resources have already been reclaimed. "+
			"[...] Hence, multiple StopPodSandbox calls are expected."),
		Check: with(checkStopRemoved),
	}}
}

func checkIdempotent(ctx context.Context, s *subject) error {
	id, err := s.run(ctx, s.sandbox("again"))
	if err != nil {
		return err
	}
	for i := range 3 {
		if err := s.stop(ctx, id); err != nil {
			return fmt.Errorf("call %d: %w", i+1, err)
		}
	}
	for i := range 3 {
		if _, err := s.Runtime.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: id}); err != nil {
			return fmt.Errorf("call %d: RemovePodSandbox: %w", i+1, err)
		}
	}
	return s.absent(ctx, id)
}

func checkStopRemoved(ctx context.Context, s *subject) error {
	id, err := s.run(ctx, s.sandbox("removed"))
	if err != nil {
		return err
	}
	if err := s.remove(ctx, id); err != nil {
		return err
	}
	if err := s.stop(ctx, id); err != nil {
		return fmt.Errorf("for a sandbox that has been removed: %w", err)
	}
	return nil
}

func checkReady(ctx context.Context, s *subject) error {
	config := s.sandbox("ready")
	config.Annotations = map[string]string{"conformance.nodekit.dev/odd": "ünï, = \"quoted\"\n second line"}
	id, err := s.run(ctx, config)
	if err != nil {
		return err
	}
	resp, err := s.Runtime.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: id})
	if err != nil {
		return fmt.Errorf("PodSandboxStatus: %w", err)
	}
	st := resp.GetStatus()
	if err := sameSandbox(config, st.GetMetadata(), st.GetLabels(), st.GetAnnotations()); err != nil {
		return fmt.Errorf("PodSandboxStatus: %w", err)
	}
	if st.GetId() != id || st.GetState() != runtimeapi.PodSandboxState_SANDBOX_READY || st.GetCreatedAt() == 0 {
		return fmt.Errorf("PodSandboxStatus: id %q, state %v, created at %d; want id %q, ready, and a time", st.GetId(), st.GetState(), st.GetCreatedAt(), id)
	}
	items, err := s.list(ctx)
	if err != nil {
		return err
	}
	if len(items) != 1 || items[0].GetId() != id || items[0].GetState() != runtimeapi.PodSandboxState_SANDBOX_READY {
		return fmt.Errorf("ListPodSandbox shows %v, want the one ready sandbox %q", items, id)
	}
	if err := sameSandbox(config, items[0].GetMetadata(), items[0].GetLabels(), items[0].GetAnnotations()); err != nil {
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

func contains(have, want map[string]string) bool {
	for k := range maps.Keys(want) {
		if v, ok := have[k]; !ok || v != want[k] {
			return false
		}
	}
	return true
}

func checkFilter(ctx context.Context, s *subject) error {
	one, err := s.run(ctx, s.sandbox("one"))
	if err != nil {
		return err
	}
	two, err := s.run(ctx, s.sandbox("two"))
	if err != nil {
		return err
	}
	if err := s.stop(ctx, two); err != nil {
		return err
	}
	ready := &runtimeapi.PodSandboxStateValue{State: runtimeapi.PodSandboxState_SANDBOX_READY}
	mine := map[string]string{label: s.mark}
	for _, c := range []struct {
		filter *runtimeapi.PodSandboxFilter
		want   []string
	}{
		{&runtimeapi.PodSandboxFilter{LabelSelector: mine}, []string{one, two}},
		{&runtimeapi.PodSandboxFilter{LabelSelector: mine, State: ready}, []string{one}},
		{&runtimeapi.PodSandboxFilter{Id: two}, []string{two}},
		{&runtimeapi.PodSandboxFilter{Id: two, State: ready}, nil},
		{&runtimeapi.PodSandboxFilter{Id: one, LabelSelector: map[string]string{label: s.mark, "name": "two"}}, nil},
	} {
		resp, err := s.Runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{Filter: c.filter})
		if err != nil {
			return fmt.Errorf("ListPodSandbox: %w", err)
		}
		got := map[string]bool{}
		for _, item := range resp.GetItems() {
			got[item.GetId()] = true
		}
		ok := len(resp.GetItems()) == len(c.want)
		for _, id := range c.want {
			ok = ok && got[id]
		}
		if !ok {
			return fmt.Errorf("ListPodSandbox with filter %v shows %d sandboxes, want exactly %q", c.filter, len(resp.GetItems()), c.want)
		}
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
