package runtime_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// asked is a plugin that counts its STATUS calls, which do what status says.
type asked struct {
	count  atomic.Int32
	status func(context.Context) error
}

func (a *asked) plugin() *cni.Plugin {
	return &cni.Plugin{
		Name: "first", IPAM: true,
		Add: func(context.Context, *cni.Request) (*cni.Result, error) { return nil, errors.New("no") },
		Status: func(ctx context.Context, _ *cni.Request) error {
			a.count.Add(1)
			if a.status == nil {
				return nil
			}
			return a.status(ctx)
		},
	}
}

func TestStatusIsPolled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &asked{}
		w := newWorld(t, single, a.plugin())
		n := w.open()
		down := errors.New("the fabric is down")
		for i, step := range []struct {
			after  time.Duration
			status error
			count  int32
			ok     bool
		}{
			{0, nil, 1, true},
			{0, nil, 1, true},
			{time.Second, down, 1, true}, // not seen yet
			{4 * time.Second, down, 2, false},
			{time.Second / 2, nil, 2, false},
			{time.Second, nil, 3, true},
		} {
			time.Sleep(step.after)
			a.status = func(context.Context) error { return step.status }
			err := n.Status(t.Context())
			if (err == nil) != step.ok || a.count.Load() != step.count {
				t.Errorf("step %d: %v after %d calls, want ok %v after %d", i, err, a.count.Load(), step.ok, step.count)
			}
			if err != nil && (!errors.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "fabric")) {
				t.Errorf("step %d: %v", i, err)
			}
		}
		if _, err := n.Attach(t.Context(), w.attachment); err == nil {
			t.Error("Attach succeeds")
		}
		if err := n.Status(t.Context()); err != nil || a.count.Load() != 4 {
			t.Errorf("after a failed Attach: %v after %d calls", err, a.count.Load())
		}
		w.write("50-test.conflist", `{"cniVersion":"1.1.0","name":"other","plugins":[{"type":"first"}]}`)
		if err := n.Status(t.Context()); err != nil || a.count.Load() != 5 {
			t.Errorf("after a change of the configuration: %v after %d calls", err, a.count.Load())
		}
		w.write("50-test.conflist", `{"cniVersion":"1.0.0","name":"old","plugins":[{"type":"first"}]}`)
		if err := n.Status(t.Context()); err != nil || a.count.Load() != 5 {
			t.Errorf("of a version without STATUS: %v after %d calls", err, a.count.Load())
		}
	})
}

// TestHungStatus has a built-in plugin whose STATUS ignores its context.
func TestHungStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		a := &asked{status: func(context.Context) error { <-release; return nil }}
		w := newWorld(t, chain, a.plugin(), recorder("second"))
		n := w.open()
		patience := func(d time.Duration) error {
			ctx, cancel := context.WithTimeout(t.Context(), d)
			defer cancel()
			return n.Status(ctx)
		}
		if err := patience(time.Second); !errors.Is(err, fault.Unavailable) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("for an impatient caller: %v", err)
		}
		if _, err := n.Attach(t.Context(), w.attachment); err == nil || !strings.Contains(err.Error(), "no") {
			t.Errorf("Attach beside a STATUS that hangs: %v", err) // it fails, and at once
		}
		if err := n.GC(t.Context(), nil); err != nil {
			t.Errorf("GC beside a STATUS that hangs: %v", err)
		}
		start := time.Now()
		if err := patience(time.Hour); !errors.Is(err, fault.Unavailable) || time.Since(start) > 12*time.Second || !strings.Contains(err.Error(), `plugin "first"`) {
			t.Errorf("for a patient caller: %v after %s", err, time.Since(start))
		}
		if a.count.Load() != 1 {
			t.Errorf("STATUS was called %d times beside one that hangs", a.count.Load())
		}
		close(release)
		synctest.Wait()
		if err := n.Status(t.Context()); err != nil {
			t.Errorf("once it does not hang: %v", err)
		}
	})
}

// TestHungForeignStatus must be killed, also when the network is closed.
func TestHungForeignStatus(t *testing.T) {
	w := newWorld(t, `{"cniVersion":"1.1.0","name":"n","plugins":[{"type":"hang"}]}`)
	w.script("hang", "echo $$ >> "+w.log+"; exec sleep 60")
	n := w.open()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if err := n.Status(ctx); !errors.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), `plugin "hang"`) {
		t.Errorf("Status: %v", err)
	}
	n.Close()
	pid := w.seen()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(filepath.Join("/proc", pid)); pid != "" && err != nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("process %q runs on", pid)
		}
	}
}
