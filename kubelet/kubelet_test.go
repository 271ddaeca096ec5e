package kubelet_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri/client"
	"github.com/nodekit-project/nodekit/internal/cgroup"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/testenv"
	"github.com/nodekit-project/nodekit/kubelet"
	kubeclient "github.com/nodekit-project/nodekit/kubelet/client"
	"github.com/nodekit-project/nodekit/kubelet/object"
	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// bench is a kubelet over a fake runtime.
type bench struct {
	t         *testing.T
	fake      *fake
	api       *testAPI
	dir       string
	manifests string
	cgroup    string
	kubelet   *kubelet.Kubelet
	stop      func()

	mu    sync.Mutex
	steps []pod.Step
}

func newBench(t *testing.T) *bench {
	testenv.Require(t, testenv.Root)
	dir, err := os.MkdirTemp("", "kubelet")
	if err != nil {
		t.Fatal(err)
	}
	parent := "/nodekit-test-" + filepath.Base(dir)
	t.Cleanup(func() {
		if err := errors.Join(os.RemoveAll(dir), cgroup.Remove(parent)); err != nil {
			t.Error(err)
		}
	})
	b := &bench{t: t, fake: newFake(t), api: newAPI(t, dir), dir: dir, manifests: filepath.Join(dir, "manifests"), cgroup: parent}
	if err := os.Mkdir(b.manifests, 0o755); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *bench) config() kubelet.Config {
	return kubelet.Config{
		Root: filepath.Join(b.dir, "root"), RunDir: filepath.Join(b.dir, "run"), ManifestDir: b.manifests,
		NodeName: "node", ID: "bench", API: b.api.config, CRIEndpoint: b.fake.endpoint, CgroupParent: b.cgroup,
		OnStep: func(s pod.Step) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.steps = append(b.steps, s)
		},
	}
}

// start runs the kubelet; stop ends it and leaves its Pods.
func (b *bench) start() {
	b.t.Helper()
	k, err := kubelet.New(b.config())
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	var once sync.Once
	b.kubelet = k
	b.stop = func() {
		once.Do(func() {
			cancel()
			if err := errors.Join(<-done, k.Close()); err != nil {
				b.t.Errorf("running the kubelet: %v", err)
			}
		})
	}
	b.t.Cleanup(b.stop)
}

func (b *bench) drain() {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := b.kubelet.Drain(ctx); err != nil {
		b.t.Errorf("draining: %v", err)
	}
}

func (b *bench) write(file, text string) {
	b.t.Helper()
	if err := os.WriteFile(filepath.Join(b.manifests, file), []byte(text), 0o644); err != nil {
		b.t.Fatal(err)
	}
}

// pod returns the Pod, or nil.
func (b *bench) pod(name string) *v1.Pod {
	for _, p := range b.api.pods() {
		if p.Name == name {
			return p
		}
	}
	return nil
}

// until waits for the Pod to be as ok wants it.
func (b *bench) until(name, what string, ok func(*v1.Pod) bool) *v1.Pod {
	b.t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for time.Now().Before(deadline) {
		if p := b.pod(name); ok(p) {
			return p
		}
		time.Sleep(time.Millisecond)
	}
	b.t.Fatalf("Pod %q is not %s: %s", name, what, describe(b.pod(name)))
	return nil
}

func describe(p *v1.Pod) string {
	if p == nil {
		return "it does not exist"
	}
	text, err := json.Marshal(p.Status.ContainerStatuses)
	return fmt.Sprintf("phase %s, deletion %v, containers %s (%v)", p.Status.Phase, p.DeletionTimestamp, text, err)
}

func ready(p *v1.Pod) bool {
	return p != nil && slices.ContainsFunc(p.Status.Conditions, func(c v1.PodCondition) bool {
		return c.Type == v1.PodReady && c.Status == v1.ConditionTrue
	})
}

func phase(want v1.PodPhase) func(*v1.Pod) bool {
	return func(p *v1.Pod) bool { return p != nil && p.Status.Phase == want }
}

func gone(p *v1.Pod) bool { return p == nil }

func manifest(name, spec string) string {
	return "apiVersion: v1\nkind: Pod\nmetadata: {name: " + name + "}\nspec:\n  terminationGracePeriodSeconds: 2\n" + spec
}

const runForever = "  containers: [{name: c, image: 'nodekit.test/image:1', command: [run]}]\n"

func TestManifestToReadyAndAway(t *testing.T) {
	b := newBench(t)
	b.start()
	begun := time.Now()
	b.write("web.yaml", manifest("web", runForever))
	p := b.until("web", "Ready", ready)
	t.Logf("file to Ready: %s", time.Since(begun))
	if c := p.Status.ContainerStatuses[0]; !c.Ready || c.RestartCount != 0 || !strings.HasPrefix(c.ContainerID, "fake://") {
		t.Errorf("container status %+v", c)
	}
	if err := os.Remove(filepath.Join(b.manifests, "web.yaml")); err != nil {
		t.Fatal(err)
	}
	b.until("web", "gone", gone)
	for _, dir := range []string{"root/pods", "root/logs"} {
		if left, _ := os.ReadDir(filepath.Join(b.dir, dir)); len(left) > 0 {
			t.Errorf("%s still has %v", dir, left)
		}
	}
	b.drain()
}

