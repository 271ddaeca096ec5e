package device_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/nodekit-project/nodekit/deviceplugin"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/registration"
	"github.com/nodekit-project/nodekit/kubelet/device"
	"github.com/nodekit-project/nodekit/kubelet/pod"
)

const gpu = "example.com/gpu"

func logger(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), nil)).With("test", t.Name())
}

// start runs f until the test's end or stop.
func start(t *testing.T, f func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("it ended with %v, want nil", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// newRoot returns a short directory: socket paths have 107 bytes at most.
func newRoot(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "nk-dev-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func startManager(t *testing.T, root string) (m *device.Manager, stop func()) {
	t.Helper()
	m, err := device.New(device.Config{Root: root, Logger: logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	return m, start(t, m.Run)
}

// fake is a plugin of the SDK whose devices the test changes.
type fake struct {
	deviceplugin.Plugin
	lists chan []deviceplugin.Device
	mu    sync.Mutex
	asked [][]string
}

func newFake(resource string, ids ...string) *fake {
	f := &fake{lists: make(chan []deviceplugin.Device, 10)}
	f.lists <- healthy(ids...)
	f.Plugin = deviceplugin.Plugin{
		Resource: resource,
		Watch: func(ctx context.Context, update func([]deviceplugin.Device) error) error {
			for {
				select {
				case l := <-f.lists:
					if err := update(l); err != nil {
						return err
					}
				case <-ctx.Done():
					return nil
				}
			}
		},
		Allocate: func(_ context.Context, ids []string) (*deviceplugin.Allocation, error) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.asked = append(f.asked, ids)
			return &deviceplugin.Allocation{Envs: map[string]string{"IDS_" + strings.ToUpper(filepath.Base(resource)): strings.Join(ids, ",")}}, nil
		},
	}
	return f
}

func (f *fake) start(t *testing.T, root string) (stop func()) {
	return start(t, func(ctx context.Context) error {
		return deviceplugin.Serve(ctx, &f.Plugin, &deviceplugin.Options{KubeletDir: root, Logger: logger(t)})
	})
}

func (f *fake) calls() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.asked)
}

func healthy(ids ...string) []deviceplugin.Device {
	var out []deviceplugin.Device
	for _, id := range ids {
		out = append(out, deviceplugin.Device{ID: id})
	}
	return out
}

// await waits until the counts of the resource are as wanted.
func await(t *testing.T, m *device.Manager, name string, want device.Resource) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for m.Resources()[name] != want {
		if time.Now().After(deadline) {
			t.Fatalf("%s is %+v, want %+v", name, m.Resources()[name], want)
		}
		select {
		case <-m.Changed():
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func newPod(uid string, counts ...int) *v1.Pod {
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "pod-" + uid, UID: types.UID(uid)}}
	for i, n := range counts {
		p.Spec.Containers = append(p.Spec.Containers, v1.Container{
			Name:      fmt.Sprintf("c%d", i),
			Resources: v1.ResourceRequirements{Limits: v1.ResourceList{gpu: *resource.NewQuantity(int64(n), resource.DecimalSI)}},
		})
	}
	return p
}

func allocate(t *testing.T, m *device.Manager, p *v1.Pod) map[string]pod.Devices {
	t.Helper()
	out, err := m.Allocate(t.Context(), p)
	if err != nil {
		t.Fatalf("Allocate: %v", err)
	}
	return out
}

func TestAllocateKeepAndRelease(t *testing.T) {
	root := newRoot(t)
	m, stopManager := startManager(t, root)
	f := newFake(gpu, "0", "1", "2")
	f.start(t, root)
	await(t, m, gpu, device.Resource{Capacity: 3, Allocatable: 3})

	first := allocate(t, m, newPod("a", 1, 1))
	want := map[string]pod.Devices{"c0": {Envs: map[string]string{"IDS_GPU": "0"}}, "c1": {Envs: map[string]string{"IDS_GPU": "1"}}}
	if diff := cmp.Diff(want, first); diff != "" {
		t.Fatal(diff)
	}
	if diff := cmp.Diff(first, allocate(t, m, newPod("a", 1, 1))); diff != "" || f.calls() != 2 {
		t.Fatalf("again: %d calls, want 2; %s", f.calls(), diff)
	}
	_, err := m.Allocate(t.Context(), newPod("b", 2))
	if w := pod.Waiting(err); w == nil || !strings.Contains(w.For, gpu) {
		t.Fatalf("two of the one left: %v, want a WaitError that names the resource", err)
	}
	await(t, m, gpu, device.Resource{Capacity: 3, Allocatable: 3, InUse: 2})

	// A new process answers from the record before any plugin is there.
	stopManager()
	m, err = device.New(device.Config{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(first, allocate(t, m, newPod("a", 1, 1))); diff != "" || f.calls() != 2 {
		t.Fatalf("after a restart: %d calls, want 2; %s", f.calls(), diff)
	}
	start(t, m.Run)
	await(t, m, gpu, device.Resource{Capacity: 3, Allocatable: 3, InUse: 2})
	if got := m.Pods(); !slices.Equal(got, []types.UID{"a"}) {
		t.Fatalf("Pods %q", got)
	}
	for range 2 {
		if err := m.Release(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
	}
	allocate(t, m, newPod("b", 3))
	await(t, m, gpu, device.Resource{Capacity: 3, Allocatable: 3, InUse: 3})
}

func TestMissingPluginIsWaitedFor(t *testing.T) {
	root := newRoot(t)
	m, _ := startManager(t, root)
	_, err := m.Allocate(t.Context(), newPod("a", 1))
	if w := pod.Waiting(err); w == nil || !strings.Contains(w.For, gpu) || !strings.Contains(w.For, "kubelet.sock") {
		t.Fatalf("without a plugin: %v, want a WaitError that says what and where", err)
	}
	stop := newFake(gpu, "0").start(t, root)
	select {
	case <-m.Changed():
	case <-time.After(10 * time.Second):
		t.Fatal("Changed says nothing of the new plugin")
	}
	allocate(t, m, newPod("a", 1))
	stop()
	await(t, m, gpu, device.Resource{Capacity: 1, InUse: 1})
	if _, err := m.Allocate(t.Context(), newPod("b", 1)); pod.Waiting(err) == nil {
		t.Fatalf("with the plugin gone: %v, want a WaitError", err)
	}
}

// TestWhyAPluginIsMissing: a Pod that waits for a plugin says what became of it.
func TestWhyAPluginIsMissing(t *testing.T) {
	root := newRoot(t)
	m, _ := startManager(t, root)
	dir := filepath.Join(root, "device-plugins")
	waits := func(want string) {
		t.Helper()
		deadline := time.Now().Add(10 * time.Second)
		for {
			_, err := m.Allocate(t.Context(), newPod("a", 1))
			if w := pod.Waiting(err); w != nil && strings.HasSuffix(w.For, want) {
				return
			} else if time.Now().After(deadline) {
				t.Fatalf("got %v, want a WaitError that ends with %q", err, want)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	register := func(in *api.RegisterRequest) {
		t.Helper()
		conn, err := grpc.NewClient("unix://"+filepath.Join(dir, "kubelet.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := api.NewRegistrationClient(conn).Register(t.Context(), in, grpc.WaitForReady(true)); err == nil {
			t.Fatalf("%v was not refused", in)
		}
	}
	nobody := "none is registered at " + dir + "/kubelet.sock"
	waits(nobody)
	register(&api.RegisterRequest{ResourceName: gpu, Endpoint: "gpu.sock", Version: "v1alpha"})
	waits(nobody + `; one was refused: registering "` + gpu + `": the plugin speaks version ["v1alpha"], and this node "v1beta1"`)
	register(&api.RegisterRequest{ResourceName: gpu, Endpoint: "/run/gpu.sock", Version: api.Version})
	waits(`; one was refused: registering "` + gpu + `": endpoint "/run/gpu.sock": want the name of a socket in "` + dir + `"`)
	newFake("example.com/other", "0").start(t, root)
	waits(`; there are plugins for "example.com/other"`)
	stop := newFake(gpu, "0").start(t, root)
	await(t, m, gpu, device.Resource{Capacity: 1, Allocatable: 1})
	stop()
	await(t, m, gpu, device.Resource{Capacity: 1})
	waits(nobody + "; the one that was ended its ListAndWatch, or was killed, and has not registered again; there are plugins for \"example.com/other\"")
}

func TestHealth(t *testing.T) {
	root := newRoot(t)
	m, _ := startManager(t, root)
	f := newFake(gpu, "0", "1")
	f.start(t, root)
	await(t, m, gpu, device.Resource{Capacity: 2, Allocatable: 2})
	f.lists <- []deviceplugin.Device{{ID: "0", Unhealthy: true}, {ID: "1"}}
	await(t, m, gpu, device.Resource{Capacity: 2, Allocatable: 1})
	if got := allocate(t, m, newPod("a", 1))["c0"].Envs["IDS_GPU"]; got != "1" {
		t.Fatalf("allocated %q, want the healthy device 1", got)
	}
	f.lists <- healthy("0")
	await(t, m, gpu, device.Resource{Capacity: 1, Allocatable: 1, InUse: 1})
}

func TestFailedAllocationHoldsNothing(t *testing.T) {
	root := newRoot(t)
	m, _ := startManager(t, root)
	f := newFake(gpu, "0")
	works, fail := f.Allocate, true
	f.Allocate = func(ctx context.Context, ids []string) (*deviceplugin.Allocation, error) {
		if fail {
			return nil, errors.New("the device is on fire")
		}
		return works(ctx, ids)
	}
	f.start(t, root)
	await(t, m, gpu, device.Resource{Capacity: 1, Allocatable: 1})
	_, err := m.Allocate(t.Context(), newPod("a", 1))
	if pod.Waiting(err) == nil || !strings.Contains(err.Error(), "on fire") {
		t.Fatalf("got %v, want a WaitError with the plugin's words", err)
	}
	await(t, m, gpu, device.Resource{Capacity: 1, Allocatable: 1})
	fail = false
	allocate(t, m, newPod("a", 1))
}

// TestOldInstance is kubernetes#121994: the end of a replaced instance must not
// take the new one down.
func TestOldInstance(t *testing.T) {
	root := newRoot(t)
	m, _ := startManager(t, root)
	old := newFake(gpu, "0")
	stopOld := old.start(t, root)
	await(t, m, gpu, device.Resource{Capacity: 1, Allocatable: 1})

	// The new instance comes through the registry, with a socket of its own.
	elsewhere := newRoot(t)
	renewed := newFake(gpu, "0", "1")
	proxy, err := device.New(device.Config{Root: elsewhere})
	if err != nil {
		t.Fatal(err)
	}
	start(t, proxy.Run) // keeps the new instance's Serve content
	renewed.start(t, elsewhere)
	await(t, proxy, gpu, device.Resource{Capacity: 2, Allocatable: 2})
	registry := filepath.Join(root, "plugins_registry")
	start(t, func(ctx context.Context) error {
		return registration.Watch(ctx, registry, map[string]registration.Handler{registration.DevicePlugin: m.Handler()}, nil)
	})
	stopRegistration := start(t, func(ctx context.Context) error {
		return registration.Serve(ctx, registry, registration.Plugin{
			Kind: registration.DevicePlugin, Name: gpu, Versions: []string{"v1beta1"},
			Endpoint: filepath.Join(elsewhere, "device-plugins", "example.com_gpu.sock"),
		}, nil)
	})
	await(t, m, gpu, device.Resource{Capacity: 2, Allocatable: 2})
	stopOld()
	time.Sleep(50 * time.Millisecond)
	await(t, m, gpu, device.Resource{Capacity: 2, Allocatable: 2})
	allocate(t, m, newPod("a", 2))
	stopRegistration()
	await(t, m, gpu, device.Resource{Capacity: 2, InUse: 2})
}

func TestPreStart(t *testing.T) {
	root := newRoot(t)
	m, _ := startManager(t, root)
	f := newFake(gpu, "0")
	var started []string
	f.PreStart = func(_ context.Context, ids []string) error {
		started = append(started, ids...)
		return nil
	}
	stop := f.start(t, root)
	await(t, m, gpu, device.Resource{Capacity: 1, Allocatable: 1})
	p := newPod("a", 1, 0)
	allocate(t, m, p)
	for _, c := range []string{"c0", "c1"} {
		if err := m.PreStart(t.Context(), p, c); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(started, []string{"0"}) {
		t.Errorf("PreStart saw %q, want device 0 once", started)
	}
	stop()
	await(t, m, gpu, device.Resource{Capacity: 1, InUse: 1})
	if err := m.PreStart(t.Context(), p, "c0"); pod.Waiting(err) == nil {
		t.Errorf("without the plugin: %v, want a WaitError", err)
	}
}

func TestConcurrentPodsNeverShare(t *testing.T) {
	root := newRoot(t)
	m, _ := startManager(t, root)
	var ids []string
	for i := range 40 {
		ids = append(ids, fmt.Sprint(i))
	}
	f := newFake(gpu, ids...)
	f.Prefer = func(_ context.Context, p deviceplugin.Preference) ([]string, error) {
		return p.Available[len(p.Available)-p.Count:], nil // what everybody else prefers too
	}
	f.start(t, root)
	await(t, m, gpu, device.Resource{Capacity: 40, Allocatable: 40})
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			if _, err := m.Allocate(t.Context(), newPod(fmt.Sprint("p", i), 2)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	seen := map[string]bool{}
	for _, call := range f.asked {
		for _, id := range call {
			if seen[id] {
				t.Errorf("device %q was given twice", id)
			}
			seen[id] = true
		}
	}
	if len(seen) != 40 {
		t.Errorf("%d devices given, want 40", len(seen))
	}
}

// TestHungPlugin is kubernetes#117435: a plugin that does not answer must hold
// up nobody but the Pod that waits for it.
func TestHungPlugin(t *testing.T) {
	root := newRoot(t)
	m, _ := startManager(t, root)
	hung := newFake("example.com/hung", "0")
	hung.Allocate = func(ctx context.Context, _ []string) (*deviceplugin.Allocation, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	hung.start(t, root)
	newFake(gpu, "0").start(t, root)
	await(t, m, gpu, device.Resource{Capacity: 1, Allocatable: 1})
	await(t, m, "example.com/hung", device.Resource{Capacity: 1, Allocatable: 1})

	p := newPod("hung", 0)
	p.Spec.Containers[0].Resources.Limits = v1.ResourceList{"example.com/hung": resource.MustParse("1")}
	ctx, giveUp := context.WithCancel(t.Context())
	waiting := make(chan error, 1)
	go func() { _, err := m.Allocate(ctx, p); waiting <- err }()
	await(t, m, "example.com/hung", device.Resource{Capacity: 1, Allocatable: 1, InUse: 1})
	allocate(t, m, newPod("other", 1))
	if err := m.Release(t.Context(), "other"); err != nil {
		t.Fatal(err)
	}
	giveUp()
	if err := <-waiting; pod.Waiting(err) == nil {
		t.Errorf("the Pod of the hung plugin got %v, want a WaitError", err)
	}
	await(t, m, "example.com/hung", device.Resource{Capacity: 1, Allocatable: 1})
}

func TestBadRecords(t *testing.T) {
	for name, content := range map[string]string{"damaged": "{", "newer": `{"version": 2}`} {
		t.Run(name, func(t *testing.T) {
			root := newRoot(t)
			if err := os.Mkdir(filepath.Join(root, "device-plugins"), 0o750); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(root, "device-plugins", "nodekit_allocations.json"), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := device.New(device.Config{Root: root}); !errors.Is(err, fault.FailedPrecondition) {
				t.Errorf("got %v, want fault.FailedPrecondition", err)
			}
		})
	}
}

func TestSecondKubeletIsRefused(t *testing.T) {
	root := newRoot(t)
	m, _ := startManager(t, root)
	newFake(gpu, "0").start(t, root)
	await(t, m, gpu, device.Resource{Capacity: 1, Allocatable: 1})
	second, err := device.New(device.Config{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Run(t.Context()); !errors.Is(err, fault.AlreadyExists) {
		t.Fatalf("a second kubelet ended with %v, want fault.AlreadyExists", err)
	}
	await(t, m, gpu, device.Resource{Capacity: 1, Allocatable: 1})
}

func TestAllocateLatency(t *testing.T) {
	root := newRoot(t)
	m, _ := startManager(t, root)
	began := time.Now()
	newFake(gpu, "0").start(t, root)
	await(t, m, gpu, device.Resource{Capacity: 1, Allocatable: 1})
	registered := time.Since(began)
	var took []time.Duration
	for i := range 30 {
		uid := fmt.Sprint(i)
		began := time.Now()
		allocate(t, m, newPod(uid, 1))
		took = append(took, time.Since(began))
		if err := m.Release(t.Context(), types.UID(uid)); err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(took)
	t.Logf("from Serve to allocatable %s; allocate: min %s, median %s, max %s", registered, took[0], took[len(took)/2], took[len(took)-1])
	if took[len(took)/2] > 500*time.Millisecond {
		t.Errorf("the median of Allocate is %s: something waits for a timer", took[len(took)/2])
	}
}
