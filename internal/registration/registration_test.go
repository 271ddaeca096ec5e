package registration_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/registration"
)

// kubelet records what a watched registry tells its handler.
type kubelet struct {
	dir    string
	events chan string
	mu     sync.Mutex
	refuse error
	last   registration.Plugin
}

func startKubelet(t *testing.T) *kubelet {
	t.Helper()
	k := &kubelet{dir: filepath.Join(t.TempDir(), "plugins_registry"), events: make(chan string, 100)}
	run(t, func(ctx context.Context) error {
		return registration.Watch(ctx, k.dir, map[string]registration.Handler{registration.CSIPlugin: k.handler()}, &registration.Options{Logger: logger(t)})
	})
	return k
}

func (k *kubelet) handler() registration.Handler {
	return registration.Handler{
		Register: func(_ context.Context, p registration.Plugin) error {
			k.mu.Lock()
			defer k.mu.Unlock()
			k.last = p
			if k.refuse != nil {
				k.events <- "refuse " + p.Name
				return k.refuse
			}
			k.events <- "register " + p.Name
			return nil
		},
		Deregister: func(p registration.Plugin) { k.events <- "deregister " + p.Name },
	}
}

func (k *kubelet) setRefuse(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.refuse = err
}

func (k *kubelet) expect(t *testing.T, want string) {
	t.Helper()
	select {
	case got := <-k.events:
		if got != want {
			t.Fatalf("the handler saw %q, want %q", got, want)
		}
	case <-time.After(5 * time.Second):
		t.Fatalf("the handler did not see %q within 5 s", want)
	}
}

func (k *kubelet) expectNothing(t *testing.T, during time.Duration) {
	t.Helper()
	select {
	case got := <-k.events:
		t.Fatalf("the handler saw %q, want nothing", got)
	case <-time.After(during):
	}
}

