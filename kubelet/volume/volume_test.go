package volume_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodekit-project/nodekit/internal/call"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/mount"
	"github.com/nodekit-project/nodekit/internal/registration"
	"github.com/nodekit-project/nodekit/internal/testenv"
	"github.com/nodekit-project/nodekit/kubelet/pod"
	"github.com/nodekit-project/nodekit/kubelet/volume"
)

// objects is a store in memory.
type objects struct {
	mu sync.Mutex
	by map[string]volume.Object
}

func key(o volume.Object, namespace, name string) string {
	return reflect.TypeOf(o).String() + " " + namespace + "/" + name
}

func (s *objects) Get(_ context.Context, namespace, name string, into volume.Object) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	have := s.by[key(into, namespace, name)]
	if have == nil {
		return fault.NotFound.Errorf("no %s", name)
	}
	reflect.ValueOf(into).Elem().Set(reflect.ValueOf(have.DeepCopyObject()).Elem())
	return nil
}

func (s *objects) put(o volume.Object) error {
	s.by[key(o, o.GetNamespace(), o.GetName())] = o.DeepCopyObject().(volume.Object)
	return nil
}

func (s *objects) Create(_ context.Context, o volume.Object) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.by[key(o, o.GetNamespace(), o.GetName())] != nil {
		return fault.AlreadyExists.Errorf("%s exists", o.GetName())
	}
	return s.put(o)
}

func (s *objects) Update(_ context.Context, o volume.Object) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.put(o)
}

func (s *objects) Delete(_ context.Context, o volume.Object) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := key(o, o.GetNamespace(), o.GetName())
	if have := s.by[k]; have == nil || o.GetUID() != "" && o.GetUID() != have.GetUID() {
		return fault.NotFound.Errorf("no %s", o.GetName())
	}
	delete(s.by, k)
	return nil
}

// replace puts the object in the place of another of its name.
func (s *objects) replace(o volume.Object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.put(o); err != nil {
		panic(err)
	}
}

// world is one node's kubelet root with a volume manager.
type world struct {
	*volume.Manager
	t       *testing.T
	root    string
	objects *objects
	mu      sync.Mutex
	calls   []string
}

func newWorld(t *testing.T, have ...volume.Object) *world {
	t.Helper()
	testenv.Require(t, testenv.Root)
	w := &world{t: t, root: t.TempDir(), objects: &objects{by: map[string]volume.Object{}}}
	t.Cleanup(func() {
		if left, err := mount.Below(w.root); err != nil || len(left) > 0 {
			t.Errorf("mounts left: %q, %v", left, err)
		}
		if err := mount.DetachTree(w.root); err != nil {
			t.Error(err)
		}
	})
	for _, o := range have {
		if err := w.objects.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	w.restart()
	return w
}

// restart replaces the manager by one that knows only the disk.
func (w *world) restart() {
	w.t.Helper()
	m, err := volume.New(volume.Config{Root: w.root, NodeName: "n1", Objects: w.objects, Observe: &call.Observer{Done: w.observe}})
	if err != nil {
		w.t.Fatal(err)
	}
	w.Manager = m
}

func (w *world) observe(_ context.Context, c call.Call) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if strings.HasPrefix(c.Method, "Get") || strings.Contains(c.Method, "GetCap") || strings.Contains(c.Method, "GetInfo") {
		return
	}
	w.calls = append(w.calls, c.Method)
}

// since returns the calls since the last time it was asked.
func (w *world) since() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	got := strings.Join(w.calls, " ")
	w.calls = nil
	return got
}

