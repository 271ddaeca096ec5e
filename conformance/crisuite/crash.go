package crisuite

import (
	"context"
	"errors"
	"fmt"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri"
)

// crashRounds is how often a rule kills the runtime at a random moment.
const crashRounds = 5

func crashRules() []rule {
	return []rule{
		crash(must("CRI-CRASH-001", "knows a sandbox after a SIGKILL as the one that it was",
			"PodSandboxConfig", identSentence, nil), checkKilledAfterRun),
		crash(must("CRI-CRASH-002", "comes to one ready sandbox when RunPodSandbox is killed half way and tried again",
			"PodSandboxConfig", identSentence, nil), checkKilledDuringRun),
		crash(must("CRI-CRASH-003", "comes to one container when CreateContainer is killed half way and tried again",
			"ContainerConfig", "This information will uniquely identify the container, and the runtime should leverage this to ensure correct operation.", nil), checkKilledDuringCreate, Containers),
		crash(relied("CRI-CRASH-004", "runs a container's program once when StartContainer is killed half way",
			"SyncPod", "A kubelet finds the container as it is, and starts another one in its place if it has ended.", nil), checkKilledDuringStart, Containers),
		crash(must("CRI-CRASH-005", "ends a container when StopContainer is killed half way and tried again",
			"StopContainer", "This call is idempotent, and must not return an error if the container has already been stopped.", nil), checkKilledDuringStop, Containers),
		crash(must("CRI-CRASH-006", "removes a container when RemoveContainer is killed half way and tried again",
			"RemoveContainer", "This call is idempotent, and must not return an error if the container has already been removed.", nil), checkKilledDuringRemove, Containers),
		crash(must("CRI-CRASH-007", "stops a sandbox when StopPodSandbox is killed half way and tried again",
			"StopPodSandbox", stopSentence, nil), checkKilledDuringSandboxStop),
		crash(must("CRI-CRASH-008", "removes a sandbox when RemovePodSandbox is killed half way and tried again",
			"RemovePodSandbox", "This call is idempotent, and must not return an error if the sandbox has already been removed.", nil), checkKilledDuringSandboxRemove),
		crash(facto("CRI-CRASH-009", "pulls an image when PullImage is killed half way and tried again",
			"EnsureImageExists", "A pull that was cut off is repeated, and the image is whole then.", nil), checkKilledDuringPull, Pull, Isolation),
		crash(relied("CRI-CRASH-010", "lets containers run on when it is killed, and finds them again",
			"runtime restart", "A runtime that is restarted must not end the node's Pods.", nil), checkSurvival, Survival, Containers, HostProcesses),
		crash(relied("CRI-CRASH-011", "knows the exit code of a container that ended while it was down",
			"runtime restart", "The kubelet restarts a container by its exit code, whenever it ended.", nil), checkExitWhileDown, Survival, Containers),
		crash(facto("CRI-CRASH-012", "loses no log line of a container that printed while it was down",
			"runtime restart", "What a container prints is in its log, whatever happens to the runtime.", nil), checkLogWhileDown, Survival, Containers),
		crash(relied("CRI-CRASH-013", "knows its images after a SIGKILL",
			"image GC", "Images that were pulled need not be pulled again.", nil), checkImagesSurvive, Pull),
		crash(facto("CRI-CRASH-014", "keeps new limits over a SIGKILL",
			"in-place resize", "A limit that was changed stays so.", nil), checkUpdateSurvives, Survival, Resources, HostProcesses),
		crash(facto("CRI-CRASH-015", "executes commands in a container from before the SIGKILL",
			"probes", "Probes of a container go on behind a restart of the runtime.", nil), checkExecAfterCrash, Survival, Exec),
		crash(facto("CRI-CRASH-017", "does a container no harm when ExecSync is killed half way",
			"probes", "A probe that was cut off is repeated, and the container goes on.", nil), checkKilledDuringExec, Survival, Exec),
		crash(facto("CRI-CRASH-018", "comes to the new limits when UpdateContainerResources is killed half way and tried again",
			"in-place resize", "The kubelet compares what ContainerStatus says with what it wants, and asks again.", nil), checkKilledDuringUpdate, Survival, Resources, HostProcesses),
		crash(facto("CRI-CRASH-019", "loses no log line when ReopenContainerLog is killed half way",
			"log rotation", "The kubelet has renamed the log by then, and asks again at its next look.", nil), checkKilledDuringReopen, Survival, LogRotation),
		crash(facto("CRI-CRASH-020", "removes an image when RemoveImage is killed half way, and pulls it again",
			"image GC", "An image that was half removed is removed, or whole, behind the next call.", nil), checkKilledDuringRemoveImage, Pull, Isolation),
		crash(facto("CRI-CRASH-021", "takes a Pod's new resources when UpdatePodSandboxResources is killed half way and tried again",
			"in-place resize", "The kubelet has changed the Pod's cgroup by then, and tells the runtime again.", nil), checkKilledDuringSandboxUpdate),
		soak(crash(facto("CRI-CRASH-016", "is killed a hundred times at moments of chance and leaves nothing",
			"runtime restart", "Nothing of a Pod stays on the node when it is removed, whatever happened to the runtime.", nil), checkManyKills, Containers)),
	}
}