// run runs f until the test's end or until stop is called, and checks its error.
func run(t *testing.T, f func(context.Context) error) (stop func()) {
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

func serve(t *testing.T, dir, name string, status func(error)) (stop func()) {
	t.Helper()
	p := registration.Plugin{Kind: registration.CSIPlugin, Name: name, Endpoint: "/run/" + name + ".sock", Versions: []string{"1.0.0"}}
	return run(t, func(ctx context.Context) error {
		return registration.Serve(ctx, dir, p, &registration.Options{Logger: logger(t), Status: status})
	})
}

func logger(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func TestPluginBeforeAndAfterKubelet(t *testing.T) {
	k := &kubelet{dir: t.TempDir(), events: make(chan string, 100)}
	serve(t, k.dir, "early.example.com", nil)
	handlers := map[string]registration.Handler{registration.CSIPlugin: k.handler()}
	run(t, func(ctx context.Context) error { return registration.Watch(ctx, k.dir, handlers, nil) })
	k.expect(t, "register early.example.com")

	answered := make(chan time.Time, 1)
	start := time.Now()
	stop := serve(t, k.dir, "late.example.com", func(err error) {
		if err != nil {
			t.Errorf("status %v, want nil", err)
		}
		answered <- time.Now()
	})
	k.expect(t, "register late.example.com")
	took := (<-answered).Sub(start)
	t.Logf("from Serve to NotifyRegistrationStatus: %s", took)
	if took > 5*time.Second { // the slow scan comes every 30
		t.Errorf("registration took %s: it was not event-driven", took)
	}
	if k.last.Endpoint != "/run/late.example.com.sock" || k.last.Versions[0] != "1.0.0" || k.last.Socket == "" {
		t.Errorf("plugin %+v", k.last)
	}
	stop()
	k.expect(t, "deregister late.example.com")
	k.expectNothing(t, 50*time.Millisecond)
}

func TestRefusalIsToldAndRetried(t *testing.T) {
	k := startKubelet(t)
	k.setRefuse(errors.New("the moon is wrong"))
	told := make(chan error, 100)
	serve(t, k.dir, "a.example.com", func(err error) { told <- err })
	k.expect(t, "refuse a.example.com")
	if err := <-told; err == nil || !strings.Contains(err.Error(), "the moon is wrong") {
		t.Fatalf("the plugin was told %v, want the kubelet's reason", err)
	}
	k.setRefuse(nil)
	deadline := time.After(5 * time.Second)
	for {
		select {
		case err := <-told:
			if err == nil {
				return
			}
		case <-deadline:
			t.Fatal("the registration was not retried")
		}
	}
}

func TestEndInTheMiddleOfARegistrationIsNobodysFault(t *testing.T) {
	dir, begun := t.TempDir(), make(chan struct{})
	var log bytes.Buffer // read once Watch has returned
	stop := run(t, func(ctx context.Context) error {
		return registration.Watch(ctx, dir, map[string]registration.Handler{registration.CSIPlugin: {
			Register: func(ctx context.Context, _ registration.Plugin) error {
				close(begun)
				<-ctx.Done()
				return ctx.Err()
			},
			Deregister: func(registration.Plugin) { t.Error("deregistered what was never registered") },
		}}, &registration.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	})
	serve(t, dir, "a.example.com", func(err error) { t.Errorf("the plugin was told %v", err) })
	<-begun
	stop()
	if strings.Contains(log.String(), "level=WARN") {
		t.Errorf("the log says:\n%s", &log)
	}
}

func TestReplacedAtTheSamePath(t *testing.T) {
	k := startKubelet(t)
	for range 20 {
		stop := serve(t, k.dir, "a.example.com", nil)
		k.expect(t, "register a.example.com")
		stop()
		k.expect(t, "deregister a.example.com")
	}
}

func TestRemovedSocketComesBack(t *testing.T) {
	k := startKubelet(t)
	serve(t, k.dir, "a.example.com", nil)
	k.expect(t, "register a.example.com")
	if err := os.Remove(filepath.Join(k.dir, "a.example.com-reg.sock")); err != nil {
		t.Fatal(err)
	}
	k.expect(t, "deregister a.example.com")
	k.expect(t, "register a.example.com")
}

// A successor that comes at once waits for the end of the one before: a handler
// that was told of both the other way round would let go of the new one.
func TestSuccessorWaitsForDeregister(t *testing.T) {
	dir, events, leaving, leave := t.TempDir(), make(chan string, 10), make(chan struct{}, 10), make(chan struct{})
	letGo := sync.OnceFunc(func() { close(leave) })
	defer letGo()
	run(t, func(ctx context.Context) error {
		return registration.Watch(ctx, dir, map[string]registration.Handler{registration.CSIPlugin: {
			Register: func(_ context.Context, p registration.Plugin) error {
				events <- "register " + p.Name
				return nil
			},
			Deregister: func(p registration.Plugin) {
				leaving <- struct{}{}
				<-leave
				events <- "deregister " + p.Name
			},
		}}, &registration.Options{Logger: logger(t)})
	})
	k := &kubelet{dir: dir, events: events}
	serve(t, dir, "a.example.com", nil)
	k.expect(t, "register a.example.com")
	if err := os.Remove(filepath.Join(dir, "a.example.com-reg.sock")); err != nil {
		t.Fatal(err)
	}
	<-leaving
	k.expectNothing(t, 50*time.Millisecond) // the plugin has its socket there again long before
	letGo()
	k.expect(t, "deregister a.example.com")
	k.expect(t, "register a.example.com")
}

func TestSubdirectoriesAndWhatIsIgnored(t *testing.T) {
	k := startKubelet(t)
	time.Sleep(20 * time.Millisecond)
	if err := os.WriteFile(filepath.Join(k.dir, "file.sock"), nil, 0o600); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	serve(t, filepath.Join(k.dir, ".hidden"), "hidden.example.com", nil)
	k.expectNothing(t, 50*time.Millisecond)
	stop := serve(t, filepath.Join(k.dir, "a", "b"), "deep.example.com", nil)
	k.expect(t, "register deep.example.com")
	if err := os.Rename(filepath.Join(k.dir, "a"), filepath.Join(k.dir, ".a")); err != nil {
		t.Fatal(err)
	}
	k.expect(t, "deregister deep.example.com")
	stop()
}

func TestStaleSocketIsReplacedAndLiveOneIsNot(t *testing.T) {
	k := startKubelet(t)
	path := filepath.Join(k.dir, "a.example.com-reg.sock")
	if err := os.MkdirAll(k.dir, 0o750); err != nil {
		t.Fatal(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close() // what a kill -9 leaves
	serve(t, k.dir, "a.example.com", nil)
	k.expect(t, "register a.example.com")

	p := registration.Plugin{Kind: registration.CSIPlugin, Name: "a.example.com"}
	if err := registration.Serve(t.Context(), k.dir, p, nil); !errors.Is(err, fault.AlreadyExists) {
		t.Fatalf("a second instance ended with %v, want fault.AlreadyExists", err)
	}
}

func TestEndpointBelowTheWellKnownRoot(t *testing.T) {
	k := startKubelet(t)
	time.Sleep(20 * time.Millisecond)
	here := filepath.Join(filepath.Dir(k.dir), "plugins", "x.sock")
	if err := os.MkdirAll(here, 0o750); err != nil {
		t.Fatal(err)
	}
	p := registration.Plugin{Kind: registration.CSIPlugin, Name: "x.example.com", Endpoint: "/var/lib/kubelet/plugins/x.sock"}
	run(t, func(ctx context.Context) error { return registration.Serve(ctx, k.dir, p, nil) })
	k.expect(t, "register x.example.com")
	if k.last.Endpoint != here {
		t.Errorf("endpoint %q, want %q", k.last.Endpoint, here)
	}
}

func TestUnknownKindIsRefused(t *testing.T) {
	k := startKubelet(t)
	told := make(chan error, 10)
	p := registration.Plugin{Kind: "DRAPlugin", Name: "dra.example.com"}
	run(t, func(ctx context.Context) error {
		return registration.Serve(ctx, k.dir, p, &registration.Options{Status: func(err error) { told <- err }})
	})
	if err := <-told; err == nil || !strings.Contains(err.Error(), "DRAPlugin") {
		t.Fatalf("status %v, want a refusal that names the kind", err)
	}
}