func (w *world) register(name, socket string) {
	w.t.Helper()
	err := w.Handler().Register(w.t.Context(), registration.Plugin{
		Kind: registration.CSIPlugin, Name: name, Endpoint: socket, Versions: []string{"1.0.0"}, Socket: socket + ".reg",
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) mount(p *v1.Pod) pod.Volumes {
	w.t.Helper()
	v, err := w.Mount(w.t.Context(), p)
	if err != nil {
		w.t.Fatal(err)
	}
	return v
}

// gone unmounts the Pod twice and checks that nothing of it is left.
func (w *world) gone(uid types.UID) {
	w.t.Helper()
	for range 2 {
		if err := w.Unmount(w.t.Context(), uid); err != nil {
			w.t.Fatal(err)
		}
	}
	if _, err := os.Lstat(filepath.Join(w.root, "pods", string(uid))); !errors.Is(err, os.ErrNotExist) {
		w.t.Errorf("the directory of pod %s is still there: %v", uid, err)
	}
}

func newPod(uid string, volumes ...v1.Volume) *v1.Pod {
	return &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p-" + uid, Namespace: "ns", UID: types.UID(uid), Labels: map[string]string{"b": "2", "a": `1"x`}},
		Spec:       v1.PodSpec{Volumes: volumes, Containers: []v1.Container{{Name: "c"}}},
	}
}

func ptr[T any](v T) *T { return &v }

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestEmptyDir(t *testing.T) {
	w := newWorld(t)
	p := newPod("u1",
		v1.Volume{Name: "disk", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}},
		v1.Volume{Name: "mem", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{
			Medium: v1.StorageMediumMemory, SizeLimit: ptr(resource.MustParse("1Mi")),
		}}})
	p.Spec.SecurityContext = &v1.PodSecurityContext{FSGroup: ptr(int64(4242))}
	v := w.mount(p)
	for _, name := range []string{"disk", "mem"} {
		fi, err := os.Stat(v[name].HostPath)
		if err != nil || fi.Mode() != os.ModeDir|os.ModeSetgid|0o777 {
			t.Errorf("%s: %v, %v", name, fi.Mode(), err)
		}
	}
	if err := os.WriteFile(filepath.Join(v["mem"].HostPath, "big"), make([]byte, 2<<20), 0o600); err == nil {
		t.Error("2 MiB fitted into a volume of 1 MiB")
	}
	if err := os.Chmod(v["disk"].HostPath, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(v["disk"].HostPath, "kept"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.restart()
	w.mount(p)
	if fi, _ := os.Stat(v["disk"].HostPath); fi.Mode().Perm() != 0o700 {
		t.Errorf("mounting again changed the mode to %v", fi.Mode())
	}
	read(t, filepath.Join(v["disk"].HostPath, "kept"))
	if pods, err := w.Pods(); err != nil || len(pods) != 1 || pods[0] != "u1" {
		t.Errorf("Pods = %v, %v", pods, err)
	}
	w.restart()
	w.gone("u1")
	if pods, err := w.Pods(); err != nil || len(pods) != 0 {
		t.Errorf("Pods = %v, %v", pods, err)
	}
}

func TestHostPath(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "f")
	cases := []struct {
		kind v1.HostPathType
		path string
		ok   bool
	}{
		{v1.HostPathUnset, "/does/not/exist", true},
		{v1.HostPathDirectory, dir, true},
		{v1.HostPathDirectory, file, false},
		{v1.HostPathDirectoryOrCreate, filepath.Join(dir, "new"), true},
		{v1.HostPathFile, file, false},
		{v1.HostPathFileOrCreate, file, true},
		{v1.HostPathFile, file, true},
		{v1.HostPathCharDev, "/dev/null", true},
		{v1.HostPathCharDev, file, false},
		{v1.HostPathBlockDev, "/dev/null", false},
		{v1.HostPathSocket, file, false},
	}
	for _, c := range cases {
		p := newPod("u1", v1.Volume{Name: "h", VolumeSource: v1.VolumeSource{HostPath: &v1.HostPathVolumeSource{Path: c.path, Type: &c.kind}}})
		v, err := w.Mount(t.Context(), p)
		if c.ok && (err != nil || v["h"].HostPath != c.path) || !c.ok && pod.Waiting(err) == nil {
			t.Errorf("%s %s: %v, %v", c.kind, c.path, v, err)
		}
	}
	w.gone("u1")
}

func TestFiles(t *testing.T) {
	meta := metav1.ObjectMeta{Namespace: "ns", Name: "o"}
	w := newWorld(t,
		&v1.ConfigMap{ObjectMeta: meta, Data: map[string]string{"k": "v1"}, BinaryData: map[string][]byte{"bin": {0, 1}}},
		&v1.Secret{ObjectMeta: meta, Data: map[string][]byte{"pw": []byte("s3cret")}})
	p := newPod("u1",
		v1.Volume{Name: "cm", VolumeSource: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: v1.LocalObjectReference{Name: "o"}}}},
		v1.Volume{Name: "sec", VolumeSource: v1.VolumeSource{Secret: &v1.SecretVolumeSource{
			SecretName: "o", DefaultMode: ptr(int32(0o400)), Items: []v1.KeyToPath{{Key: "pw", Path: "a/b"}},
		}}},
		v1.Volume{Name: "proj", VolumeSource: v1.VolumeSource{Projected: &v1.ProjectedVolumeSource{Sources: []v1.VolumeProjection{
			{ConfigMap: &v1.ConfigMapProjection{LocalObjectReference: v1.LocalObjectReference{Name: "o"}, Items: []v1.KeyToPath{{Key: "k", Path: "k", Mode: ptr(int32(0o600))}}}},
			{Secret: &v1.SecretProjection{LocalObjectReference: v1.LocalObjectReference{Name: "absent"}, Optional: ptr(true)}},
			{DownwardAPI: &v1.DownwardAPIProjection{Items: []v1.DownwardAPIVolumeFile{
				{Path: "labels", FieldRef: &v1.ObjectFieldSelector{FieldPath: "metadata.labels"}},
				{Path: "b", FieldRef: &v1.ObjectFieldSelector{FieldPath: "metadata.labels['b']"}},
			}}},
		}}}},
	)
	v := w.mount(p)
	for path, want := range map[string]string{
		"cm/k": "v1", "cm/bin": "\x00\x01", "sec/a/b": "s3cret", "proj/k": "v1", "proj/labels": "a=\"1\\\"x\"\nb=\"2\"", "proj/b": "2",
	} {
		name, rest, _ := strings.Cut(path, "/")
		if got := read(t, filepath.Join(v[name].HostPath, rest)); got != want {
			t.Errorf("%s holds %q, want %q", path, got, want)
		}
		if !v[name].ReadOnly {
			t.Errorf("%s is writable", name)
		}
	}
	if m, err := mount.At(v["sec"].HostPath); err != nil || m == nil || m.Type != "tmpfs" {
		t.Errorf("the secret lies on %+v, %v", m, err)
	}
	for path, want := range map[string]os.FileMode{"cm/k": 0o644, "sec/a/b": 0o400, "proj/k": 0o600} {
		name, rest, _ := strings.Cut(path, "/")
		if fi, err := os.Stat(filepath.Join(v[name].HostPath, rest)); err != nil || fi.Mode().Perm() != want {
			t.Errorf("%s has mode %v, %v", path, fi.Mode(), err)
		}
	}
	before, _ := os.Readlink(filepath.Join(v["cm"].HostPath, "..data"))
	w.mount(p)
	if after, _ := os.Readlink(filepath.Join(v["cm"].HostPath, "..data")); after != before {
		t.Error("mounting again without a change wrote again")
	}
	if err := w.objects.Update(t.Context(), &v1.ConfigMap{ObjectMeta: meta, Data: map[string]string{"k2": "v2"}}); err != nil {
		t.Fatal(err)
	}
	p.Spec.Volumes = p.Spec.Volumes[:1]
	w.mount(p)
	if got := read(t, filepath.Join(v["cm"].HostPath, "k2")); got != "v2" {
		t.Errorf("after the update: %q", got)
	}
	entries, _ := os.ReadDir(v["cm"].HostPath)
	if len(entries) != 3 { // ..data, its directory, k2
		t.Errorf("the update left %v", entries)
	}
	w.gone("u1")
}

func TestWhatIsMissingIsNamed(t *testing.T) {
	w := newWorld(t, &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "there"}},
		&v1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "claim", UID: "c1"}})
	cases := map[string]v1.VolumeSource{
		`ConfigMap "nope"`:             {ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: v1.LocalObjectReference{Name: "nope"}}},
		`key "k"`:                      {ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: v1.LocalObjectReference{Name: "there"}, Items: []v1.KeyToPath{{Key: "k", Path: "k"}}}},
		`Secret "nope"`:                {Secret: &v1.SecretVolumeSource{SecretName: "nope"}},
		`PersistentVolumeClaim "nope"`: {PersistentVolumeClaim: &v1.PersistentVolumeClaimVolumeSource{ClaimName: "nope"}},
		`a CSI driver that creates`:    {PersistentVolumeClaim: &v1.PersistentVolumeClaimVolumeSource{ClaimName: "claim"}},
		`CSI driver "x.y"`:             {CSI: &v1.CSIVolumeSource{Driver: "x.y"}},
	}
	for want, source := range cases {
		_, err := w.Mount(t.Context(), newPod("u1", v1.Volume{Name: "v", VolumeSource: source}))
		if wait := pod.Waiting(err); wait == nil || !strings.Contains(wait.For, want) {
			t.Errorf("want a wait for %s, got %v", want, err)
		}
	}
	_, err := w.Mount(t.Context(), newPod("u1", v1.Volume{Name: "v", VolumeSource: v1.VolumeSource{NFS: &v1.NFSVolumeSource{}}}))
	var reject *pod.RejectError
	if !errors.As(err, &reject) || !strings.Contains(reject.Message, `volume "v"`) {
		t.Errorf("an NFS volume: %v", err)
	}
	w.gone("u1")
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("waited 5 s for %s", what)
}
