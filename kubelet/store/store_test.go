package store_test

import (
	"errors"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/kubelet/store"
)

func open(t *testing.T, file string) *store.Store {
	t.Helper()
	s, err := store.Open(file, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func named(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: "default", Name: name} }

func TestObjectsSurviveReopening(t *testing.T) {
	file := filepath.Join(t.TempDir(), "objects.db")
	s := open(t, file)
	made := &v1.ConfigMap{ObjectMeta: named("a"), Data: map[string]string{"k": "v"}}
	if err := s.Create(t.Context(), made); err != nil {
		t.Fatal(err)
	}
	if made.UID == "" || made.ResourceVersion == "" {
		t.Fatalf("Create set uid %q and resourceVersion %q", made.UID, made.ResourceVersion)
	}
	id := s.ID()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, file)
	var got v1.ConfigMap
	if err := s.Get(t.Context(), "default", "a", &got); err != nil {
		t.Fatal(err)
	}
	if got.Data["k"] != "v" || got.UID != made.UID || s.ID() != id {
		t.Errorf("after reopening: %v, id %q", got, s.ID())
	}
	if err := s.Update(t.Context(), &got); err != nil || got.ResourceVersion != made.ResourceVersion {
		t.Fatalf("an update that changes nothing: resourceVersion %s after %s, %v", got.ResourceVersion, made.ResourceVersion, err)
	}
	got.Data["k"] = "w"
	if err := s.Update(t.Context(), &got); err != nil {
		t.Fatal(err)
	}
	before, _ := strconv.Atoi(made.ResourceVersion)
	if after, _ := strconv.Atoi(got.ResourceVersion); after <= before {
		t.Errorf("resourceVersion went from %d to %d over a restart", before, after)
	}
}

func TestStaleWritesAreRefused(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "objects.db"))
	first := &v1.Secret{ObjectMeta: named("s")}
	if err := s.Create(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	stale := first.DeepCopy()
	first.Data = map[string][]byte{"k": nil}
	if err := s.Update(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	cases := map[string]struct {
		err  error
		want fault.Kind
	}{
		"create twice":       {s.Create(t.Context(), first.DeepCopy()), fault.AlreadyExists},
		"old version":        {s.Update(t.Context(), stale), fault.Aborted},
		"other uid":          {s.Update(t.Context(), &v1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "s", UID: "x"}}), fault.Aborted},
		"delete other uid":   {s.Delete(t.Context(), &v1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "s", UID: "x"}}), fault.NotFound},
		"update what is not": {s.Update(t.Context(), &v1.Secret{ObjectMeta: named("t")}), fault.NotFound},
		"get other kind":     {s.Get(t.Context(), "default", "s", &v1.ConfigMap{}), fault.NotFound},
		"no name":            {s.Create(t.Context(), &v1.Secret{}), fault.Invalid},
	}
	for name, c := range cases {
		if !errors.Is(c.err, c.want) {
			t.Errorf("%s: got %v, want %v", name, c.err, c.want)
		}
	}
}

func TestWatchMissesNothing(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "objects.db"))
	if err := s.Create(t.Context(), &v1.Pod{ObjectMeta: named("p0")}); err != nil {
		t.Fatal(err)
	}
	events, err := s.Watch(t.Context(), &v1.Pod{})
	if err != nil {
		t.Fatal(err)
	}
	p1 := &v1.Pod{ObjectMeta: named("p1")}
	if err := errors.Join(s.Create(t.Context(), p1), s.Create(t.Context(), &v1.Secret{ObjectMeta: named("other")}),
		s.SetStatus(t.Context(), types.NamespacedName{Namespace: "default", Name: "p1"}, p1.UID, v1.PodStatus{Phase: v1.PodRunning}),
		s.Delete(t.Context(), p1)); err != nil {
		t.Fatal(err)
	}
	want := []store.EventType{store.Added, store.Synced, store.Added, store.Modified, store.Deleted}
	last := 0
	for i, w := range want {
		select {
		case e := <-events:
			if e.Type != w {
				t.Fatalf("event %d is %s, want %s", i, e.Type, w)
			}
			if e.Object == nil {
				continue
			}
			if rv, _ := strconv.Atoi(e.Object.GetResourceVersion()); rv <= last {
				t.Errorf("event %d: resourceVersion %d after %d", i, rv, last)
			} else {
				last = rv
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("no event %d", i)
		}
	}
}

func TestStatusReachesTheDiskAndTerminalAtOnce(t *testing.T) {
	file := filepath.Join(t.TempDir(), "objects.db")
	s := open(t, file)
	p := &v1.Pod{ObjectMeta: named("p")}
	if err := s.Create(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	name := types.NamespacedName{Namespace: "default", Name: "p"}
	for _, phase := range []v1.PodPhase{v1.PodRunning, v1.PodSucceeded} {
		if err := s.SetStatus(t.Context(), name, p.UID, v1.PodStatus{Phase: phase}); err != nil {
			t.Fatal(err)
		}
		if got := s.Pods()[0].Status.Phase; got != phase {
			t.Errorf("phase %q, want %q", got, phase)
		}
	}
	if err := s.SetStatus(t.Context(), name, "another", v1.PodStatus{}); !errors.Is(err, fault.NotFound) {
		t.Errorf("status of another uid: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if got := open(t, file).Pods()[0].Status.Phase; got != v1.PodSucceeded {
		t.Errorf("after reopening: phase %q", got)
	}
}

func TestGraceOnlyShrinks(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "objects.db"))
	if err := s.Create(t.Context(), &v1.Pod{ObjectMeta: named("p")}); err != nil {
		t.Fatal(err)
	}
	name := types.NamespacedName{Namespace: "default", Name: "p"}
	for _, step := range []struct{ ask, want int64 }{{20, 20}, {60, 20}, {5, 5}, {20, 5}, {0, 0}} {
		if err := s.End(t.Context(), name, &step.ask); err != nil {
			t.Fatal(err)
		}
		if got := *s.Pods()[0].DeletionGracePeriodSeconds; got != step.want {
			t.Errorf("after asking for %d s the grace is %d s, want %d", step.ask, got, step.want)
		}
	}
}
