package crisuite

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri"
)

func containerRules() []rule {
	return []rule{
		must("CRI-CTR-001", "stops and removes a container again without an error",
			"StopContainer, RemoveContainer", "This call is idempotent, and must not return an error if the container has already been stopped. [...] This call is idempotent, and must not return an error if the container has already been removed.", checkContainerIdempotent, Containers),
		must("CRI-CTR-002", "reports a container as created, running and exited, and the exit code as it was",
			"ContainerStatus", "Exit code of the container. Only required when finished_at != 0. Default: 0.", checkExitCode, Containers),
		relied("CRI-CTR-003", "answers ContainerStatus with all that the kubelet's client demands",
			"ContainerStatus", "The kubelet's client refuses a status without an id, a name, a time of creation, an image and an image reference.", checkContainerStatus, Containers),
		must("CRI-CTR-004", "does not alter a container's annotations, and keeps its labels",
			"ContainerConfig", "Annotations MUST NOT be altered by the runtime; the annotations stored here MUST be returned in the ContainerStatus associated with the container this ContainerConfig creates.", checkContainerAnnotations, Containers),
		relied("CRI-CTR-005", "answers StartContainer of a container that never was with an error, and removes it without one",
			"container GC", "The kubelet's garbage collection repeats RemoveContainer until it succeeds, also for what has gone.", checkUnknownContainer, Containers),
		must("CRI-CTR-006", "removes a running container",
			"RemoveContainer", "If the container is running, the container must be forcibly removed.", checkRemoveRunningContainer, Containers),
		should("CRI-CTR-007", "makes no second container of one name and attempt in a sandbox",
			"ContainerMetadata", "Note that (name, attempt) is unique within a sandbox for the entire lifetime of the sandbox.", checkNameConflict, Containers),
		relied("CRI-CTR-008", "makes a container of the same name with the attempt counted up",
			"SyncPod", "The kubelet restarts a container as a new one with the attempt counted up, while the one before is still there for its log.", checkNextAttempt, Containers),
		relied("CRI-CTR-009", "reports as absolute path where the log is",
			"container GC", "The kubelet removes a container's log by ContainerStatus.log_path, before it removes the container.", checkLogPath, Containers),
		relied("CRI-CTR-010", "orders a container's times",
			"Pod status", "The kubelet reports startedAt and finishedAt of a container's state as ContainerStatus has them.", checkTimes, Containers),
		must("CRI-CTR-011", "reports death by a signal as 128 and its number",
			"ContainerStatus", "Exit code of the container. Only required when finished_at != 0. Default: 0.", checkSignalled, Containers),
		should("CRI-CTR-012", "gives extra information of a container only to those who ask for it",
			"ContainerStatusResponse", "It should only be returned non-empty when Verbose is true.", checkContainerInfo, Containers),
		relied("CRI-CTR-013", "answers StartContainer of a program that is not there with an error, and not with a running container",
			"StartContainer", "The kubelet shows the error of CreateContainer or StartContainer as the container's reason to wait, and tries again.", checkNoProgram, Containers),
		facto("CRI-CTR-014", "starts a container once",
			"StartContainer", "A repeated StartContainer must not run the program a second time.", checkStartTwice, Containers, HostProcesses),
		relied("CRI-CTR-015", "shows an exit within a second",
			"PLEG", "The kubelet lists containers every second, and relies on the list for each container's state.", checkExitSeen, Containers),
		relied("CRI-CTR-016", "removes a container that was never started, and a sandbox with one",
			"container GC", "The kubelet's garbage collection removes every container that does not run, also one whose start failed or never came, and then its sandbox.", checkRemoveUnstarted, Containers),
	}
}

func checkContainerIdempotent(ctx context.Context, s *subject) error {
	b, err := s.box(ctx, forever)
	if err != nil {
		return err
	}
	for i := range 3 {
		if err := b.stop(ctx, 0); err != nil {
			return fmt.Errorf("call %d: %w", i+1, err)
		}
	}
	if _, err := b.exited(ctx); err != nil {
		return err
	}
	for i := range 3 {
		if err := b.remove(ctx); err != nil {
			return fmt.Errorf("call %d: %w", i+1, err)
		}
	}
	return b.absent(ctx)
}

