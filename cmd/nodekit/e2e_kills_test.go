package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

var (
	kills    = flag.Int("kills", 30, "how often TestRandomKills kills the node; make kills does it 300 times")
	killSeed = flag.Uint64("kill-seed", 0, "what TestRandomKills draws its moments from; 0 takes the time")
)

// lives are Pods that a node is killed under, with the phase that they end in.
// A file is printed only once however often the node dies, so a container that
// was run twice shows. ROUND stands for the number of the round.
func lives() map[string]struct {
	spec  string
	phase v1.PodPhase
} {
	const image = "nodekit.dev/podtool:v1"
	return map[string]struct {
		spec  string
		phase v1.PodPhase
	}{
		"once": {`
  restartPolicy: Never
  containers: [{name: c, image: ` + image + `, args: [do, "echo once", "sleep 300ms"]}]`, v1.PodSucceeded},
		"fails": {`
  restartPolicy: Never
  containers: [{name: c, image: ` + image + `, args: [do, "echo once", "sleep 200ms", "exit 3"]}]`, v1.PodFailed},
		"init": {`
  restartPolicy: Never
  volumes: [{name: v}, {name: cm, configMap: {name: kept-0}}]
  initContainers:
  - {name: i, image: ` + image + `, args: [do, "echo once", "write /v/x done"], volumeMounts: [{name: v, mountPath: /v}]}
  containers:
  - {name: c, image: ` + image + `, args: [do, "echo once", "check-file /v/x done", "sleep 100ms"], volumeMounts: [{name: v, mountPath: /v}, {name: cm, mountPath: /cm}]}`, v1.PodSucceeded},
		"claim": {`
  restartPolicy: Never
  volumes: [{name: v, persistentVolumeClaim: {claimName: claim-ROUND}}]
  initContainers:
  - {name: i, image: ` + image + `, args: [do, "echo once", "write /v/x done"], volumeMounts: [{name: v, mountPath: /v}]}
  containers:
  - {name: c, image: ` + image + `, args: [do, "echo once", "check-file /v/x done"], volumeMounts: [{name: v, mountPath: /v}]}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: claim-ROUND}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}`, v1.PodSucceeded},
		// Both GPUs, so a round whose Pod left one behind stops the next.
		"device": {`
  restartPolicy: Never
  containers:
  - name: c
    image: ` + image + `
    args: [do, "echo once", "stat-device /dev/nodekit-gpu0", "stat-device /dev/nodekit-gpu1"]
    resources: {limits: {nodekit.dev/gpu: 2}}`, v1.PodSucceeded},
		"sidecar": {`
  restartPolicy: Never
  initContainers:
  - {name: s, image: ` + image + `, restartPolicy: Always, args: [trap, "0"]}
  containers: [{name: c, image: ` + image + `, args: [do, "echo once", "sleep 200ms"]}]`, v1.PodSucceeded},
		"stays": {`
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: ` + image + `, args: [trap, "0"]}]`, v1.PodRunning},
	}
}

// TestRandomKills kills the node at random moments, its start included, while
// Pods live on it: every Pod ends as its spec says, no container runs twice, no
// object that was taken is lost, and nothing is left in the end.
func TestRandomKills(t *testing.T) {
	seed := *killSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("to repeat: go test ./cmd/nodekit -run TestRandomKills -kills %d -kill-seed %d", *kills, seed)
	k := &killer{daemon: newCLI(t).daemon(), random: rand.New(rand.NewPCG(seed, 0)), left: *kills}
	t.Cleanup(func() {
		if t.Failed() { // what is left would be in the way of others
			k.reset()
		}
	})
	k.begin() // the nodes' own cleanups, which kill them, come first
	for round := 0; k.left > 0; round++ {
		k.round(round)
	}
	k.lifetime()
	k.objects()
	k.volumes()
	for _, p := range k.list() {
		t.Errorf("Pod %q is left", p.Name)
	}
	k.node.interrupt()
	k.node.exit()
	k.clean(k.reset() + k.out)
}

// killer is a node that is killed again and again.
type killer struct {
	*daemon
	random *rand.Rand
	left   int // kills to come
	node   *process
	out    string // what the killed ones printed
	dies   time.Time
	kept   int // ConfigMaps that the API has taken
}

// begin starts the node and draws the moment of its death.
func (k *killer) begin() {
	k.node = k.start("node", "--root", k.root, "--run", k.runDir, "--manifests", k.manifests, "--image-archive", filepath.Join(k.bin, "images", "podtool.tar"))
	k.dies = time.Now().Add(time.Duration(k.random.Int64N(int64(600 * time.Millisecond))))
}

// tick lets a moment go by, in which the node may die and start again.
func (k *killer) tick() {
	time.Sleep(5 * time.Millisecond)
	if k.left == 0 || time.Now().Before(k.dies) {
		return
	}
	k.left--
	k.node.kill()
	k.out += k.node.out.String()
	k.begin()
}

// round lets one Pod of each kind live, and takes them away.
func (k *killer) round(n int) {
	k.t.Helper()
	k.keep()
	for name, life := range lives() {
		k.manifest(name+".yaml", fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: %s-%d}\nspec:%s\n", name, n, strings.ReplaceAll(life.spec, "ROUND", strconv.Itoa(n))))
	}
	k.until("as their specs say", func(pods map[string]*v1.Pod) error {
		for name, life := range lives() {
			if err := lived(pods[fmt.Sprintf("%s-%d", name, n)], life.phase); err != nil {
				return fmt.Errorf("%s-%d: %w", name, n, err)
			}
		}
		return nil
	})
	k.once(n)
	for name := range lives() {
		if err := os.Remove(filepath.Join(k.manifests, name+".yaml")); err != nil {
			k.t.Fatal(err)
		}
	}
	k.until("gone", func(pods map[string]*v1.Pod) error {
		if len(pods) > 0 {
			return fmt.Errorf("%d are left", len(pods))
		}
		return nil
	})
	k.unclaim(fmt.Sprintf("claim-%d", n))
}

