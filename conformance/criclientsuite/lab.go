package criclientsuite

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	// podLabel is a label of every Pod of the suite. It holds the Pod's name, because
	// kubelets append something to the name itself.
	podLabel = "cri-client-suite/pod"
	// mainName is the container that each Pod has unless a rule says otherwise.
	mainName = "main"
	// grace is the termination grace period of Pods in seconds.
	grace = 7
)

// lab is the environment of one check.
type lab struct {
	*site
	rule  string
	files []string
	undo  []func()
}

func newLab(id string, s *site, in *input) *lab {
	l := &lab{site: s, rule: strings.ToLower(id)}
	in.Log.Debug("a kubelet is looked at", "dir", s.dir)
	return l
}

// close removes the rule's Pods and faults, without waiting for the Pods to end.
func (l *lab) close() error {
	var errs []error
	for _, undo := range l.undo {
		undo()
	}
	for _, f := range l.files {
		if err := os.Remove(f); !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// inject prepares a fault for the duration of the check.
func (l *lab) inject(f *fault) (remove func()) {
	remove = l.rec.inject(f)
	l.undo = append(l.undo, remove)
	return remove
}

// subject is a Pod given to the kubelet.
type subject struct {
	*lab
	name string
	file string
	spec *v1.Pod
	at   time.Time // when the kubelet got it
}

// change modifies the default Pod, which has one container that runs until it is
// stopped.
type change = func(*v1.Pod)

// draft returns a Pod that the kubelet does not know yet.
func (l *lab) draft(changes ...change) *subject {
	name := fmt.Sprintf("%s-%d", l.rule, l.house.pods.Add(1))
	seconds := int64(grace)
	p := &v1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: metav1.NamespaceDefault, Labels: map[string]string{podLabel: name}},
		Spec: v1.PodSpec{
			TerminationGracePeriodSeconds: &seconds,
			Containers:                    []v1.Container{{Name: mainName}},
		},
	}
	for _, change := range changes {
		change(p)
	}
	for _, list := range [][]v1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			l.image(name, &list[i])
		}
	}
	return &subject{lab: l, name: name, spec: p, file: filepath.Join(l.manifests, name+".json")}
}

// image gives a container its own image, which is present unless the container's
// image was absent.
func (l *lab) image(pod string, c *v1.Container) {
	if c.ImagePullPolicy == "" {
		c.ImagePullPolicy = v1.PullIfNotPresent
	}
	if c.Image != absent {
		c.Image = imageOf(pod, c.Name)
		l.images.add(c.Image, false)
	}
	c.Image = imageOf(pod, c.Name)
	l.rec.claimImage(c.Image, pod, c.Name)
}

// absent, as a container's image, stands for its own image, not present.
const absent = "absent"

// imageOf returns the name of a container's image.
func imageOf(pod, container string) string { return registryHost + "/" + pod + "/" + container + ":v1" }

// give writes the Pod's manifest, or its changed version, for the kubelet to read.
// Objects that the Pod refers to precede it.
func (s *subject) give(objects ...any) error {
	var text strings.Builder
	for _, o := range append(objects, s.spec) {
		raw, err := json.Marshal(o)
		if err != nil {
			return err
		}
		if text.Len() > 0 {
			text.WriteString("\n---\n")
		}
		text.Write(raw)
	}
	s.at = time.Now()
	hidden := filepath.Join(s.manifests, "."+filepath.Base(s.file))
	if err := os.WriteFile(hidden, []byte(text.String()), 0o600); err != nil {
		return err
	}
	s.files = append(s.files, s.file)
	return os.Rename(hidden, s.file)
}

// take removes the Pod's manifest.
func (s *subject) take() error { return os.Remove(s.file) }

// pod gives the kubelet a Pod.
func (l *lab) pod(changes ...change) (*subject, error) {
	s := l.draft(changes...)
	return s, s.give()
}

// running gives the kubelet a Pod and waits until its app containers were started.
func (l *lab) running(ctx context.Context, changes ...change) (*subject, error) {
	s, err := l.pod(changes...)
	if err != nil {
		return nil, err
	}
	return s, s.started(ctx)
}

// started waits until the Pod's app containers were started.
func (s *subject) started(ctx context.Context) error {
	return s.await(ctx, func(cs calls) error {
		for i := range s.spec.Spec.Containers {
			if name := s.spec.Spec.Containers[i].Name; len(cs.of("StartContainer").named(name).good()) == 0 {
				return fmt.Errorf("container %q of Pod %q was not started", name, s.name)
			}
		}
		return nil
	})
}

// calls returns the calls about the Pod so far.
func (s *subject) calls() calls {
	cs, _ := s.rec.seen(s.mine)
	return cs
}

func (s *subject) mine(c *call) bool { return c.pod == s.name }

// await waits until missing returns nil for the calls about the Pod so far; otherwise it
// returns what is missing.
func (s *subject) await(ctx context.Context, missing func(calls) error) error {
	return s.awaitSuch(ctx, s.target.patience(), s.mine, missing)
}

// lookEvery is how often a rule that waits looks whether the kubelet still runs.
const lookEvery = time.Second

