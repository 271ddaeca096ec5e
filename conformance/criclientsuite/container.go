package criclientsuite

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"

	"google.golang.org/protobuf/proto"
	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func containerRules() []rule {
	return []rule{
		must("CRIC-CTR-001", "creates containers in a sandbox that RunPodSandbox has answered with",
			"CreateContainerRequest.pod_sandbox_id", "ID of the PodSandbox in which the container should be created.", checkInSandbox),
		must("CRIC-CTR-002", "repeats the sandbox's config unchanged with each container",
			"CreateContainerRequest.sandbox_config", "This is the same config that was passed to RunPodSandboxRequest to create the PodSandbox.", checkSameConfig),
		must("CRIC-CTR-003", "names the container in its metadata",
			"ContainerMetadata.name", "Name of the container. Same as the container name in the PodSpec.", checkName),
		must("CRIC-CTR-004", "begins with attempt 0 and counts up with each instance",
			"ContainerMetadata.attempt", "Attempt number of creating the container. Default: 0.", checkAttempts),
		must("CRIC-CTR-005", "gives each instance a log of its own below the sandbox's log directory",
			"ContainerConfig.log_path", "Path relative to PodSandboxConfig.LogDirectory for container to store the log (STDOUT and STDERR) on the host.", checkLogPaths),
		facto("CRIC-CTR-006", "labels a container with its name and its Pod's",
			"labels", "crictl, log collectors and metrics find containers by io.kubernetes.container.name beside the Pod's labels.", checkContainerLabels),
		must("CRIC-CTR-007", "starts each container once, after it was created",
			"StartContainer", "StartContainer starts the container.", checkStartedOnce),
		must("CRIC-CTR-008", "creates each container once",
			"ContainerConfig.metadata", "This information will uniquely identify the container, and the runtime should leverage this to ensure correct operation.", checkUnique),
	}
}

// asksContainer returns a check of the CreateContainer request that follows from a
// change of a Pod.
func asksContainer(change change, look func(*runtimeapi.CreateContainerRequest) error) look {
	return func(ctx context.Context, l *lab) error {
		s, err := l.pod(some(change)...)
		if err != nil {
			return err
		}
		req, err := s.container(ctx)
		if err != nil {
			return err
		}
		return look(req)
	}
}

func checkName(ctx context.Context, l *lab) error {
	s, err := l.pod()
	if err != nil {
		return err
	}
	return s.await(ctx, func(cs calls) error {
		if err := called(cs, "CreateContainer"); err != nil {
			return err
		}
		return want("the container's name", cs.creates()[0].GetConfig().GetMetadata().GetName(), mainName)
	})
}

func checkInSandbox(ctx context.Context, l *lab) error {
	s, err := l.running(ctx, twoContainers)
	if err != nil {
		return err
	}
	sandbox := s.calls().of("RunPodSandbox").good().first()
	creates := s.calls().of("CreateContainer")
	for i := range creates {
		if creates[i].sandboxID != sandbox.sandboxID || creates[i].begun.Before(sandbox.ended) {
			return fmt.Errorf("container %q was created in %q: RunPodSandbox had not answered with that", creates[i].container, creates[i].sandboxID)
		}
	}
	// The mutant of this rule names another Pod's sandbox, so its call is recorded there.
	return want("the number of containers that were created in the sandbox", len(creates), len(s.spec.Spec.Containers))
}

func twoContainers(p *v1.Pod) {
	p.Spec.Containers = append(p.Spec.Containers, v1.Container{Name: "second"})
}

// checkSameConfig includes a successor of the container.
func checkSameConfig(ctx context.Context, l *lab) error {
	s, err := l.running(ctx, twoContainers, ports, func(p *v1.Pod) { p.Annotations = map[string]string{"suite.example/note": "x"} })
	if err != nil {
		return err
	}
	s.finish(1)
	if err := s.again(ctx, mainName, 2); err != nil {
		return err
	}
	config := s.calls().sandboxes()[0].GetConfig()
	for _, c := range s.calls().creates() {
		if !proto.Equal(config, c.GetSandboxConfig()) {
			return fmt.Errorf("sandbox_config of container %q is another than that of RunPodSandbox:\n%v\n%v", c.GetConfig().GetMetadata().GetName(), c.GetSandboxConfig(), config)
		}
	}
	return nil
}

func checkAttempts(ctx context.Context, l *lab) error {
	s, err := l.running(ctx)
	if err != nil {
		return err
	}
	s.finish(1)
	if err := s.again(ctx, mainName, 2); err != nil {
		return err
	}
	list := s.calls().of("CreateContainer").good().creates()
	for i, c := range list {
		if got := c.GetConfig().GetMetadata().GetAttempt(); got != uint32(i) {
			return fmt.Errorf("instance %d of the container has the attempt %d", i, got)
		}
	}
	return nil
}

func checkLogPaths(ctx context.Context, l *lab) error {
	s, err := l.pod(twoContainers)
	if err != nil {
		return err
	}
	first, err := s.container(ctx)
	if err != nil {
		return err
	}
	if path := first.GetConfig().GetLogPath(); !filepath.IsLocal(path) || path == "." {
		return fmt.Errorf("log_path is %q: want a path below the log directory", path)
	}
	if err := s.started(ctx); err != nil {
		return err
	}
	s.finish(1)
	if err := s.again(ctx, mainName, 2); err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, c := range s.calls().of("CreateContainer").good().creates() {
		path := c.GetConfig().GetLogPath()
		if seen[path] {
			return fmt.Errorf("log_path %q is that of two instances", path)
		}
		seen[path] = true
	}
	return nil
}

func checkContainerLabels(ctx context.Context, l *lab) error {
	s, err := l.pod()
	if err != nil {
		return err
	}
	sandbox, err := s.sandbox(ctx)
	if err != nil {
		return err
	}
	c, err := s.container(ctx)
	if err != nil {
		return err
	}
	m := sandbox.GetConfig().GetMetadata()
	return wantPairs("the container's labels", c.GetConfig().GetLabels(), map[string]string{
		"io.kubernetes.container.name": mainName,
		"io.kubernetes.pod.name":       m.GetName(), "io.kubernetes.pod.namespace": m.GetNamespace(), "io.kubernetes.pod.uid": m.GetUid(),
	})
}

func checkStartedOnce(ctx context.Context, l *lab) error {
	s, err := l.running(ctx, twoContainers)
	if err != nil {
		return err
	}
	l.calm(ctx)
	started := map[string]bool{}
	starts := s.calls().of("StartContainer")
	for i := range starts {
		id := starts[i].containerID
		if started[id] {
			return fmt.Errorf("StartContainer was called twice for container %q", starts[i].container)
		}
		started[id] = true
	}
	return nil
}

func checkUnique(ctx context.Context, l *lab) error {
	s, err := l.running(ctx, twoContainers)
	if err != nil {
		return err
	}
	l.calm(ctx)
	seen := map[string]bool{}
	for _, c := range s.calls().of("CreateContainer").good().creates() {
		key := c.GetPodSandboxId() + c.GetConfig().GetMetadata().String()
		if seen[key] {
			return fmt.Errorf("a container was created twice with the metadata %v", c.GetConfig().GetMetadata())
		}
		seen[key] = true
	}
	return s.single(ctx)
}

// words returns an error unless a container has the words.
func words(what string, got, wanted []string) error {
	if slices.Equal(got, wanted) {
		return nil
	}
	return fmt.Errorf("%s are %q, want %q", what, got, wanted)
}