// TestStartIsNotHeldUp: a timer of a second on the path would hold up each of them,
// and what else a machine does only some.
func TestStartIsNotHeldUp(t *testing.T) {
	b := newBench(t)
	b.start()
	var took []time.Duration
	for i := range 8 {
		name := fmt.Sprintf("p%d", i)
		begun := time.Now()
		b.write(name+".yaml", manifest(name, runForever))
		b.until(name, "Ready", ready)
		took = append(took, time.Since(begun))
	}
	slices.Sort(took)
	t.Logf("file to Ready over a runtime that takes no time: min %s median %s max %s", took[0], took[4], took[7])
	if took[0] > 400*time.Millisecond {
		t.Errorf("the fastest took %s, want at most 400 ms", took[0])
	}
	b.drain()
}

func TestInitThenAppsThenSucceeded(t *testing.T) {
	b := newBench(t)
	b.start()
	b.write("job.yaml", manifest("job", `
  restartPolicy: Never
  initContainers:
  - {name: first, image: 'nodekit.test/image:1', command: [exit, '0']}
  - {name: second, image: 'nodekit.test/image:1', command: [exit, '0']}
  containers:
  - {name: a, image: 'nodekit.test/image:1', command: [after, 20ms, exit, '0']}
  - {name: b, image: 'nodekit.test/image:1', command: [exit, '0']}
`))
	b.until("job", "Succeeded", phase(v1.PodSucceeded))
	if got, want := b.fake.started(), []string{"first", "second", "a", "b"}; !slices.Equal(got, want) {
		t.Errorf("started %v, want %v", got, want)
	}
	b.drain()
}

func TestFailingContainerIsRestartedOnceThenBacksOff(t *testing.T) {
	b := newBench(t)
	b.start()
	b.write("crash.yaml", manifest("crash", "  containers: [{name: c, image: 'nodekit.test/image:1', command: [exit, '3']}]\n"))
	p := b.until("crash", "in CrashLoopBackOff", func(p *v1.Pod) bool {
		return p != nil && len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].State.Waiting != nil &&
			p.Status.ContainerStatuses[0].State.Waiting.Reason == "CrashLoopBackOff"
	})
	c := p.Status.ContainerStatuses[0]
	if c.RestartCount != 1 || c.LastTerminationState.Terminated == nil || c.LastTerminationState.Terminated.ExitCode != 3 {
		t.Errorf("container status %+v", c)
	}
	if p.Status.Phase != v1.PodRunning {
		t.Errorf("phase %s", p.Status.Phase)
	}
	b.drain()
}

func TestRestartKeepsContainersAndEndsOrphans(t *testing.T) {
	b := newBench(t)
	b.start()
	b.write("keep.yaml", manifest("keep", runForever))
	b.write("drop.yaml", manifest("drop", runForever))
	before := b.until("keep", "Ready", ready)
	b.until("drop", "Ready", ready)
	b.stop()
	if err := os.Remove(filepath.Join(b.manifests, "drop.yaml")); err != nil {
		t.Fatal(err)
	}
	b.start()
	b.until("drop", "gone", gone)
	after := b.until("keep", "Ready", ready)
	if a, z := before.Status.ContainerStatuses[0], after.Status.ContainerStatuses[0]; a.ContainerID != z.ContainerID || z.RestartCount != 0 {
		t.Errorf("container was %s and is %s after %d restarts", a.ContainerID, z.ContainerID, z.RestartCount)
	}
	b.drain()
}

func TestChangedFileReplacesThePod(t *testing.T) {
	b := newBench(t)
	b.start()
	b.write("p.yaml", manifest("p", runForever))
	old := b.until("p", "Ready", ready)
	b.write("p.yaml", manifest("p", "  containers: [{name: other, image: 'nodekit.test/image:1', command: [run]}]\n"))
	b.until("p", "replaced and Ready", func(p *v1.Pod) bool { return ready(p) && p.UID != old.UID && p.Spec.Containers[0].Name == "other" })
	b.write("p.yaml", "not: [valid")
	time.Sleep(20 * time.Millisecond)
	if p := b.pod("p"); p == nil || p.DeletionTimestamp != nil {
		t.Error("an invalid file ended the Pod of its last good version")
	}
	b.drain()
}

func TestWhatIsMissingIsNamedAndWaitedFor(t *testing.T) {
	b := newBench(t)
	b.start()
	b.write("p.yaml", manifest("p", `
  containers:
  - name: c
    image: 'nodekit.test/image:1'
    command: [run]
    env: [{name: A, valueFrom: {configMapKeyRef: {name: settings, key: a}}}]
`))
	b.until("p", "waiting for its ConfigMap", func(p *v1.Pod) bool {
		return p != nil && len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].State.Waiting != nil &&
			p.Status.ContainerStatuses[0].State.Waiting.Reason == "CreateContainerConfigError" &&
			strings.Contains(p.Status.ContainerStatuses[0].State.Waiting.Message, "settings")
	})
	b.write("q.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {a: b}\n")
	b.until("p", "Ready", ready)
	b.drain()
}

