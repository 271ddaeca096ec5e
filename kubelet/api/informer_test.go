package api_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	typedv1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/nodekit-project/nodekit/kubelet/object"
)

// sight is what one informer's handler was told.
type sight struct {
	informer cache.SharedIndexInformer

	mu   sync.Mutex
	last map[string]string // resourceVersion by name; of what is gone there is none
	odd  []string
}

func (s *sight) told(o any, deleted bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if unknown, ok := o.(cache.DeletedFinalStateUnknown); ok {
		o = unknown.Obj
	}
	cm := o.(*v1.ConfigMap)
	if deleted {
		delete(s.last, cm.Name)
		return
	}
	if had := s.last[cm.Name]; len(had) > len(cm.ResourceVersion) || len(had) == len(cm.ResourceVersion) && had > cm.ResourceVersion {
		s.odd = append(s.odd, fmt.Sprintf("%s went from %s back to %s", cm.Name, had, cm.ResourceVersion))
	}
	s.last[cm.Name] = cm.ResourceVersion
}

// ownClient returns a client with connections of its own.
func ownClient(t *testing.T, config *rest.Config, n int) kubernetes.Interface {
	t.Helper()
	own := rest.CopyConfig(config)
	own.UserAgent = fmt.Sprint("client-", n) // a transport of its own
	own.Dial = (&net.Dialer{}).DialContext   // which is not shared by equal configurations
	if n%2 == 0 {
		own.ContentType = "application/vnd.kubernetes.protobuf"
	}
	client, err := kubernetes.NewForConfig(own)
	must(t, err)
	return client
}

// trail is what one watch was told, in order, over all its resumptions.
type trail struct {
	begun   chan struct{} // closed when the first watch is there
	mu      sync.Mutex
	steps   []string
	resumed int
}

func step(kind any, name, revision string) string { return fmt.Sprint(kind, " ", name, " ", revision) }

// trace watches without an informer until ctx ends: when the watch is cut, another
// goes on from the last resourceVersion that it saw.
func trace(ctx context.Context, client kubernetes.Interface, from string) *trail {
	tr := &trail{begun: make(chan struct{})}
	begin := sync.OnceFunc(func() { close(tr.begun) })
	go func() {
		for ; ctx.Err() == nil; time.Sleep(time.Millisecond) {
			w, err := client.CoreV1().ConfigMaps("default").Watch(ctx, metav1.ListOptions{ResourceVersion: from})
			if err != nil {
				continue // cut before it began
			}
			begin()
			for e := range w.ResultChan() {
				tr.mu.Lock()
				if cm, ok := e.Object.(*v1.ConfigMap); ok {
					from = cm.ResourceVersion
					tr.steps = append(tr.steps, step(e.Type, cm.Name, from))
				} else {
					tr.steps = append(tr.steps, fmt.Sprintf("%s %v", e.Type, e.Object))
				}
				tr.mu.Unlock()
			}
			tr.mu.Lock()
			tr.resumed++
			tr.mu.Unlock()
		}
	}()
	return tr
}

// holds waits until the trail is as long as the store's, which it is to be.
func (tr *trail) holds(t *testing.T, n int, want []string) {
	t.Helper()
	tr.wait(len(want))
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if diff := cmp.Diff(want, tr.steps); diff != "" {
		t.Fatalf("watch %d, resumed %d times:\n%s", n, tr.resumed, diff)
	}
	if tr.resumed == 0 {
		t.Errorf("watch %d was never cut", n)
	}
}

func (tr *trail) wait(length int) {
	for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		tr.mu.Lock()
		enough := len(tr.steps) >= length
		tr.mu.Unlock()
		if enough {
			return
		}
	}
}

// follow starts an informer with a client of its own.
func follow(t *testing.T, ctx context.Context, config *rest.Config, n int) *sight {
	t.Helper()
	factory := informers.NewSharedInformerFactoryWithOptions(ownClient(t, config, n), 0)
	s := &sight{informer: factory.Core().V1().ConfigMaps().Informer(), last: map[string]string{}}
	_, err := s.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(o any) { s.told(o, false) }, UpdateFunc: func(_, o any) { s.told(o, false) }, DeleteFunc: func(o any) { s.told(o, true) },
	})
	must(t, err)
	factory.Start(ctx.Done())
	t.Cleanup(factory.Shutdown)
	return s
}

