package store_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/testenv"
	"github.com/nodekit-project/nodekit/kubelet/api/store"
	"github.com/nodekit-project/nodekit/kubelet/object"
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

func kindOf(t *testing.T, o store.Object) *object.Kind {
	t.Helper()
	k, err := object.KindOf(o)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func secret(t *testing.T) *object.Kind { return kindOf(t, &v1.Secret{}) }

// set writes a Secret with the value.
func set(t *testing.T, s *store.Store, name, value string, opts store.WriteOptions) store.Object {
	t.Helper()
	o, err := s.Write(secret(t), "default", name, func(store.Object) (store.Object, error) {
		return &v1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: "u"}, Data: map[string][]byte{"k": []byte(value)}}, nil
	}, opts)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func remove(t *testing.T, s *store.Store, name string) {
	t.Helper()
	if _, err := s.Write(secret(t), "default", name, func(store.Object) (store.Object, error) { return nil, nil }, store.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
}

func value(t *testing.T, s *store.Store, name string) string {
	t.Helper()
	o, err := s.Get(secret(t), "default", name)
	if errors.Is(err, fault.NotFound) {
		return "none"
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(o.(*v1.Secret).Data["k"])
}

func revision(t *testing.T, o store.Object) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(o.GetResourceVersion(), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestObjectsSurviveReopening(t *testing.T) {
	file := filepath.Join(t.TempDir(), "objects.db")
	s := open(t, file)
	made := set(t, s, "a", "1", store.WriteOptions{})
	set(t, s, "b", "1", store.WriteOptions{})
	lazy := set(t, s, "a", "2", store.WriteOptions{Lazy: true})
	remove(t, s, "b")
	if made.GetUID() == "" || made.GetCreationTimestamp().Time.IsZero() || made.GetGeneration() != 1 {
		t.Errorf("a new object was not completed: %v", made)
	}
	id := s.ID()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, file)
	if value(t, s, "a") != "2" || value(t, s, "b") != "none" || s.ID() != id {
		t.Errorf("after reopening: a is %s, b is %s", value(t, s, "a"), value(t, s, "b"))
	}
	if again := set(t, s, "c", "1", store.WriteOptions{}); revision(t, again) <= revision(t, lazy) {
		t.Errorf("resourceVersion went from %d to %d over a restart", revision(t, lazy), revision(t, again))
	}
}

// TestCrash has a process that dies with a change in memory only: what was
// durable is there, and no resourceVersion is given out twice. Its clock stands,
// so that the change stays there however slow the machine is.
func TestCrash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		file := filepath.Join(dir, "objects.db")
		s := open(t, file)
		set(t, s, "a", "durable", store.WriteOptions{})
		lost := set(t, s, "a", "lazy", store.WriteOptions{Lazy: true})
		data, err := os.ReadFile(file) // what a crash leaves
		if err != nil {
			t.Fatal(err)
		}
		left := filepath.Join(dir, "left.db")
		if err := os.WriteFile(left, data, 0o600); err != nil {
			t.Fatal(err)
		}
		after := open(t, left)
		if got := value(t, after, "a"); got != "durable" {
			t.Errorf("after the crash: %q", got)
		}
		if next := set(t, after, "a", "new", store.WriteOptions{}); revision(t, next) <= revision(t, lost) {
			t.Errorf("resourceVersion %d was given out before the crash, and now %d", revision(t, lost), revision(t, next))
		}
	})
}

func TestWriteThatChangesNothing(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "objects.db"))
	set(t, s, "a", "1", store.WriteOptions{})
	before := s.Revision()
	refused := errors.New("no")
	for name, c := range map[string]struct {
		change store.Change
		opts   store.WriteOptions
		want   error
	}{
		"the same":      {change: func(old store.Object) (store.Object, error) { return old, nil }},
		"an error":      {change: func(store.Object) (store.Object, error) { return nil, refused }, want: refused},
		"dry deletion":  {change: func(store.Object) (store.Object, error) { return nil, nil }, opts: store.WriteOptions{DryRun: true}},
		"a dry change":  {change: func(store.Object) (store.Object, error) { return &v1.Secret{}, nil }, opts: store.WriteOptions{DryRun: true}},
		"nothing there": {change: func(store.Object) (store.Object, error) { return nil, nil }},
	} {
		key := "a"
		if name == "nothing there" {
			key = "z"
		}
		if _, err := s.Write(secret(t), "default", key, c.change, c.opts); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
		if s.Revision() != before || value(t, s, "a") != "1" {
			t.Errorf("%s: changed something", name)
		}
	}
}