func TestSecondNodeOnOneRootIsRefused(t *testing.T) {
	b := newBench(t)
	b.start()
	_, err := kubelet.New(b.config())
	if !errors.Is(err, fault.AlreadyExists) || !strings.Contains(err.Error(), "another node runs on this root") {
		t.Errorf("got %v", err)
	}
}

// TestReadyDoesNotFlapOverARestart watches every status that a restarted kubelet
// records of a Pod that was Ready by its probe.
func TestReadyDoesNotFlapOverARestart(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	b := newBench(t)
	b.start()
	b.write("p.yaml", manifest("p", fmt.Sprintf(`
  containers:
  - name: c
    image: 'nodekit.test/image:1'
    command: [run]
    startupProbe: {tcpSocket: {port: %[1]d}}
    readinessProbe: {tcpSocket: {port: %[1]d}}
`, l.Addr().(*net.TCPAddr).Port)))
	b.until("p", "Ready", ready)
	for range 5 {
		b.stop()
		b.start()
		ctx, cancel := context.WithTimeout(t.Context(), 150*time.Millisecond)
		err := b.kubelet.Client().Follow(ctx, &v1.Pod{}, "", kubeclient.Handler{
			Changed: func(o object.Object) {
				if p := o.(*v1.Pod); !ready(p) {
					t.Errorf("after a restart a status says: %s", describe(p))
				}
			},
			Gone: func(object.Object) {}, Synced: func() {},
		})
		cancel()
		if err != nil {
			t.Error(err)
		}
	}
	b.drain()
}

// TestLabelOfAUser has a Pod that selects a label which a user gave the node, and
// one for a label that it does not have.
func TestLabelOfAUser(t *testing.T) {
	b := newBench(t)
	b.start()
	api := b.kubelet.Client()
	var n v1.Node
	for end := time.Now().Add(10 * time.Second); api.Get(t.Context(), "", "node", &n) != nil; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the node's object does not come")
		}
	}
	patch := []byte(`{"metadata":{"labels":{"disk":"ssd"}}}`)
	if err := api.Patch(t.Context(), &n, types.MergePatchType, patch); err != nil {
		t.Fatal(err)
	}
	b.write("fast.yaml", manifest("fast", "  nodeSelector: {disk: ssd}\n"+runForever))
	b.write("slow.yaml", manifest("slow", "  nodeSelector: {disk: hdd}\n"+runForever))
	b.until("fast", "Ready", ready)
	if p := b.until("slow", "Failed", phase(v1.PodFailed)); p.Status.Reason != "NodeAffinity" {
		t.Errorf("the Pod for another disk failed with %q: %s", p.Status.Reason, p.Status.Message)
	}
	b.drain()
}

// TestSandboxThatComesAfterItsPodIsEnded has a runtime that makes a sandbox
// although its kubelet, whose Pod was to end, has given up on it.
func TestSandboxThatComesAfterItsPodIsEnded(t *testing.T) {
	b := newBench(t)
	b.fake.hold = make(chan struct{})
	b.start()
	b.write("p.yaml", manifest("p", runForever))
	b.until("p", "there", func(p *v1.Pod) bool { return p != nil && p.Status.Phase == v1.PodPending })
	time.Sleep(50 * time.Millisecond) // the runtime is at it
	if err := os.Remove(filepath.Join(b.manifests, "p.yaml")); err != nil {
		t.Fatal(err)
	}
	b.until("p", "gone", gone)
	close(b.fake.hold)
	c, err := client.Dial(b.fake.endpoint, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	time.Sleep(50 * time.Millisecond)
	var left int
	for range 1000 {
		resp, err := c.Runtime.ListPodSandbox(t.Context(), &runtimeapi.ListPodSandboxRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if left = len(resp.Items); left == 0 {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	if left > 0 {
		t.Errorf("%d sandboxes are left of a Pod that is gone", left)
	}
	b.drain()
}

func TestDrainEndsWithTheKubelet(t *testing.T) {
	b := newBench(t)
	b.start()
	b.write("p.yaml", manifest("p", runForever))
	b.until("p", "Ready", ready)
	b.fake.mu.Lock()
	b.fake.deaf = true
	b.fake.mu.Unlock()
	done := make(chan error, 1)
	go func() { done <- b.kubelet.Drain(context.Background()) }()
	b.until("p", "ending", func(p *v1.Pod) bool { return p.DeletionTimestamp != nil })
	b.stop()
	select {
	case err := <-done:
		if !errors.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "does not run any more") {
			t.Errorf("draining a kubelet that stopped: %v", err)
		}
	case <-time.After(5 * time.Second):
		t.Error("draining a kubelet that stopped does not end")
	}
}
