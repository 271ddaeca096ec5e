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

// follow starts an informer with a client, and so connections, of its own.
func follow(t *testing.T, ctx context.Context, config *rest.Config, n int) *sight {
	t.Helper()
	own := rest.CopyConfig(config)
	own.UserAgent = fmt.Sprint("informer-", n) // a transport of its own
	own.Dial = (&net.Dialer{}).DialContext     // which is not shared by equal configurations
	if n%2 == 0 {
		own.ContentType = "application/vnd.kubernetes.protobuf"
	}
	client, err := kubernetes.NewForConfig(own)
	must(t, err)
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0)
	s := &sight{informer: factory.Core().V1().ConfigMaps().Informer(), last: map[string]string{}}
	_, err = s.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(o any) { s.told(o, false) }, UpdateFunc: func(_, o any) { s.told(o, false) }, DeleteFunc: func(o any) { s.told(o, true) },
	})
	must(t, err)
	factory.Start(ctx.Done())
	t.Cleanup(factory.Shutdown)
	return s
}

// TestInformersMissNothing has 50 informers whose connections are cut at random
// while objects change: in the end each has what the store has, and was told so.
func TestInformersMissNothing(t *testing.T) {
	s := serve(t, t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	var sights []*sight
	for n := range 50 {
		sights = append(sights, follow(t, ctx, s.config, n))
	}
	random := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // repeatable on purpose
	client, err := kubernetes.NewForConfig(s.config)
	must(t, err)
	maps, cut := client.CoreV1().ConfigMaps("default"), 0
	for i := range 600 {
		name := fmt.Sprint("cm", random.IntN(20))
		change(ctx, maps, name, fmt.Sprint(i), random.IntN(3))
		if i%20 == 0 {
			cut += s.listener.cut(func() bool { return random.IntN(8) == 0 })
		}
	}
	for i := range 20 { // a final state that is sure to differ from what was before
		change(ctx, maps, fmt.Sprint("cm", i), "last", i%2*2)
	}
	if cut < 50 {
		t.Errorf("only %d connections were cut", cut)
	}
	kind, err := object.KindOf(&v1.ConfigMap{})
	must(t, err)
	objects, _ := s.store.List(kind, "")
	want := map[string]string{}
	for _, o := range objects {
		want[o.GetName()] = o.GetResourceVersion()
	}
	for n, sight := range sights {
		settle(t, n, sight, want)
	}
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
