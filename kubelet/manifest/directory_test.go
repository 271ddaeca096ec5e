package manifest_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/kubelet/manifest"
	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// memory is a store that removes ended Pods when told to.
type memory struct {
	mu      sync.Mutex
	objects map[string]manifest.Object
	// fail is what writing comes to, away what reading does.
	fail, away error
}

// works makes all that the store is asked for work again, or fail.
func (m *memory) works(fail, away error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail, m.away = fail, away
}

func key(o manifest.Object) string {
	kind := "other"
	switch o.(type) {
	case *v1.Pod:
		kind = "pod"
	case *v1.ConfigMap:
		kind = "configmap"
	case *v1.PersistentVolumeClaim:
		kind = "claim"
	case *v1.Namespace:
		kind = "namespace"
	}
	return kind + "/" + o.GetName()
}

func (m *memory) Create(_ context.Context, o manifest.Object) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return m.fail
	}
	if m.objects[key(o)] != nil {
		return fault.AlreadyExists.Errorf("%s exists", key(o))
	}
	m.objects[key(o)] = o
	return nil
}

func (m *memory) Update(_ context.Context, o manifest.Object) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.objects[key(o)] = o
	return nil
}

func (m *memory) Delete(_ context.Context, o manifest.Object) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.objects, key(o))
	return nil
}

func (m *memory) End(_ context.Context, name types.NamespacedName, _ *int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return m.fail
	}
	delete(m.objects, "pod/"+name.Name) // a Pod that ends at once
	return nil
}

func (m *memory) All(context.Context) ([]manifest.Object, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.away != nil {
		return nil, m.away
	}
	var all []manifest.Object
	for _, o := range m.objects {
		all = append(all, o.DeepCopyObject().(manifest.Object))
	}
	return all, nil
}