func checkExitCode(ctx context.Context, s *subject) error {
	p, err := s.pod(ctx)
	if err != nil {
		return err
	}
	b, err := p.create(ctx, "exit 7")
	if err != nil {
		return err
	}
	if err := b.in(ctx, runtimeapi.ContainerState_CONTAINER_CREATED); err != nil {
		return fmt.Errorf("after CreateContainer: %w", err)
	}
	if err := b.start(ctx); err != nil {
		return err
	}
	st, err := b.exited(ctx)
	if err != nil {
		return err
	}
	if st.GetExitCode() != 7 {
		return fmt.Errorf("exit code %d, want 7, with which the program ends", st.GetExitCode())
	}
	running, err := p.start(ctx, forever)
	if err != nil {
		return err
	}
	return running.in(ctx, runtimeapi.ContainerState_CONTAINER_RUNNING)
}

func checkContainerStatus(ctx context.Context, s *subject) error {
	b, err := s.box(ctx, forever)
	if err != nil {
		return err
	}
	st, err := b.status(ctx)
	if err != nil {
		return err
	}
	if st.GetId() != b.id || st.GetMetadata().GetName() != b.config.GetMetadata().GetName() || st.GetMetadata().GetAttempt() != 0 {
		return fmt.Errorf("ContainerStatus: id %q, metadata %v; want %q and %v", st.GetId(), st.GetMetadata(), b.id, b.config.GetMetadata())
	}
	if st.GetImage().GetImage() == "" || st.GetImageRef() == "" {
		return fmt.Errorf("ContainerStatus: image %q, image ref %q; want both", st.GetImage().GetImage(), st.GetImageRef())
	}
	return errors.Join(recent(st.GetCreatedAt()), recent(st.GetStartedAt()))
}

func checkContainerAnnotations(ctx context.Context, s *subject) error {
	p, err := s.pod(ctx)
	if err != nil {
		return err
	}
	want := map[string]string{"odd.example.com/key": "ünï = \"quoted\"\n second line", "empty": ""}
	b, err := p.create(ctx, "exit 0", func(c *runtimeapi.ContainerConfig) { c.Annotations = want })
	if err != nil {
		return err
	}
	st, err := b.status(ctx)
	if err == nil {
		err = b.described(st)
	}
	if err != nil {
		return err
	}
	listed, err := s.containers(ctx, &runtimeapi.ContainerFilter{Id: b.id})
	if err != nil {
		return err
	}
	if len(listed) != 1 || !contains(listed[0].GetAnnotations(), want) || !contains(listed[0].GetLabels(), b.config.GetLabels()) {
		return fmt.Errorf("ListContainers shows %v, want the annotations %q and the labels %q", listed, want, b.config.GetLabels())
	}
	if err := b.start(ctx); err != nil {
		return err
	}
	if st, err = b.exited(ctx); err != nil {
		return err
	}
	if err := b.described(st); err != nil {
		return fmt.Errorf("of a container that has ended: %w", err)
	}
	return nil
}

// described returns nil when a status has the annotations and the labels of the config.
func (b *box) described(st *runtimeapi.ContainerStatus) error {
	if !contains(st.GetAnnotations(), b.config.GetAnnotations()) || !contains(st.GetLabels(), b.config.GetLabels()) {
		return fmt.Errorf("ContainerStatus: annotations %q, labels %q; want %q and %q", st.GetAnnotations(), st.GetLabels(), b.config.GetAnnotations(), b.config.GetLabels())
	}
	return nil
}

func (s *subject) containers(ctx context.Context, filter *runtimeapi.ContainerFilter) ([]*runtimeapi.Container, error) {
	resp, err := s.Runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: filter})
	if err != nil {
		return nil, fmt.Errorf("ListContainers: %w", err)
	}
	return resp.GetContainers(), nil
}

func checkUnknownContainer(ctx context.Context, s *subject) error {
	b := &box{pod: &pod{s: s}, id: unknownID}
	if err := b.start(ctx); err == nil {
		return errors.New("StartContainer of a container that never was succeeded")
	}
	if err := b.remove(ctx); err != nil {
		return fmt.Errorf("of a container that never was: %w", err)
	}
	return nil
}

func checkRemoveRunningContainer(ctx context.Context, s *subject) error {
	b, err := s.watched(ctx, "ignore-term")
	if err != nil {
		return err
	}
	if err := b.remove(ctx); err != nil {
		return fmt.Errorf("of a running container: %w", err)
	}
	return errors.Join(b.absent(ctx), b.ended())
}