func TestWatchMissesNothing(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "objects.db"))
	set(t, s, "a", "1", store.WriteOptions{})
	objects, at := s.List(secret(t), "")
	if len(objects) != 1 {
		t.Fatalf("%d objects", len(objects))
	}
	set(t, s, "b", "1", store.WriteOptions{})
	set(t, s, "b", "2", store.WriteOptions{Lazy: true})
	remove(t, s, "b")
	var got []string
	w := s.Watch(secret(t), at)
	for len(got) < 3 {
		events, err := w.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			got = append(got, fmt.Sprint(e.Type, string(e.Object.(*v1.Secret).Data["k"]), e.Before != nil))
		}
	}
	if want := "ADDED1false MODIFIED2true DELETED2true"; strings.Join(got, " ") != want {
		t.Errorf("got %v, want %s", got, want)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.Next(ctx); !errors.Is(err, context.Canceled) || w.Revision() != s.Revision() {
		t.Errorf("a watch that is up to date: %v at %d of %d", err, w.Revision(), s.Revision())
	}
}

// TestWatchThatFellBehind has watches whose changes are not known any more, or never were.
func TestWatchThatFellBehind(t *testing.T) {
	file := filepath.Join(t.TempDir(), "objects.db")
	s := open(t, file)
	first := set(t, s, "a", "0", store.WriteOptions{})
	for n := range 10_000 {
		set(t, s, "a", strconv.Itoa(n), store.WriteOptions{Lazy: true})
	}
	for name, after := range map[string]uint64{"too old": revision(t, first), "never given out": s.Revision() + 1} {
		if _, err := s.Watch(secret(t), after).Next(t.Context()); !errors.Is(err, fault.OutOfRange) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if events, err := s.Watch(secret(t), s.Revision()-2000).Next(t.Context()); err != nil || len(events) != 2000 {
		t.Errorf("2000 changes back: %d events, %v", len(events), err)
	}
	last := s.Revision()
	s.Close()
	if _, err := open(t, file).Watch(secret(t), last).Next(t.Context()); !errors.Is(err, fault.OutOfRange) {
		t.Errorf("over a restart: %v", err)
	}
}

// TestWindowOfLargeObjects has an object that is large and changes often: little
// of what it was is kept, and a watch that is that far behind lists again.
func TestWindowOfLargeObjects(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "objects.db"))
	set(t, s, "other", "1", store.WriteOptions{})
	large := strings.Repeat("x", 1<<20)
	for n := range 100 {
		set(t, s, "a", large+strconv.Itoa(n), store.WriteOptions{Lazy: true})
	}
	last := s.Revision()
	if _, err := s.Watch(secret(t), last-16).Next(t.Context()); !errors.Is(err, fault.OutOfRange) {
		t.Errorf("16 changes back: %v", err)
	}
	if events, err := s.Watch(secret(t), last-4).Next(t.Context()); err != nil || len(events) != 4 || events[3].Revision != last {
		t.Errorf("4 changes back: %d events, %v", len(events), err)
	}
	for n := range 2000 { // small ones follow
		set(t, s, "b", strconv.Itoa(n), store.WriteOptions{Lazy: true})
	}
	if events, err := s.Watch(secret(t), last).Next(t.Context()); err != nil || len(events) != 2000 {
		t.Errorf("2000 changes back: %d events, %v", len(events), err)
	}
}

// TestTooLarge has an object that is too large to be stored: nothing changes.
func TestTooLarge(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "objects.db"))
	set(t, s, "a", "1", store.WriteOptions{})
	before := s.Revision()
	for name, opts := range map[string]store.WriteOptions{"durable": {}, "lazy": {Lazy: true}, "dry": {DryRun: true}} {
		_, err := s.Write(secret(t), "default", "a", func(old store.Object) (store.Object, error) {
			next := old.DeepCopyObject().(*v1.Secret)
			next.Data = map[string][]byte{"k": make([]byte, object.MaxSize)}
			return next, nil
		}, opts)
		if !errors.Is(err, fault.Exhausted) || !strings.Contains(err.Error(), "Secret default/a is too large") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if s.Revision() != before || value(t, s, "a") != "1" {
		t.Errorf("a is %s at %d, after %d", value(t, s, "a"), s.Revision(), before)
	}
}