// awaitSuch is await for any calls and any time limit. It does not wait for a kubelet
// that has ended.
func (l *lab) awaitSuch(ctx context.Context, within time.Duration, such func(*call) bool, missing func(calls) error) error {
	patience, alive := time.NewTimer(within), time.NewTicker(lookEvery)
	defer patience.Stop()
	defer alive.Stop()
	for ended := false; ; {
		cs, changed := l.rec.seen(such)
		err := missing(cs)
		if err == nil {
			return nil
		}
		if ended {
			return fmt.Errorf("%w, and the kubelet has ended; seen: %s%s", err, cs, l.printed())
		}
		select {
		case <-changed:
			time.Sleep(time.Millisecond) // to batch the changes that follow at once
			continue
		case <-alive.C:
			ended = strings.HasPrefix(l.said(), endedWords)
			continue
		case <-patience.C:
		case <-ctx.Done():
		}
		return fmt.Errorf("%w within %v; seen: %s%s", err, within, cs, l.printed())
	}
}

// printed returns what the kubelet printed about the rule's Pods, for messages.
func (l *lab) printed() string {
	const most = 5 // lines
	var lines []string
	said := l.said()
	for line := range strings.Lines(said) {
		if strings.Contains(line, l.rule+"-") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	switch {
	case len(lines) > 0:
		lines = lines[max(len(lines)-most, 0):]
	case strings.HasPrefix(said, endedWords):
		lines = []string{said}
	default:
		return ""
	}
	return "\nthe kubelet printed: " + strings.Join(lines, "\n")
}

// calm waits for the time in which something must not happen.
func (l *lab) calm(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(l.target.calm()):
	}
}

// sandbox waits for the kubelet to request the Pod's sandbox.
func (s *subject) sandbox(ctx context.Context) (req *runtimeapi.RunPodSandboxRequest, err error) {
	err = s.await(ctx, func(cs calls) error {
		list := cs.sandboxes()
		if len(list) == 0 {
			return fmt.Errorf("RunPodSandbox was not called for Pod %q", s.name)
		}
		req = list[0]
		return nil
	})
	return req, err
}

// container waits for the kubelet to request the Pod's container.
func (s *subject) container(ctx context.Context) (req *runtimeapi.CreateContainerRequest, err error) {
	err = s.await(ctx, func(cs calls) error {
		list := cs.named(mainName).creates()
		if len(list) == 0 {
			return fmt.Errorf("CreateContainer was not called for container %q of Pod %q", mainName, s.name)
		}
		req = list[0]
		return nil
	})
	return req, err
}

// id returns the id of the latest instance of the Pod's container that was started.
func (s *subject) id() string {
	if c := s.calls().of("StartContainer").named(mainName).good().last(); c != nil {
		return c.containerID
	}
	return ""
}

// finish lets the Pod's container end by itself.
func (s *subject) finish(code int32) { s.runtime().exit(s.id(), code) }

// again waits until that many instances of a container were started.
func (s *subject) again(ctx context.Context, container string, instances int) error {
	return s.await(ctx, func(cs calls) error {
		if n := len(cs.of("StartContainer").named(container).good()); n < instances {
			return fmt.Errorf("container %q was started %d times, want %d", container, n, instances)
		}
		return nil
	})
}

// runningNow returns how many instances of each container run now, by its name.
func (s *subject) runningNow(ctx context.Context) (map[string]int, error) {
	e := s.runtime()
	if e == nil {
		return nil, errors.New("the runtime is down")
	}
	resp, err := e.Runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{
		State: &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING},
	}})
	if err != nil {
		return nil, err
	}
	pods, count := s.rec.podOfSandbox(), map[string]int{}
	for _, c := range resp.Containers {
		if pods[c.PodSandboxId] == s.name {
			count[c.GetMetadata().GetName()]++
		}
	}
	return count, nil
}

// single returns an error unless the Pod has one ready sandbox, and one running
// instance of each of its app containers.
func (s *subject) single(ctx context.Context) error {
	ids, err := s.ready(ctx, s.name)
	if err != nil {
		return err
	}
	if len(ids) != 1 {
		return fmt.Errorf("the Pod has %d sandboxes that are ready, want 1; seen: %s", len(ids), s.calls())
	}
	count, err := s.runningNow(ctx)
	if err != nil {
		return err
	}
	for i := range s.spec.Spec.Containers {
		if name := s.spec.Spec.Containers[i].Name; count[name] != 1 {
			return fmt.Errorf("%d instances of container %q run, want 1; seen: %s", count[name], name, s.calls())
		}
	}
	return nil
}

// awaitSingle waits until single holds and continues to hold.
func (s *subject) awaitSingle(ctx context.Context) error {
	over := time.Now().Add(s.target.patience())
	for {
		err := s.single(ctx)
		if err == nil {
			s.calm(ctx)
			return s.single(ctx)
		}
		if time.Now().After(over) || ctx.Err() != nil {
			return fmt.Errorf("%w%s", err, s.printed())
		}
		time.Sleep(pause)
	}
}