// TestInformersMissNothing has 50 informers and 10 bare watches whose connections
// are cut at random while objects change. In the end each informer has what the
// store has, and was told so, also of the half that does not change again once
// nothing is cut any more; and each watch was told every change, once, in order.
func TestInformersMissNothing(t *testing.T) {
	s := serve(t, t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	kind, err := object.KindOf(&v1.ConfigMap{})
	must(t, err)
	s.make(t, "POST", pods, podDoc) // so that there is a revision to watch from
	start := s.store.Revision()
	all := s.store.Watch(kind, start)
	var sights []*sight
	for n := range 50 {
		sights = append(sights, follow(t, ctx, s.config, n))
	}
	var trails []*trail
	for n := range 10 {
		trails = append(trails, trace(ctx, ownClient(t, s.config, 50+n), fmt.Sprint(start)))
	}
	for _, trail := range trails { // one that begins when all is over is never cut
		select {
		case <-trail.begun:
		case <-time.After(time.Minute):
			t.Fatal("a watch did not begin within a minute")
		}
	}
	cut := disturb(ctx, t, s)
	if cut < 50 {
		t.Errorf("only %d connections were cut", cut)
	}
	events, err := all.Next(t.Context())
	must(t, err)
	var steps []string
	for _, e := range events {
		steps = append(steps, step(e.Type, e.Object.GetName(), e.Object.GetResourceVersion()))
	}
	for n, trail := range trails {
		trail.holds(t, n, steps)
	}
	objects, _ := s.store.List(kind, "")
	want := map[string]string{}
	for _, o := range objects {
		want[o.GetName()] = o.GetResourceVersion()
	}
	for n, sight := range sights {
		settle(t, n, sight, want)
	}
}

// disturb changes 20 objects at random and cuts connections meanwhile, and then
// changes every other one once more. It returns how many connections were cut.
func disturb(ctx context.Context, t *testing.T, s *testServer) (cut int) {
	t.Helper()
	random := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // repeatable on purpose
	client, err := kubernetes.NewForConfig(s.config)
	must(t, err)
	maps := client.CoreV1().ConfigMaps("default")
	for i := range 600 {
		change(ctx, maps, fmt.Sprint("cm", random.IntN(20)), fmt.Sprint(i), random.IntN(3))
		if i%20 == 0 {
			cut += s.listener.cut(func() bool { return random.IntN(8) == 0 })
		}
	}
	cut += s.listener.cut(func() bool { return true }) // after the last change of half of them
	for i := 0; i < 20; i += 2 {
		change(ctx, maps, fmt.Sprint("cm", i), "last", i%4)
	}
	return cut
}

// change creates or updates, or deletes. Its connection may be cut: then it tries again.
func change(ctx context.Context, maps typedv1.ConfigMapInterface, name, value string, do int) {
	for range 10 {
		var err error
		if do == 2 {
			err = maps.Delete(ctx, name, metav1.DeleteOptions{})
		} else {
			cm := &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"v": value}}
			if _, err = maps.Update(ctx, cm, metav1.UpdateOptions{}); err != nil {
				_, err = maps.Create(ctx, cm, metav1.CreateOptions{})
			}
		}
		if err == nil || do == 2 {
			return
		}
	}
}

// settle waits until the informer has what is wanted, in its store and by what it told.
func settle(t *testing.T, n int, s *sight, want map[string]string) {
	t.Helper()
	var stored, told map[string]string
	deadline := time.Now().Add(60 * time.Second)
	for {
		stored = map[string]string{}
		must(t, cache.ListAll(s.informer.GetStore(), labels.Everything(), func(o any) {
			stored[o.(*v1.ConfigMap).Name] = o.(*v1.ConfigMap).ResourceVersion
		}))
		s.mu.Lock()
		told = map[string]string{}
		for name, rv := range s.last {
			told[name] = rv
		}
		odd := s.odd
		s.mu.Unlock()
		if len(odd) > 0 {
			t.Fatalf("informer %d: %v", n, odd)
		}
		if cmp.Equal(stored, want) && cmp.Equal(told, want) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("informer %d: store:\n%s\ntold:\n%s", n, cmp.Diff(want, stored), cmp.Diff(want, told))
		}
		time.Sleep(20 * time.Millisecond)
	}
}