// TestFilesThatAreRefused has stores that a newer program wrote, and what is no store.
func TestFilesThatAreRefused(t *testing.T) {
	change := func(change func(*bbolt.Tx) error) func(t *testing.T, file string) {
		return func(t *testing.T, file string) {
			open(t, file).Close()
			db, err := bbolt.Open(file, 0o600, nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(db.Update(change), db.Close()); err != nil {
				t.Fatal(err)
			}
		}
	}
	cases := map[string]struct {
		make func(t *testing.T, file string)
		want string
	}{
		"a newer version": {change(func(tx *bbolt.Tx) error {
			return tx.Bucket([]byte("meta")).Put([]byte("version"), []byte{0, 0, 0, 0, 0, 0, 0, 99})
		}), "format version 99"},
		"an unknown kind": {change(func(tx *bbolt.Tx) error {
			_, err := tx.CreateBucket([]byte("Wonder.example.com"))
			return err
		}), "kind Wonder.example.com"},
		"a broken object": {change(func(tx *bbolt.Tx) error {
			b, err := tx.CreateBucketIfNotExists([]byte("Pod"))
			return errors.Join(err, b.Put([]byte("default/x"), []byte("{")))
		}), `reading Pod "default/x"`},
		"no store": {func(t *testing.T, file string) {
			if err := os.WriteFile(file, []byte(strings.Repeat("hello ", 10_000)), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "invalid database"},
	}
	for name, c := range cases {
		file := filepath.Join(t.TempDir(), "objects.db")
		c.make(t, file)
		before, _ := os.ReadFile(file)
		if _, err := store.Open(file, nil); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want an error with %q", name, err, c.want)
		}
		if after, _ := os.ReadFile(file); string(after) != string(before) {
			t.Errorf("%s: the file was changed", name)
		}
	}
}

// TestFullDiskAtTheStart has a store whose disk is full when it is opened: what
// there is can be read, and changed when there is room.
func TestFullDiskAtTheStart(t *testing.T) {
	testenv.Require(t, testenv.Root)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	file, ballast := filepath.Join(dir, "objects.db"), filepath.Join(dir, "ballast")
	s := open(t, file)
	set(t, s, "a", "1", store.WriteOptions{})
	last := s.Revision()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(ballast, make([]byte, 2<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	big := strings.Repeat("x", 300<<10) // more than the file has free pages for
	write := func() error {
		_, err := s.Write(secret(t), "default", "b", func(store.Object) (store.Object, error) {
			return &v1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "b"}, Data: map[string][]byte{"k": []byte(big)}}, nil
		}, store.WriteOptions{})
		return err
	}
	s = open(t, file)
	if err := write(); value(t, s, "a") != "1" || !errors.Is(err, unix.ENOSPC) {
		t.Errorf("on a full disk: a is %s, and a write said %v", value(t, s, "a"), err)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if err := write(); err != nil || s.Revision() <= last {
		t.Errorf("with room again: %v at %d after %d", err, s.Revision(), last)
	}
}

func TestOnlyRootReadsTheFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "objects.db")
	open(t, file)
	fi, err := os.Stat(file)
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", fi.Mode(), err)
	}
}

func BenchmarkWrite(b *testing.B) {
	for name, opts := range map[string]store.WriteOptions{"durable": {}, "lazy": {Lazy: true}} {
		b.Run(name, func(b *testing.B) {
			s, err := store.Open(filepath.Join(b.TempDir(), "objects.db"), nil)
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			k, _ := object.KindOf(&v1.Secret{})
			for n := 0; b.Loop(); n++ {
				_, err := s.Write(k, "default", "a", func(store.Object) (store.Object, error) {
					return &v1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "a", Generation: int64(n + 1)}}, nil
				}, opts)
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