// checkKilledAfterRun allows a runtime whose sandboxes end with it to show
// them as not ready, or to have none left; no sandbox may be half known.
func checkKilledAfterRun(ctx context.Context, s *subject) error {
	p, err := s.pod(ctx)
	if err != nil {
		return err
	}
	if err := s.crash(ctx); err != nil {
		return err
	}
	items, err := s.list(ctx)
	if err != nil {
		return err
	}
	switch {
	case len(items) == 0:
		return s.gone(ctx, p.id)
	case len(items) > 1 || items[0].GetId() != p.id:
		return fmt.Errorf("after the SIGKILL ListPodSandbox shows %v, want sandbox %q", items, p.id)
	}
	st, err := s.sandboxStatus(ctx, p.id)
	if err != nil {
		return fmt.Errorf("after the SIGKILL sandbox %q is listed, and %w", p.id, err)
	}
	if st.GetState() != items[0].GetState() {
		return fmt.Errorf("after the SIGKILL sandbox %q is %v in the list and %v in its status", p.id, items[0].GetState(), st.GetState())
	}
	if err := sameSandbox(p.config, st.GetMetadata(), st.GetLabels(), st.GetAnnotations()); err != nil {
		return fmt.Errorf("after the SIGKILL: %w", err)
	}
	if err := s.remove(ctx, p.id); err != nil {
		return fmt.Errorf("after the SIGKILL: %w", err)
	}
	return s.absent(ctx, p.id)
}

// gone checks that a sandbox that is no longer listed is not known either,
// and that removing it succeeds.
func (s *subject) gone(ctx context.Context, id string) error {
	if err := s.absent(ctx, id); err != nil {
		return fmt.Errorf("after the SIGKILL: %w", err)
	}
	if _, err := s.Runtime.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: id}); err != nil {
		return fmt.Errorf("after the SIGKILL sandbox %q is gone, and RemovePodSandbox: %w", id, err)
	}
	return nil
}

// cut is a call during which the runtime is killed.
type cut struct {
	// prepare creates what the call acts on.
	prepare func(round int) error
	call    func() error
	// look runs after the restart: it retries as the kubelet does, and reports what
	// is wrong.
	look func() error
}

// rounds measures how long the call takes, and then repeatedly kills the runtime during
// it, at random moments.
func (s *subject) rounds(ctx context.Context, c cut) error {
	if err := c.prepare(0); err != nil {
		return err
	}
	begin := time.Now()
	if err := c.call(); err != nil {
		return err
	}
	took := time.Since(begin)
	if err := s.removeAll(ctx); err != nil {
		return err
	}
	for round := 1; round <= crashRounds; round++ {
		if err := c.prepare(round); err != nil {
			return err
		}
		delay := time.Duration(s.in.Rand.Int64N(int64(took) + 1))
		if err := s.killIn(ctx, delay, c.call); err != nil {
			return err
		}
		err := c.look()
		if err == nil {
			err = s.removeAll(ctx)
		}
		if err != nil {
			return fmt.Errorf("killed %v after the call: %w", delay.Round(time.Microsecond), err)
		}
	}
	return nil
}

func (s *subject) killIn(ctx context.Context, delay time.Duration, call func() error) error {
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		_ = call() // the result depends on the kill
	}()
	time.Sleep(delay)
	s.process.Kill()
	<-answered
	return s.restart(ctx)
}

func checkKilledDuringRun(ctx context.Context, s *subject) error {
	var config *runtimeapi.PodSandboxConfig
	return s.rounds(ctx, cut{
		prepare: func(round int) error {
			config = s.sandbox(fmt.Sprintf("during%d", round))
			return nil
		},
		call: func() error { _, err := s.run(ctx, config); return err },
		look: func() error {
			id, err := s.converge(ctx, config)
			if err != nil {
				return err
			}
			if err := s.oneReady(ctx); err != nil {
				return fmt.Errorf("after the second try: %w", err)
			}
			if err := s.removeAll(ctx); err != nil {
				return err
			}
			return s.absent(ctx, id)
		},
	})
}