func checkNameConflict(ctx context.Context, s *subject) error {
	p, err := s.pod(ctx)
	if err != nil {
		return err
	}
	first, err := p.create(ctx, forever)
	if err != nil {
		return err
	}
	if second, err := p.createAs(ctx, first.config); err == nil && second.id != first.id {
		return fmt.Errorf("the same name and attempt are containers %q and %q", first.id, second.id)
	}
	all, err := s.containers(ctx, &runtimeapi.ContainerFilter{PodSandboxId: p.id})
	if err != nil {
		return err
	}
	return exactly(all, first.id)
}

func checkNextAttempt(ctx context.Context, s *subject) error {
	p, err := s.pod(ctx)
	if err != nil {
		return err
	}
	first, err := p.start(ctx, "exit 1")
	if err != nil {
		return err
	}
	if _, err := first.exited(ctx); err != nil {
		return err
	}
	second, err := p.start(ctx, forever, func(c *runtimeapi.ContainerConfig) {
		c.Metadata = &runtimeapi.ContainerMetadata{Name: first.config.GetMetadata().GetName(), Attempt: 1}
	})
	if err != nil {
		return fmt.Errorf("with attempt 1: %w", err)
	}
	st, err := second.status(ctx)
	if err != nil {
		return err
	}
	if st.GetMetadata().GetAttempt() != 1 || second.id == first.id {
		return fmt.Errorf("the second container is %q with attempt %d, the first %q", second.id, st.GetMetadata().GetAttempt(), first.id)
	}
	all, err := s.containers(ctx, &runtimeapi.ContainerFilter{PodSandboxId: p.id})
	if err != nil {
		return err
	}
	for _, c := range all {
		if c.GetId() == second.id && c.GetMetadata().GetAttempt() != 1 {
			return fmt.Errorf("ListContainers shows the second container with attempt %d, want 1", c.GetMetadata().GetAttempt())
		}
	}
	return exactly(all, first.id, second.id)
}

func checkLogPath(ctx context.Context, s *subject) error {
	p, err := s.pod(ctx)
	if err != nil {
		return err
	}
	b, err := p.create(ctx, "exit 0")
	if err != nil {
		return err
	}
	st, err := b.status(ctx)
	if err == nil {
		err = b.logsTo(st)
	}
	if err != nil {
		return err
	}
	if err := b.start(ctx); err != nil {
		return err
	}
	if st, err = b.exited(ctx); err != nil {
		return err
	}
	if err := b.logsTo(st); err != nil {
		return fmt.Errorf("of a container that has ended: %w", err)
	}
	return nil
}

// logsTo returns nil when a status has the container's log path.
func (b *box) logsTo(st *runtimeapi.ContainerStatus) error {
	if st.GetLogPath() != b.logFile() || !filepath.IsAbs(st.GetLogPath()) {
		return fmt.Errorf("ContainerStatus: log path %q, want %q", st.GetLogPath(), b.logFile())
	}
	return nil
}

// checkTimes runs a program that lives for a while: if one ends at once, a runtime may see
// the end before the start, because it takes the two times in different places.
func checkTimes(ctx context.Context, s *subject) error {
	b, err := s.box(ctx, "sleep 200ms")
	if err != nil {
		return err
	}
	running, err := b.status(ctx)
	if err != nil {
		return err
	}
	if running.GetState() == runtimeapi.ContainerState_CONTAINER_RUNNING && running.GetFinishedAt() != 0 {
		return fmt.Errorf("a running container has finished at %d", running.GetFinishedAt())
	}
	st, err := b.exited(ctx)
	if err != nil {
		return err
	}
	for _, at := range []int64{st.GetCreatedAt(), st.GetStartedAt(), st.GetFinishedAt()} {
		if err := recent(at); err != nil {
			return err
		}
	}
	if st.GetCreatedAt() > st.GetStartedAt() || st.GetStartedAt() > st.GetFinishedAt() {
		return fmt.Errorf("created at %d, started at %d, finished at %d: want them in this order", st.GetCreatedAt(), st.GetStartedAt(), st.GetFinishedAt())
	}
	again, err := b.status(ctx)
	if err == nil && (again.GetCreatedAt() != st.GetCreatedAt() || again.GetStartedAt() != st.GetStartedAt() || again.GetFinishedAt() != st.GetFinishedAt()) {
		return fmt.Errorf("created at %d, started at %d, finished at %d, and then at %d, %d and %d: the times of what has ended stay",
			st.GetCreatedAt(), st.GetStartedAt(), st.GetFinishedAt(), again.GetCreatedAt(), again.GetStartedAt(), again.GetFinishedAt())
	}
	return err
}