// errFinal is for what no time mends.
var errFinal = errors.New("that is final")

// lived says what is wrong with the Pod's life so far, with an error that lasts
// if it is a container that ran twice.
func lived(p *v1.Pod, want v1.PodPhase) error {
	switch {
	case p == nil:
		return errors.New("it is not there")
	case (p.Status.Phase == v1.PodSucceeded || p.Status.Phase == v1.PodFailed) && p.Status.Phase != want:
		return fmt.Errorf("%w: it is %s: %+v", errFinal, p.Status.Phase, p.Status.ContainerStatuses)
	case p.Status.Phase != want || want == v1.PodRunning && !isReady(p):
		return fmt.Errorf("phase %s (%s %s), want %s", p.Status.Phase, p.Status.Reason, p.Status.Message, want)
	}
	for _, list := range [][]v1.ContainerStatus{p.Status.InitContainerStatuses, p.Status.ContainerStatuses} {
		for _, c := range list {
			if c.RestartCount > 0 {
				return fmt.Errorf("%w: container %s was restarted %d times: it had ended with %+v", errFinal, c.Name, c.RestartCount, c.LastTerminationState.Terminated)
			}
		}
	}
	return nil
}

// once looks into the logs for a container that ran twice.
func (k *killer) once(n int) {
	k.t.Helper()
	logs, err := filepath.Glob(filepath.Join(k.root, "logs", fmt.Sprintf("*-%d_*", n), "*", "*.log"))
	if err != nil {
		k.t.Fatal(err)
	}
	for _, path := range logs {
		data, err := os.ReadFile(path)
		if err != nil {
			k.t.Fatal(err)
		}
		if times := strings.Count(string(data), "once"); times > 1 || filepath.Base(path) != "0.log" {
			k.t.Errorf("%s: the container ran %d times", path, times)
		}
	}
}

// client returns a client of the node, or nil while there is none.
func (k *killer) client() *kubernetes.Clientset {
	config, err := clientcmd.BuildConfigFromFlags("", filepath.Join(k.runDir, "kubeconfig"))
	if err != nil {
		return nil
	}
	config.Timeout = 2 * time.Second
	c, err := kubernetes.NewForConfig(config)
	if err != nil {
		k.t.Fatal(err)
	}
	return c
}

// list returns the Pods, or nil while the API is away.
func (k *killer) list() map[string]*v1.Pod {
	c := k.client()
	if c == nil {
		return nil
	}
	list, err := c.CoreV1().Pods("default").List(context.Background(), metav1.ListOptions{})
	if err != nil {
		return nil
	}
	pods := map[string]*v1.Pod{}
	for i := range list.Items {
		pods[list.Items[i].Name] = &list.Items[i]
	}
	return pods
}

// until waits for the Pods to be as wanted while the node dies and lives.
func (k *killer) until(what string, ok func(map[string]*v1.Pod) error) {
	k.t.Helper()
	var last error
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); k.tick() {
		pods := k.list()
		if pods == nil {
			continue
		}
		if last = ok(pods); last == nil {
			return
		}
		if errors.Is(last, errFinal) {
			break
		}
	}
	k.t.Fatalf("after %d kills Pods are not %s: %v\n%s", *kills-k.left, what, last, k.node.out)
}

// keep creates an object through the API. What it has taken must never be lost.
func (k *killer) keep() {
	k.t.Helper()
	o := &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("kept-%d", k.kept)}}
	k.ask("takes object "+o.Name, func(c *kubernetes.Clientset) error {
		_, err := c.CoreV1().ConfigMaps("default").Create(context.Background(), o, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			return nil // it was taken, and the answer lost
		}
		return err
	})
	k.kept++
}

// unclaim deletes a claim through the API: no missing file does that.
func (k *killer) unclaim(name string) {
	k.t.Helper()
	k.ask("deletes claim "+name, func(c *kubernetes.Clientset) error {
		err := c.CoreV1().PersistentVolumeClaims("default").Delete(context.Background(), name, metav1.DeleteOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	})
}

// ask makes a request until it is answered while the node dies and lives.
func (k *killer) ask(what string, request func(*kubernetes.Clientset) error) {
	k.t.Helper()
	var last error
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); k.tick() {
		c := k.client()
		if c == nil {
			continue
		}
		if last = request(c); last == nil {
			return
		}
	}
	k.t.Fatalf("the API never %s within a minute: %v", what, last)
}

// objects checks that every object that was taken is there.
func (k *killer) objects() {
	k.t.Helper()
	list, err := k.client().CoreV1().ConfigMaps("default").List(context.Background(), metav1.ListOptions{})
	if err != nil {
		k.t.Fatal(err)
	}
	if len(list.Items) != k.kept {
		k.t.Errorf("%d objects were taken and %d are there", k.kept, len(list.Items))
	}
}

// lifetime waits until the node that lives on is up.
func (k *killer) lifetime() {
	k.t.Helper()
	k.until("listed", func(map[string]*v1.Pod) error { return nil })
}

// volumes waits until the storage of all claims, which were deleted, is gone too.
func (k *killer) volumes() {
	k.t.Helper()
	var left []string
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		var err error
		if left, err = filepath.Glob(filepath.Join(k.root, "hostpath", "volumes", "*")); err != nil {
			k.t.Fatal(err)
		}
		if len(left) == 0 {
			return
		}
	}
	for _, path := range left {
		record, err := os.ReadFile(path)
		k.t.Errorf("a volume is left of a claim that is gone: %s %v", record, err)
	}
}