// converge does what the kubelet does after a failed RunPodSandbox: it uses a
// ready sandbox that it finds; it stops one that is not ready and increments
// the attempt; otherwise it retries with the same metadata.
func (s *subject) converge(ctx context.Context, config *runtimeapi.PodSandboxConfig) (id string, err error) {
	items, err := s.list(ctx)
	if err != nil {
		return "", err
	}
	for _, item := range items {
		if item.GetState() == runtimeapi.PodSandboxState_SANDBOX_READY {
			return item.GetId(), nil
		}
		if err := s.stop(ctx, item.GetId()); err != nil {
			return "", err
		}
		config.Metadata.Attempt = max(config.Metadata.Attempt, item.GetMetadata().GetAttempt()+1)
	}
	id, err = s.run(ctx, config)
	if err != nil {
		return "", fmt.Errorf("the second try: %w", err)
	}
	return id, nil
}

// ready reports whether a sandbox exists and is ready: with some runtimes, sandboxes end
// when the runtime does.
func (s *subject) ready(ctx context.Context, p *pod) (bool, error) {
	st, err := s.sandboxStatus(ctx, p.id)
	if errors.Is(err, cri.ErrNotFound) {
		return false, nil
	}
	return st.GetState() == runtimeapi.PodSandboxState_SANDBOX_READY, err
}

func checkKilledDuringCreate(ctx context.Context, s *subject) error {
	var p *pod
	var config *runtimeapi.ContainerConfig
	return s.rounds(ctx, cut{
		prepare: func(int) (err error) {
			if p, err = s.pod(ctx); err != nil {
				return err
			}
			config, err = p.describe(ctx, forever)
			return err
		},
		call: func() error { _, err := p.createAs(ctx, config); return err },
		look: func() error {
			if ready, err := s.ready(ctx, p); err != nil || !ready {
				return err // the sandbox ended with the runtime
			}
			b, err := p.again(ctx, config)
			if err != nil {
				return err
			}
			return b.start(ctx)
		},
	})
}

// again does what the kubelet does after a failed CreateContainer: it treats a
// created container that it finds as failed, and increments the attempt; otherwise it
// retries with the same metadata.
func (p *pod) again(ctx context.Context, config *runtimeapi.ContainerConfig) (*box, error) {
	all, err := p.s.containers(ctx, &runtimeapi.ContainerFilter{PodSandboxId: p.id})
	if err != nil {
		return nil, err
	}
	if len(all) > 1 {
		return nil, fmt.Errorf("one CreateContainer left %d containers", len(all))
	}
	b, err := p.createAs(ctx, config)
	if err != nil && len(all) == 1 {
		config.Metadata.Attempt = all[0].GetMetadata().GetAttempt() + 1
		b, err = p.createAs(ctx, config)
	}
	if err != nil {
		return nil, fmt.Errorf("the second try: %w", err)
	}
	return b, nil
}

func checkKilledDuringStart(ctx context.Context, s *subject) error {
	// A container that is found exited may never have had a process, so another one
	// shows that processes can be seen.
	if _, err := s.watched(ctx, forever); err != nil {
		return err
	}
	var b *box
	return s.rounds(ctx, cut{
		prepare: func(int) error {
			p, err := s.pod(ctx)
			if err != nil {
				return err
			}
			b, err = p.create(ctx, forever)
			return err
		},
		call: func() error { return b.start(ctx) },
		look: func() error {
			if err := b.startedOnce(ctx); err != nil {
				return err
			}
			return b.remove(ctx)
		},
	})
}

// startedOnce returns nil when a container runs with one process, or does not run and has
// none. Its program is executed, and recognizable by its mark, only some moments after the
// container runs.
func (b *box) startedOnce(ctx context.Context) (twice error) {
	err := until(ctx, settleTime, func() error {
		running := false
		st, err := b.status(ctx)
		if err == nil {
			running = st.GetState() == runtimeapi.ContainerState_CONTAINER_RUNNING
		} else if !errors.Is(err, cri.ErrNotFound) {
			return err
		}
		pids, err := b.pids()
		if err != nil || b.s.hidden() {
			return err
		}
		wrong := fmt.Errorf("the container is %v, and its processes are %v", st.GetState(), pids)
		switch {
		case len(pids) > 1: // waiting cannot correct that
			twice = wrong
		case running != (len(pids) == 1):
			return wrong
		}
		return nil
	})
	return errors.Join(err, twice)
}

