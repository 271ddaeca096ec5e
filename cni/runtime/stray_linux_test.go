package runtime_test

import (
	"context"
	"errors"
	goruntime "runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/cni/runtime"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// deaf is a built-in plugin that ignores its context in the verbs that hang.
type deaf struct {
	release chan struct{}

	mu    sync.Mutex
	seen  []string
	hangs map[string]bool
}

func (d *deaf) note(what string) (hangs bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.seen = append(d.seen, what)
	return d.hangs[what]
}

func (d *deaf) heal() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.hangs = nil
}

func (d *deaf) plugin() *cni.Plugin {
	verb := func(_ context.Context, r *cni.Request) error {
		if d.note(r.Command) {
			<-d.release
		}
		return nil
	}
	return &cni.Plugin{
		Name: "first", IPAM: true, Del: verb, Check: verb, GC: verb, Status: verb,
		Add: func(ctx context.Context, r *cni.Request) (*cni.Result, error) {
			r.Undo("it", func(context.Context) error { d.note("undone"); return nil })
			return &cni.Result{}, verb(ctx, r)
		},
	}
}

func (d *deaf) take() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	defer func() { d.seen = nil }()
	return strings.Join(d.seen, " ")
}

// TestHungBuiltin: a built-in plugin that ignores its context holds up its own
// attachment at most, and that until it ends.
func TestHungBuiltin(t *testing.T) {
	for verb, want := range map[string]string{"ADD": "ADD DEL", "DEL": "ADD DEL", "CHECK": "ADD CHECK", "GC": "ADD GC"} {
		synctest.Test(t, func(t *testing.T) {
			d := &deaf{hangs: map[string]bool{verb: true}, release: make(chan struct{})}
			w := newWorld(t, single, d.plugin())
			w.config.PluginTimeout = 5 * time.Second
			n := w.open()
			run := func() error {
				_, err := n.Attach(t.Context(), w.attachment)
				switch verb {
				case "DEL":
					err = n.Detach(t.Context(), w.attachment)
				case "CHECK":
					err = n.Check(t.Context(), w.attachment)
				case "GC":
					err = n.GC(t.Context(), []runtime.Attachment{w.attachment})
				}
				return err
			}
			start := time.Now()
			err := run()
			if took := time.Since(start); !errors.Is(err, fault.Unavailable) || took != w.config.PluginTimeout+cni.Grace {
				t.Errorf("%s: %v after %s", verb, err, took)
			}
			if got := d.take(); got != want {
				t.Errorf("%s: the plugin saw %q, want %q", verb, got, want)
			}
			if err = run(); !errors.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "still runs") || time.Since(start) > 30*time.Second {
				t.Errorf("%s again: %v after %s", verb, err, time.Since(start))
			}
			if got := d.take(); (got == "DEL") != (verb == "ADD") || got != "" && verb != "ADD" {
				t.Errorf("%s again: the plugin saw %q", verb, got)
			}
			other := w.attachment
			other.ContainerID = "c2"
			d.heal()
			if _, err := n.Attach(t.Context(), other); err != nil {
				t.Errorf("%s: another container: %v", verb, err)
			}
			if err := n.GC(t.Context(), []runtime.Attachment{w.attachment, other}); (err == nil) != (verb != "GC") {
				t.Errorf("%s: GC: %v", verb, err)
			}
			d.take()
			close(d.release)
			synctest.Wait()
			if got := d.take(); (got == "undone") != (verb == "ADD") {
				t.Errorf("%s: in the end the plugin did %q", verb, got)
			}
			if err := run(); err != nil {
				t.Errorf("%s, once it does not hang: %v", verb, err)
			}
		})
	}
}

// TestBuiltinThatExits: a plugin that ends its goroutine has failed at once.
func TestBuiltinThatExits(t *testing.T) {
	p := &cni.Plugin{Name: "first", IPAM: true, Add: func(context.Context, *cni.Request) (*cni.Result, error) {
		goruntime.Goexit()
		return nil, nil
	}}
	w := newWorld(t, `{"cniVersion":"1.1.0","name":"n","plugins":[{"type":"first"}]}`, p)
	begun := time.Now()
	_, err := w.open().Attach(t.Context(), w.attachment)
	if cni.CodeOf(err) != cni.CodePanic || time.Since(begun) > cni.DefaultTimeout/2 {
		t.Errorf("after %v: %v", time.Since(begun), err)
	}
}

// TestOutOfTimeIsNotCode11: the SDK's own timeout is shorter than the runtime's.
func TestOutOfTimeIsNotCode11(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		adds := 0
		p := &cni.Plugin{Name: "first", IPAM: true, Add: func(ctx context.Context, _ *cni.Request) (*cni.Result, error) {
			adds++
			<-ctx.Done()
			return nil, ctx.Err()
		}}
		w := newWorld(t, single, p)
		w.config.PluginTimeout = time.Hour
		start := time.Now()
		_, err := w.open().Attach(t.Context(), w.attachment)
		if took := time.Since(start); !errors.Is(err, fault.Unavailable) || adds != 1 || took != cni.DefaultTimeout {
			t.Errorf("%v after %s and %d ADDs", err, took, adds)
		}
	})
}