func checkSignalled(ctx context.Context, s *subject) error {
	b, err := s.box(ctx, "ignore-term")
	if err != nil {
		return err
	}
	if err := b.stop(ctx, 0); err != nil {
		return err
	}
	st, err := b.exited(ctx)
	if err == nil && st.GetExitCode() != 137 {
		return fmt.Errorf("a container that was killed has exit code %d, want 137", st.GetExitCode())
	}
	return err
}

func checkContainerInfo(ctx context.Context, s *subject) error {
	b, err := s.box(ctx, forever)
	if err != nil {
		return err
	}
	for _, verbose := range []bool{false, true} {
		resp, err := s.Runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: b.id, Verbose: verbose})
		if err != nil {
			return fmt.Errorf("ContainerStatus, verbose %v: %w", verbose, err)
		}
		if !verbose && len(resp.GetInfo()) > 0 {
			return fmt.Errorf("ContainerStatus that is not verbose has the information %.200q", resp.GetInfo())
		}
		if err := isJSON(resp.GetInfo()); err != nil {
			return err
		}
	}
	return nil
}

func checkNoProgram(ctx context.Context, s *subject) error {
	p, err := s.pod(ctx)
	if err != nil {
		return err
	}
	b, err := p.create(ctx, forever, func(c *runtimeapi.ContainerConfig) { c.Command = []string{"/no/such/program"} })
	if err != nil {
		return nil
	}
	if err := b.start(ctx); err == nil {
		return errors.New("StartContainer of a program that is not there succeeded")
	}
	st, err := b.status(ctx)
	if errors.Is(err, cri.ErrNotFound) {
		return nil
	}
	if err == nil && st.GetState() == runtimeapi.ContainerState_CONTAINER_RUNNING {
		return errors.New("a container whose program is not there is shown as running")
	}
	return err
}

func checkStartTwice(ctx context.Context, s *subject) error {
	b, err := s.box(ctx, "do", do("echo started", forever))
	if err != nil {
		return err
	}
	if err := b.says(ctx, "started"); err != nil {
		return err
	}
	if err := b.witness(ctx); err != nil {
		return err
	}
	_ = b.start(ctx) // it may fail or succeed
	pids, err := b.pids()
	if err != nil {
		return err
	}
	if len(pids) != 1 {
		return fmt.Errorf("after a second StartContainer the processes %v run in the container, want one", pids)
	}
	return b.in(ctx, runtimeapi.ContainerState_CONTAINER_RUNNING)
}

func checkRemoveUnstarted(ctx context.Context, s *subject) error {
	p, err := s.pod(ctx)
	if err != nil {
		return err
	}
	b, err := p.create(ctx, forever)
	if err != nil {
		return err
	}
	if err := errors.Join(b.remove(ctx), b.absent(ctx)); err != nil {
		return fmt.Errorf("of a container that was never started: %w", err)
	}
	if b, err = p.create(ctx, forever); err != nil {
		return err
	}
	if err := errors.Join(s.remove(ctx, p.id), s.absent(ctx, p.id), b.absent(ctx)); err != nil {
		return fmt.Errorf("of a sandbox with a container that was never started: %w", err)
	}
	return nil
}

func checkExitSeen(ctx context.Context, s *subject) error {
	b, err := s.box(ctx, "sleep 100ms")
	if err != nil {
		return err
	}
	return until(ctx, time.Second, func() error {
		all, err := s.containers(ctx, &runtimeapi.ContainerFilter{PodSandboxId: b.pod.id})
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(all, func(c *runtimeapi.Container) bool {
			return c.GetId() == b.id && c.GetState() == runtimeapi.ContainerState_CONTAINER_EXITED
		}) {
			return fmt.Errorf("a second after its program's end ListContainers shows %v", all)
		}
		return nil
	})
}
