package crisuite

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/containerd/nri/pkg/api"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/conformance"
)

const (
	fullSentence   = "As the last step in the registration and handshaking process, NRI sends the full set of pods and containers known to the runtime."
	occurSentence  = "After initial synchronization the plugin starts receiving the events it subscribed for as they occur in the runtime."
	adjustSentence = "Container adjustment can alter labels, annotations, mounts, devices, environment variables, OCI hooks, and assigned container resources."
	failSentence   = "It returns the error to the runtime, and the runtime fails the pod or container operation."
)

// plugs makes a rule of a sentence from NRI's README or its api.proto.
func plugs(id, title, section, sentence string, check look, needs ...Feature) rule {
	r := must(id, title, section, sentence, check, append(needs, Containers, NRI)...)
	r.Spec.Document, r.Spec.Version = "NRI", "v0.12"
	return r
}

// advised is for a rule of plugs about what a sentence lets plugins rely on.
func advised(r rule) rule {
	r.Level = conformance.Should
	return r
}

func nriRules() []rule {
	return slices.Concat([]rule{
		plugs("CRI-NRI-001", "tells an NRI plugin that connects what is there, and not what is gone",
			"Plugin Registration", fullSentence, checkNRISynchronize),
		plugs("CRI-NRI-002", "tells NRI plugins of a Pod's life, each event once and in order",
			"api.proto, Plugin", occurSentence, checkNRIPod),
		plugs("CRI-NRI-003", "tells NRI plugins of a container's life, each event once and in order",
			"api.proto, Plugin", occurSentence, checkNRIContainer),
		plugs("CRI-NRI-004", "tells NRI plugins once of a container that ends by itself, when it does",
			"api.proto, Plugin", occurSentence, checkNRIOwnEnd),
		plugs("CRI-NRI-005", "tells NRI plugins of the end of a Pod's containers before that of the Pod",
			"api.proto, Plugin", occurSentence, checkNRIPodWithContainer),
		plugs("CRI-NRI-006", "tells NRI plugins what a Pod and a container are",
			"Container Data and Available Lifecycle Events", "Apart from data identifying the container, these pieces of information represent the corresponding data in the container's", checkNRIData),
	}, nriAdjustRules(), nriRefusalRules(), nriUpdateRules(), nriManyRules())
}

// checkNRISynchronize does not check an exited container: runtimes differ in whether they
// still report it.
func checkNRISynchronize(ctx context.Context, s *subject) error {
	running, err := s.box(ctx, forever)
	if err != nil {
		return err
	}
	made, err := running.create(ctx, forever)
	if err != nil {
		return err
	}
	removed, err := running.pod.start(ctx, forever)
	if err != nil {
		return err
	}
	gone, err := s.pod(ctx)
	if err != nil {
		return err
	}
	if err := errors.Join(removed.remove(ctx), s.remove(ctx, gone.id)); err != nil {
		return err
	}
	p, err := s.plugin(ctx, wishes{})
	if err != nil {
		return err
	}
	if p.known(removed.id) != nil || p.knownPod(gone.id) != nil {
		return errors.New("a plugin that connects is told of a container or a Pod that is removed")
	}
	return errors.Join(
		p.wasTold(running, api.ContainerState_CONTAINER_RUNNING), p.wasTold(made, api.ContainerState_CONTAINER_CREATED))
}

// wasTold returns nil when Synchronize reported a container and its Pod.
func (p *plugin) wasTold(b *box, state api.ContainerState) error {
	pod, c := p.knownPod(b.pod.id), p.known(b.id)
	switch {
	case pod == nil:
		return fmt.Errorf("a plugin that connects is not told of Pod %q", b.pod.id)
	case c == nil:
		return fmt.Errorf("a plugin that connects is not told of container %q", b.id)
	case c.GetState() != state || c.GetPodSandboxId() != b.pod.id:
		return fmt.Errorf("a plugin that connects is told that container %q is %v in Pod %q, want %v in %q", b.id, c.GetState(), c.GetPodSandboxId(), state, b.pod.id)
	}
	return nil
}

func checkNRIPod(ctx context.Context, s *subject) error {
	p, err := s.plugin(ctx, wishes{})
	if err != nil {
		return err
	}
	pod, err := s.pod(ctx)
	if err != nil {
		return err
	}
	// The kubelet repeats both calls.
	if err := errors.Join(s.stop(ctx, pod.id), s.remove(ctx, pod.id), s.remove(ctx, pod.id)); err != nil {
		return err
	}
	return p.hearsAll(ctx, pod.id, "RunPodSandbox", "StopPodSandbox", "RemovePodSandbox")
}

