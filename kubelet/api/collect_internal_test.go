package api

import (
	"crypto/tls"
	"net/http"
	"path/filepath"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodekit-project/nodekit/kubelet/api/store"
	"github.com/nodekit-project/nodekit/kubelet/object"
)

// idle returns a server that serves nobody and does not collect.
func idle(t *testing.T) *Server {
	t.Helper()
	objects, err := store.Open(filepath.Join(t.TempDir(), "objects.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := objects.Close(); err != nil {
			t.Error(err)
		}
	})
	s, err := New(Config{Store: objects, NodeName: "node", Kubelet: http.DefaultTransport, TLS: &tls.Config{}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// put stores an object as change makes it of what is stored.
func put[T object.Object](t *testing.T, s *Server, name string, change func(T)) T {
	t.Helper()
	k, err := object.KindOf(*new(T))
	if err != nil {
		t.Fatal(err)
	}
	namespace := ""
	if k.Namespaced {
		namespace = "ns"
	}
	o, err := s.config.Store.Write(k, namespace, name, func(old store.Object) (store.Object, error) {
		next := k.New()
		if old != nil {
			next = old.DeepCopyObject().(object.Object)
		}
		next.SetNamespace(namespace)
		next.SetName(name)
		change(next.(T))
		return next, nil
	}, store.WriteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return o.(T)
}

func (s *Server) has(resource, name string) bool {
	_, err := s.config.Store.Get(find(schema.GroupVersion{Version: "v1"}, resource), "ns", name)
	return err == nil
}

// TestCollectorActsOnWhatIs has objects that change after the collector looked:
// it does not end one that got an owner that stays.
func TestCollectorActsOnWhatIs(t *testing.T) {
	of := func(owner types.UID) func(*v1.ConfigMap) {
		return func(c *v1.ConfigMap) {
			c.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: "x", UID: owner}}
		}
	}
	s := idle(t)
	stays := put(t, s, "stays", func(*v1.ConfigMap) {})
	ends := put(t, s, "ends", func(c *v1.ConfigMap) {
		now, none := metav1.Now(), int64(0)
		c.DeletionTimestamp, c.DeletionGracePeriodSeconds, c.Finalizers = &now, &none, []string{metav1.FinalizerDeleteDependents}
	})
	put(t, s, "orphan", of("gone"))
	put(t, s, "child", of(ends.UID))
	put(t, s, "lost", of("gone"))
	seen := s.world()
	put(t, s, "orphan", of(stays.UID))
	put(t, s, "child", of(stays.UID))
	if !s.tidy(seen) || seen.failed {
		t.Error("nothing was done, or something failed")
	}
	if !s.has("configmaps", "orphan") || !s.has("configmaps", "child") {
		t.Error("what has an owner again was deleted")
	}
	if s.has("configmaps", "lost") {
		t.Error("what has no owner is there")
	}
}

// TestNamespaceGoesEmpty has an object that came when the collector had looked
// at its kind, and before its namespace ended: that stays for it.
func TestNamespaceGoesEmpty(t *testing.T) {
	s := idle(t)
	put(t, s, "ns", func(ns *v1.Namespace) {
		now, none := metav1.Now(), int64(0)
		ns.DeletionTimestamp, ns.DeletionGracePeriodSeconds, ns.Spec.Finalizers = &now, &none, []v1.FinalizerName{v1.FinalizerKubernetes}
	})
	seen := s.world()
	put(t, s, "late", func(*v1.ConfigMap) {})
	s.tidy(seen)
	if _, err := s.config.Store.Get(find(schema.GroupVersion{Version: "v1"}, "namespaces"), "", "ns"); err != nil {
		t.Errorf("the namespace went before what is in it: %v", err)
	}
}

// slipping is an object whose namespace goes once, as soon as somebody made it.
type slipping struct {
	*v1.ConfigMap

	slip func() (slipped bool)
	done bool
}

func (s *slipping) GetNamespace() string {
	s.done = s.done || s.slip()
	return s.ConfigMap.GetNamespace()
}

// TestCreateInNamespaceThatGoes has a namespace that goes between the step that
// makes it and the one that needs it: it is made again.
func TestCreateInNamespaceThatGoes(t *testing.T) {
	s := idle(t)
	spaces := find(schema.GroupVersion{Version: "v1"}, "namespaces")
	o := &slipping{ConfigMap: &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "c"}}}
	o.slip = func() bool {
		if _, err := s.config.Store.Get(spaces, "", "ns"); err != nil {
			return false
		}
		_, err := s.config.Store.Write(spaces, "", "ns", func(store.Object) (store.Object, error) { return nil, nil }, store.WriteOptions{}) //nolint:nilnil // it goes
		if err != nil {
			t.Error(err)
		}
		return true
	}
	e := &edit{target: target{kind: find(schema.GroupVersion{Version: "v1"}, "configmaps"), namespace: "ns"}}
	if _, err := s.insert(e, o); err != nil || !o.done {
		t.Fatalf("%v, and the namespace went: %v", err, o.done)
	}
	if _, err := s.config.Store.Get(spaces, "", "ns"); err != nil {
		t.Errorf("the object is there, and its namespace is not: %v", err)
	}
}