func checkKilledDuringStop(ctx context.Context, s *subject) error {
	var b *box
	return s.rounds(ctx, cut{
		prepare: func(int) (err error) { b, err = s.watched(ctx, "ignore-term"); return err },
		call:    func() error { return b.stop(ctx, 0) },
		look: func() error {
			if err := b.stop(ctx, 0); err != nil {
				return fmt.Errorf("tried again: %w", err)
			}
			return errors.Join(b.ended(), b.remove(ctx))
		},
	})
}

func checkKilledDuringRemove(ctx context.Context, s *subject) error {
	var b *box
	return s.rounds(ctx, cut{
		prepare: func(int) (err error) { b, err = s.watched(ctx, forever); return err },
		call:    func() error { return b.remove(ctx) },
		look: func() error {
			if err := b.remove(ctx); err != nil {
				return fmt.Errorf("tried again: %w", err)
			}
			return errors.Join(b.absent(ctx), b.ended())
		},
	})
}

// inhabited runs a sandbox, with a container in it if the runtime has containers.
func (s *subject) inhabited(ctx context.Context) (*pod, *box, error) {
	p, err := s.pod(ctx)
	if err != nil || s.target.missing([]Feature{Containers}) != nil {
		return p, nil, err
	}
	b, err := p.start(ctx, "ignore-term")
	if err == nil {
		err = b.witness(ctx)
	}
	return p, b, err
}

// gone returns nil when there is no container, or nothing of it is left.
func (b *box) gone() error {
	if b == nil {
		return nil
	}
	return b.ended()
}

func checkKilledDuringSandboxStop(ctx context.Context, s *subject) error {
	var p *pod
	var b *box
	return s.rounds(ctx, cut{
		prepare: func(int) (err error) { p, b, err = s.inhabited(ctx); return err },
		call:    func() error { return s.stop(ctx, p.id) },
		look: func() error {
			if err := s.stop(ctx, p.id); err != nil {
				return fmt.Errorf("tried again: %w", err)
			}
			if ready, err := s.ready(ctx, p); err != nil || ready {
				return errors.Join(err, fmt.Errorf("the stopped sandbox is ready: %v", ready))
			}
			return b.gone()
		},
	})
}

func checkKilledDuringSandboxRemove(ctx context.Context, s *subject) error {
	var p *pod
	var b *box
	return s.rounds(ctx, cut{
		prepare: func(int) (err error) {
			if p, b, err = s.inhabited(ctx); err != nil {
				return err
			}
			return s.stop(ctx, p.id)
		},
		call: func() error { return s.remove(ctx, p.id) },
		look: func() error {
			if err := s.remove(ctx, p.id); err != nil {
				return fmt.Errorf("tried again: %w", err)
			}
			return errors.Join(s.absent(ctx, p.id), b.gone())
		},
	})
}

func checkKilledDuringPull(ctx context.Context, s *subject) error {
	ref := ""
	return s.rounds(ctx, cut{
		prepare: func(round int) error {
			ref = s.images.ref(fmt.Sprintf("%s%s-%d:v1", uniqueRepo, s.mark, round))
			return nil
		},
		call: func() error { _, err := s.pull(ctx, ref); return err },
		look: func() error { return s.whole(ctx, ref) },
	})
}

// checkManyKills kills the runtime while it does all kinds of things at once.
func checkManyKills(ctx context.Context, s *subject) error {
	const kills = 100
	for round := range kills {
		work, cancel := context.WithCancel(ctx)
		done := make(chan error, 1)
		go func() {
			done <- together(3, func(int) error { _, err := s.comeAndGo(work); return err })
		}()
		time.Sleep(time.Duration(s.in.Rand.Int64N(int64(150 * time.Millisecond))))
		s.process.Kill()
		cancel()
		s.in.Log.Debug("what was under way", "err", <-done) // the result depends on the kill
		if err := s.restart(ctx); err != nil {
			return fmt.Errorf("round %d: %w", round+1, err)
		}
		if err := retry(ctx, func() error { return s.removeAll(ctx) }); err != nil {
			return fmt.Errorf("round %d: %w", round+1, err)
		}
	}
	return s.nothingLeft(ctx, s.in.Target.house.made())
}