func checkNRIContainer(ctx context.Context, s *subject) error {
	p, err := s.plugin(ctx, wishes{})
	if err != nil {
		return err
	}
	b, err := s.box(ctx, forever)
	if err != nil {
		return err
	}
	if err := errors.Join(b.stop(ctx, 0), b.stop(ctx, 0), b.remove(ctx), b.remove(ctx)); err != nil {
		return err
	}
	return p.hearsLife(ctx, b.id)
}

// hearsLife waits until the plugin has received all events of a container's life, in
// order.
func (p *plugin) hearsLife(ctx context.Context, id string) error {
	return p.hearsAll(ctx, id,
		"CreateContainer", "PostCreateContainer", "StartContainer", "PostStartContainer", "StopContainer", "RemoveContainer")
}

// checkNRIOwnEnd does not check the order of StopContainer and PostStartContainer: the
// program may have exited before the latter.
func checkNRIOwnEnd(ctx context.Context, s *subject) error {
	p, err := s.plugin(ctx, wishes{})
	if err != nil {
		return err
	}
	b, err := s.box(ctx, "sleep 100ms")
	if err != nil {
		return err
	}
	if _, err := b.exited(ctx); err != nil {
		return err
	}
	if _, err := p.hears(ctx, "StopContainer", b.id); err != nil {
		return fmt.Errorf("the program has ended, and %w", err)
	}
	if err := errors.Join(b.stop(ctx, 0), b.remove(ctx)); err != nil {
		return err
	}
	if _, err := p.hears(ctx, "RemoveContainer", b.id); err != nil {
		return err
	}
	all := events(p.about(b.id))
	if times := len(slices.DeleteFunc(slices.Clone(all), func(e string) bool { return e != "StopContainer" })); times != 1 {
		return fmt.Errorf("of a container that ended by itself the plugin was told %q, want StopContainer once", all)
	}
	return nil
}

func checkNRIPodWithContainer(ctx context.Context, s *subject) error {
	p, err := s.plugin(ctx, wishes{})
	if err != nil {
		return err
	}
	b, err := s.box(ctx, forever)
	if err != nil {
		return err
	}
	if err := s.remove(ctx, b.pod.id); err != nil {
		return err
	}
	return errors.Join(p.before(ctx, "StopContainer", b, "StopPodSandbox"), p.before(ctx, "RemoveContainer", b, "RemovePodSandbox"))
}

// before returns nil when the plugin received the container's event before its Pod's.
func (p *plugin) before(ctx context.Context, event string, b *box, ofPod string) error {
	first, err := p.hears(ctx, event, b.id)
	if err != nil {
		return err
	}
	then, err := p.hears(ctx, ofPod, b.pod.id)
	if err == nil && first.turn > then.turn {
		return fmt.Errorf("the plugin was told %s of the Pod before %s of its container", ofPod, event)
	}
	return err
}

func checkNRIData(ctx context.Context, s *subject) error {
	p, err := s.plugin(ctx, wishes{})
	if err != nil {
		return err
	}
	b, err := s.box(ctx, forever, func(c *runtimeapi.ContainerConfig) {
		c.Annotations = map[string]string{addedNote: "the container"}
	})
	if err != nil {
		return err
	}
	run, err := p.hears(ctx, "RunPodSandbox", b.pod.id)
	if err != nil {
		return err
	}
	created, err := p.hears(ctx, "CreateContainer", b.id)
	if err != nil {
		return err
	}
	return errors.Join(b.pod.describedBy(run.pod), b.pod.describedBy(created.pod), b.describedBy(created.container))
}

func (p *pod) describedBy(got *api.PodSandbox) error {
	meta := p.config.GetMetadata()
	if got.GetId() != p.id || got.GetUid() != meta.GetUid() || got.GetName() != meta.GetName() || got.GetNamespace() != meta.GetNamespace() ||
		!contains(got.GetLabels(), p.config.GetLabels()) || !contains(got.GetAnnotations(), p.config.GetAnnotations()) {
		return fmt.Errorf("the plugin was told of the Pod %v, want %q of %v", got, p.id, p.config)
	}
	return nil
}

func (b *box) describedBy(got *api.Container) error {
	if got.GetId() != b.id || got.GetPodSandboxId() != b.pod.id || got.GetName() != b.config.GetMetadata().GetName() ||
		!contains(got.GetLabels(), b.config.GetLabels()) || !contains(got.GetAnnotations(), b.config.GetAnnotations()) {
		return fmt.Errorf("the plugin was told of the container %v, want %q of %v", got, b.id, b.config)
	}
	if !slices.Equal(got.GetArgs(), b.config.GetCommand()) || !slices.Contains(got.GetEnv(), "SUITE_MARK="+b.mark()) {
		return fmt.Errorf("the plugin was told of a container that runs %q with the environment %q, want %q and SUITE_MARK=%s in it",
			got.GetArgs(), got.GetEnv(), b.config.GetCommand(), b.mark())
	}
	return nil
}