func (m *memory) keys() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var keys []string
	for k := range m.objects {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func document(kind, name, rest string) string {
	return "apiVersion: v1\nkind: " + kind + "\nmetadata: {name: " + name + "}\n" + rest + "\n---\n"
}

const podSpec = "spec: {containers: [{name: c, image: 'i:1'}]}"

// run starts a directory source over a new directory.
func run(t *testing.T, store manifest.Store) (dir string, reports <-chan manifest.Report, source *manifest.Directory) {
	t.Helper()
	dir = t.TempDir()
	heard := make(chan manifest.Report, 100)
	source, err := manifest.NewDirectory(dir, store, &manifest.Options{Report: func(r manifest.Report) { heard <- r }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	synced := make(chan struct{})
	go func() { done <- source.Run(ctx, func() { close(synced) }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	<-synced
	return dir, heard, source
}

func write(t *testing.T, dir, file, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func until(t *testing.T, m *memory, want ...string) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if slices.Equal(m.keys(), want) {
			return
		}
	}
	t.Fatalf("the store has %v, want %v", m.keys(), want)
}

func TestFilesComeChangeAndGo(t *testing.T) {
	m := &memory{objects: map[string]manifest.Object{"configmap/foreign": &v1.ConfigMap{}}}
	m.objects["configmap/foreign"].SetName("foreign")
	dir, reports, source := run(t, m)
	write(t, dir, "a.yaml", document("Pod", "p", podSpec)+document("PersistentVolumeClaim", "data", "")+document("ConfigMap", "c", ""))
	until(t, m, "claim/data", "configmap/c", "configmap/foreign", "pod/p")
	if r := <-reports; r.Err != nil {
		t.Errorf("report %+v", r)
	}

	write(t, dir, "a.yaml", "not: [valid")
	if r := <-reports; r.File != "a.yaml" || r.Err == nil {
		t.Errorf("an invalid change was reported as %+v", r)
	}
	until(t, m, "claim/data", "configmap/c", "configmap/foreign", "pod/p")

	write(t, dir, "b.yaml", document("Pod", "q", podSpec))
	until(t, m, "claim/data", "configmap/c", "configmap/foreign", "pod/p", "pod/q")
	write(t, dir, "b.yaml", document("Pod", "q", "spec: {containers: [{name: c, image: 'i:2'}]}"))
	until(t, m, "claim/data", "configmap/c", "configmap/foreign", "pod/p") // q ended, to be made anew
	source.Again()
	until(t, m, "claim/data", "configmap/c", "configmap/foreign", "pod/p", "pod/q")

	if err := errors.Join(os.Remove(filepath.Join(dir, "a.yaml")), os.Rename(filepath.Join(dir, "b.yaml"), filepath.Join(dir, ".b"))); err != nil {
		t.Fatal(err)
	}
	until(t, m, "claim/data", "configmap/foreign") // data stays, and what came from elsewhere
}

func TestFileThatNeverCouldBeReadKeepsItsPods(t *testing.T) {
	m := &memory{objects: map[string]manifest.Object{}}
	dir := t.TempDir()
	write(t, dir, "a.yaml", document("Pod", "p", podSpec))
	runOnce := func() {
		source, err := manifest.NewDirectory(dir, m, nil)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		if err := source.Run(ctx, cancel); err != nil {
			t.Fatal(err)
		}
	}
	runOnce()
	write(t, dir, "a.yaml", "not: [valid")
	runOnce() // a restart of the node
	if got := m.keys(); !slices.Equal(got, []string{"pod/p"}) {
		t.Errorf("after a restart over an invalid file: %v", got)
	}
}

func TestVanishedDirectoryKeepsItsPods(t *testing.T) {
	m := &memory{objects: map[string]manifest.Object{}}
	dir, _, source := run(t, m)
	write(t, dir, "a.yaml", document("Pod", "p", podSpec))
	until(t, m, "pod/p")
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	source.Again()
	time.Sleep(20 * time.Millisecond)
	until(t, m, "pod/p")
}

// TestPermanentNamespaceStays has files of namespaces go: one that a node always
// has cannot be deleted, and nobody tries.
func TestPermanentNamespaceStays(t *testing.T) {
	m := &memory{objects: map[string]manifest.Object{}}
	dir, _, _ := run(t, m)
	write(t, dir, "a.yaml", document("Namespace", "default", "")+document("Namespace", "own", ""))
	until(t, m, "namespace/default", "namespace/own")
	if err := os.Remove(filepath.Join(dir, "a.yaml")); err != nil {
		t.Fatal(err)
	}
	until(t, m, "namespace/default")
}

func TestOneObjectInTwoFiles(t *testing.T) {
	m := &memory{objects: map[string]manifest.Object{}}
	dir, reports, _ := run(t, m)
	write(t, dir, "a.yaml", document("Pod", "p", podSpec))
	write(t, dir, "b.yaml", document("Pod", "p", podSpec))
	for r := range reports {
		if r.Err != nil {
			if !errors.Is(r.Err, fault.AlreadyExists) {
				t.Errorf("reported %v", r.Err)
			}
			break
		}
	}
	until(t, m, "pod/p")
}

// TestStoreThatDoesNotAnswer has a Pod whose file went while no node ran, and a
// store that is away when it runs again: nobody is told that all is in step
// before the Pod has ended. Later failures are tried again, too.
func TestStoreThatDoesNotAnswer(t *testing.T) {
	m := &memory{objects: map[string]manifest.Object{}}
	objects, _, err := manifest.Decode([]byte(document("Pod", "old", podSpec)))
	if err != nil {
		t.Fatal(err)
	}
	if err := manifest.Apply(t.Context(), m, &manifest.Desired{Files: map[string][]manifest.Object{"gone.yaml": objects}}); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	away := fault.Unavailable.Errorf("the store is away")
	m.works(away, away)
	source, err := manifest.NewDirectory(dir, m, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done, synced := make(chan error, 1), make(chan struct{})
	go func() { done <- source.Run(ctx, func() { close(synced) }) }()
	early := func() {
		t.Helper()
		select {
		case <-synced:
			t.Fatalf("in step, they say, and there is %v", m.keys())
		case <-time.After(150 * time.Millisecond):
		}
	}
	early()
	m.works(away, nil) // it can be read
	early()
	m.works(nil, nil)
	select {
	case <-synced:
	case <-time.After(20 * time.Second):
		t.Fatal("not tried again")
	}
	until(t, m)
	m.works(away, nil)
	write(t, dir, "a.yaml", document("Pod", "p", podSpec))
	time.Sleep(50 * time.Millisecond)
	begun := time.Now()
	m.works(nil, nil)
	until(t, m, "pod/p")
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("tried again after %v", took)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestRefusedFileHoldsNothingUp has a file that can never be applied from the
// beginning.
func TestRefusedFileHoldsNothingUp(t *testing.T) {
	for what, refusal := range map[string]error{
		"invalid":   fault.Invalid.Errorf("no"),
		"full disk": fault.Exhausted.Errorf("no room"),
	} {
		t.Run(what, func(t *testing.T) {
			m := &memory{objects: map[string]manifest.Object{}, fail: refusal}
			dir := t.TempDir()
			write(t, dir, "a.yaml", document("Pod", "p", podSpec))
			source, err := manifest.NewDirectory(dir, m, nil)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			if err := source.Run(ctx, cancel); err != nil || !errors.Is(ctx.Err(), context.Canceled) {
				t.Errorf("not in step: %v, %v", err, ctx.Err())
			}
		})
	}
}

func TestDirectoryMustExist(t *testing.T) {
	if _, err := manifest.NewDirectory(filepath.Join(t.TempDir(), "no"), &memory{}, nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

// TestLargeFile has a file of many objects at the limit, which is read whole, one
// beyond it, which is refused with its size, and one with an object that is too
// large, which is refused with its name.
func TestLargeFile(t *testing.T) {
	m := &memory{objects: map[string]manifest.Object{}}
	dir, reports, _ := run(t, m)
	fill := func(size, objects int) string {
		var file strings.Builder
		for i := range objects {
			head := fmt.Sprintf("---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: big%d}\ndata:\n  k: ", i)
			rest := (size - file.Len()) / (objects - i)
			file.WriteString(head + strings.Repeat("x", rest-len(head)-1) + "\n")
		}
		return file.String()
	}
	var all []string
	for i := range 10 {
		all = append(all, fmt.Sprintf("configmap/big%d", i))
	}
	write(t, dir, "a.yaml", fill(manifest.MaxFile, 10))
	if r := <-reports; r.Err != nil {
		t.Errorf("a file of %d bytes: %v", manifest.MaxFile, r.Err)
	}
	until(t, m, all...)
	write(t, dir, "a.yaml", fill(manifest.MaxFile+1, 10))
	if r := <-reports; r.Err == nil || !strings.Contains(r.Err.Error(), "larger than 10 MiB") {
		t.Errorf("a file that is too large: %v", r.Err)
	}
	write(t, dir, "a.yaml", fill(manifest.MaxFile, 5))
	if r := <-reports; r.Err == nil || !strings.Contains(r.Err.Error(), "document 1: ConfigMap default/big0 is too large: it takes 2.0 MiB") {
		t.Errorf("an object that is too large: %v", r.Err)
	}
	until(t, m, all...)
}

// TestManyFiles has a thousand files come at once, as in a checkout, and go at
// once, as when another branch is checked out: data stays.
func TestManyFiles(t *testing.T) {
	m := &memory{objects: map[string]manifest.Object{}}
	dir, reports, _ := run(t, m)
	go func() {
		for range reports { //nolint:revive // nobody else reads them
		}
	}()
	want := []string{"claim/data"}
	write(t, dir, "data.yaml", document("PersistentVolumeClaim", "data", ""))
	for i := range 1000 {
		name := fmt.Sprintf("c%d", i)
		write(t, dir, name+".yaml", document("ConfigMap", name, ""))
		want = append(want, "configmap/"+name)
	}
	slices.Sort(want)
	until(t, m, want...)
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if err := os.Remove(filepath.Join(dir, f.Name())); err != nil {
			t.Fatal(err)
		}
	}
	until(t, m, "claim/data")
}

// TestCopyOfAnObjectFromAFile has a user copy a Pod and a ConfigMap with all
// their annotations: the copies are the user's, also when a file wants their name.
func TestCopyOfAnObjectFromAFile(t *testing.T) {
	m := &memory{objects: map[string]manifest.Object{}}
	dir, reports, source := run(t, m)
	write(t, dir, "a.yaml", document("Pod", "p", podSpec)+document("ConfigMap", "c", ""))
	until(t, m, "configmap/c", "pod/p")
	<-reports
	all, err := m.All(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range all {
		o.SetName(o.GetName() + "-copy")
		if err := m.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	source.Again()
	write(t, dir, "b.yaml", document("Pod", "p-copy", podSpec))
	for r := range reports {
		if r.Err != nil {
			if !errors.Is(r.Err, fault.AlreadyExists) {
				t.Errorf("a file that wants the copy's name: %v", r.Err)
			}
			break
		}
	}
	until(t, m, "configmap/c", "configmap/c-copy", "pod/p", "pod/p-copy")
	if err := errors.Join(os.Remove(filepath.Join(dir, "a.yaml")), os.Remove(filepath.Join(dir, "b.yaml"))); err != nil {
		t.Fatal(err)
	}
	until(t, m, "configmap/c-copy", "pod/p-copy")
}

// TestObjectsOfAnOlderVersion has objects that do not say what they are called:
// they are neither ended nor made twice, and say it from then on.
func TestObjectsOfAnOlderVersion(t *testing.T) {
	m := &memory{objects: map[string]manifest.Object{}}
	text := document("Pod", "p", podSpec) + document("ConfigMap", "c", "")
	apply := func(objects []manifest.Object) {
		t.Helper()
		if err := manifest.Apply(t.Context(), m, &manifest.Desired{Files: map[string][]manifest.Object{"a.yaml": objects}}); err != nil {
			t.Fatal(err)
		}
	}
	objects, _, err := manifest.Decode([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	apply(objects)
	for _, o := range m.objects {
		delete(o.GetAnnotations(), pod.AnnotationFileOf)
		o.SetUID("first")
	}
	apply(objects)
	for key, o := range m.objects {
		if o.GetAnnotations()[pod.AnnotationFileOf] == "" || o.GetUID() != "first" {
			t.Errorf("%s became %v of uid %q", key, o.GetAnnotations(), o.GetUID())
		}
		delete(o.GetAnnotations(), pod.AnnotationFileOf)
	}
	apply(nil)
	if left := m.keys(); len(left) > 0 {
		t.Errorf("without their file %v stay", left)
	}
}
