package nodetest_test

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/nodekit-project/nodekit/kubelet/node"
	"github.com/nodekit-project/nodekit/kubelet/nodetest"
)

// record is what an informer has seen.
type record struct {
	mu     sync.Mutex
	here   map[string]bool   // by kind and name
	ready  bool              // the Pod p has been Ready
	flaps  []string          // what a running Pod must not be seen as
	before map[string]string // its containers by name, as first seen
}

func (r *record) see(o any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p, ok := o.(*v1.Pod)
	if !ok {
		r.here["configmap/"+o.(*v1.ConfigMap).Name] = true
		return
	}
	r.here["pod/"+p.Name] = true
	if p.Name == "p" {
		r.watch(p)
	}
}

// watch notes where the Pod stops being Ready, or has another container.
func (r *record) watch(p *v1.Pod) {
	if !node.Ready(p) {
		if r.ready {
			r.flaps = append(r.flaps, fmt.Sprintf("not Ready at revision %s: %+v", p.ResourceVersion, p.Status.Conditions))
		}
		return
	}
	r.ready = true
	now := map[string]string{}
	for _, s := range p.Status.ContainerStatuses {
		now[s.Name] = fmt.Sprint(s.ContainerID, s.RestartCount)
	}
	if r.before == nil {
		r.before = now
	}
	if !maps.Equal(now, r.before) {
		r.flaps = append(r.flaps, fmt.Sprintf("containers %v, before %v", now, r.before))
	}
}

func (r *record) gone(o any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if unknown, ok := o.(cache.DeletedFinalStateUnknown); ok {
		o = unknown.Obj
	}
	switch o := o.(type) {
	case *v1.Pod:
		delete(r.here, "pod/"+o.Name)
	case *v1.ConfigMap:
		delete(r.here, "configmap/"+o.Name)
	}
}

// await waits until exactly these objects are there.
func (r *record) await(t *testing.T, want ...string) {
	t.Helper()
	slices.Sort(want)
	var have []string
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		r.mu.Lock()
		have = slices.Sorted(maps.Keys(r.here))
		r.mu.Unlock()
		if slices.Equal(have, want) {
			return
		}
	}
	t.Fatalf("the informers show %v, want %v", have, want)
}

func inform(t *testing.T, n *nodetest.Node) (*record, kubernetes.Interface) {
	t.Helper()
	client, err := kubernetes.NewForConfig(n.RESTConfig())
	if err != nil {
		t.Fatal(err)
	}
	r := &record{here: map[string]bool{}}
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(v1.NamespaceDefault))
	for _, i := range []cache.SharedIndexInformer{factory.Core().V1().Pods().Informer(), factory.Core().V1().ConfigMaps().Informer()} {
		if _, err := i.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: r.see, UpdateFunc: func(_, o any) { r.see(o) }, DeleteFunc: r.gone}); err != nil {
			t.Fatal(err)
		}
	}
	factory.StartWithContext(t.Context())
	t.Cleanup(factory.Shutdown)
	factory.WaitForCacheSync(t.Context().Done())
	return r, client
}

// TestInformerSurvivesARestart has client-go's informers watch a node that is
// restarted, as a controller does: what happened before, meanwhile and after is
// seen, and a Pod that runs is never seen as one that does not.
func TestInformerSurvivesARestart(t *testing.T) {
	n := start(t, node.Config{})
	r, client := inform(t, n)
	n.Apply(podOf(`[sleep, forever]`, ""))
	n.WaitReady("p")
	for _, name := range []string{"stays", "goes"} {
		n.Apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: " + name + "}\n")
	}
	r.await(t, "pod/p", "configmap/stays", "configmap/goes")
	// The deletion is the last that the API does: its watches may end before they
	// tell. One restart: client-go waits up to 30 s after a second one.
	if err := client.CoreV1().ConfigMaps(v1.NamespaceDefault).Delete(t.Context(), "goes", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	n.Restart()
	r.await(t, "pod/p", "configmap/stays")
	n.Apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: goes}\n")
	r.await(t, "pod/p", "configmap/stays", "configmap/goes")
	n.WaitReady("p")
	if err := client.CoreV1().Pods(v1.NamespaceDefault).Delete(t.Context(), "p", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	flaps := slices.Clone(r.flaps)
	r.ready = false // it ends now
	r.mu.Unlock()
	r.await(t, "configmap/stays", "configmap/goes")
	if len(flaps) > 0 {
		t.Errorf("the Pod was seen as %q", flaps)
	}
}
