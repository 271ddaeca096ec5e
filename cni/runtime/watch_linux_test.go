package runtime_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/cni/runtime"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/syncbuf"
)

// fragile is a plugin of which something can be lost, and put back.
type fragile struct {
	mu           sync.Mutex
	lost, broken bool // broken cannot be put back
	seen         []string
}

func (f *fragile) plugin(name string) *cni.Plugin {
	note := func(what string) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.seen = append(f.seen, what)
	}
	return &cni.Plugin{
		Name: name, IPAM: true,
		Add: func(context.Context, *cni.Request) (*cni.Result, error) { note("ADD"); return &cni.Result{}, nil },
		Del: func(context.Context, *cni.Request) error { note("DEL"); return nil },
		Check: func(_ context.Context, r *cni.Request) error {
			note("CHECK")
			if r.PrevResult == nil || r.ContainerID != "c1" {
				return errors.New("not the documents of ADD")
			}
			f.mu.Lock()
			defer f.mu.Unlock()
			if f.lost || f.broken {
				return cni.Errorf(cni.CodeNotAsExpected, "the rule is lost")
			}
			return nil
		},
		Repair: func(_ context.Context, r *cni.Request) error {
			note("REPAIR")
			if r.PrevResult == nil || r.ContainerID != "c1" {
				return errors.New("not the documents of CHECK")
			}
			f.set(false, f.broken)
			return nil
		},
	}
}

func (f *fragile) set(lost, broken bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lost, f.broken = lost, broken
}

func (f *fragile) take() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	defer func() { f.seen = nil }()
	return strings.Join(f.seen, " ")
}

func TestCheckAndRepair(t *testing.T) {
	one, two := &fragile{}, &fragile{}
	w := newWorld(t, chain, one.plugin("first"), two.plugin("second"))
	n := w.open()
	if _, err := n.CheckAndRepair(t.Context(), w.attachment); !errors.Is(err, fault.NotFound) {
		t.Errorf("before ADD: %v", err)
	}
	if _, err := n.Attach(t.Context(), w.attachment); err != nil {
		t.Fatal(err)
	}
	one.take()
	two.take()
	type state struct{ lost, broken bool }
	for name, c := range map[string]struct {
		one, two         state
		repaired         []string
		ok               bool
		seenOne, seenTwo string
	}{
		"nothing lost":      {state{}, state{}, nil, true, "CHECK", "CHECK"},
		"first lost":        {state{lost: true}, state{}, []string{"first"}, true, "CHECK REPAIR CHECK", "CHECK"},
		"both lost":         {state{lost: true}, state{lost: true}, []string{"first", "second"}, true, "CHECK REPAIR CHECK", "CHECK REPAIR CHECK"},
		"first beyond help": {state{broken: true}, state{lost: true}, nil, false, "CHECK REPAIR CHECK", ""},
	} {
		one.set(c.one.lost, c.one.broken)
		two.set(c.two.lost, c.two.broken)
		repaired, err := n.CheckAndRepair(t.Context(), w.attachment)
		var names []string
		for _, r := range repaired {
			names = append(names, r.Plugin)
			if !strings.Contains(r.Missed.Error(), "the rule is lost") {
				t.Errorf("%s: missed %v", name, r.Missed)
			}
		}
		if !slices.Equal(names, c.repaired) || (err == nil) != c.ok || err != nil && !strings.Contains(err.Error(), "lost") {
			t.Errorf("%s: repaired %q, %v", name, names, err)
		}
		if a, b := one.take(), two.take(); a != c.seenOne || b != c.seenTwo {
			t.Errorf("%s: plugins saw %q and %q, want %q and %q", name, a, b, c.seenOne, c.seenTwo)
		}
	}
}

// TestWatch loses a rule under a watched attachment, then breaks the plugin for
// good, and looks at log and observer.
func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fragile{}
		w := newWorld(t, single, f.plugin("first"))
		log := &syncbuf.Buffer{}
		w.config.Logger = slog.New(slog.NewTextHandler(log, nil))
		n := w.open()
		if _, err := n.Attach(t.Context(), w.attachment); err != nil {
			t.Fatal(err)
		}
		f.take()
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			n.Watch(ctx, time.Minute)
			close(done)
		}()
		pass := func() string {
			log.Reset()
			time.Sleep(time.Minute)
			synctest.Wait()
			return f.take()
		}
		time.Sleep(time.Second)
		if got := pass(); got != "CHECK" || log.String() != "" {
			t.Errorf("with nothing lost the plugin saw %q, the log %s", got, log)
		}
		f.set(true, false)
		if got := pass(); got != "CHECK REPAIR CHECK" || !strings.Contains(log.String(), "repaired") || !strings.Contains(log.String(), "the rule is lost") {
			t.Errorf("the plugin saw %q, the log %s", got, log)
		}
		w.mu.Lock()
		all := strings.Join(w.calls, "|")
		w.mu.Unlock()
		if !strings.Contains(all, "cni first REPAIR ns/"+w.log) {
			t.Errorf("observed %s", all)
		}
		f.set(false, true)
		if got := pass(); got != "CHECK REPAIR CHECK" || !strings.Contains(log.String(), "level=ERROR") {
			t.Errorf("the plugin saw %q, the log %s", got, log)
		}
		if got := pass(); got != "CHECK REPAIR CHECK" || log.String() != "" {
			t.Errorf("said again: %s", log)
		}
		if err := n.Detach(t.Context(), w.attachment); err != nil {
			t.Fatal(err)
		}
		f.take()
		if got := pass(); got != "" || log.String() != "" {
			t.Errorf("after the end of the attachment the plugin saw %q, the log %s", got, log)
		}
		stop()
		<-done
		n.Watch(t.Context(), 0) // returns
	})
}

// TestWatchSpreadsTheLoad looks when each of several attachments is checked.
func TestWatchSpreadsTheLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var at []time.Duration
		start := time.Now()
		w := newWorld(t, single, &cni.Plugin{
			Name: "first", IPAM: true, Add: func(context.Context, *cni.Request) (*cni.Result, error) { return &cni.Result{}, nil },
			Check: func(context.Context, *cni.Request) error { at = append(at, time.Since(start)); return nil },
		})
		n := w.open()
		for _, id := range []string{"a", "b", "c"} {
			if _, err := n.Attach(t.Context(), runtime.Attachment{ContainerID: id, IfName: "eth0", NetNS: w.dir}); err != nil {
				t.Fatal(err)
			}
		}
		ctx, stop := context.WithTimeout(t.Context(), 90*time.Second+time.Millisecond)
		defer stop()
		n.Watch(ctx, 30*time.Second)
		if len(at) != 9 {
			t.Fatalf("%d checks in three rounds: %v", len(at), at)
		}
		for i, d := range at {
			if want := time.Duration(i+1) * 10 * time.Second; d != want {
				t.Errorf("check %d was after %s, want %s", i, d, want)
			}
		}
	})
}

// A plugin that is executed is reported, and left alone.
func TestWatchLeavesForeignPluginsAlone(t *testing.T) {
	w := newWorld(t, `{"cniVersion":"1.1.0","name":"n","plugins":[{"type":"foreign"}]}`)
	w.script("foreign", "echo $CNI_COMMAND >> "+w.log+`
case $CNI_COMMAND in
ADD) echo '{"cniVersion":"1.1.0"}' ;;
CHECK) echo '{"cniVersion":"1.1.0","code":103,"msg":"gone"}'; exit 1 ;;
esac`)
	n := w.open()
	if _, err := n.Attach(t.Context(), w.attachment); err != nil {
		t.Fatal(err)
	}
	repaired, err := n.CheckAndRepair(t.Context(), w.attachment)
	if err == nil || !strings.Contains(err.Error(), "gone") || len(repaired) > 0 {
		t.Errorf("repaired %v, %v", repaired, err)
	}
	if got := w.seen(); got != "ADD, CHECK" {
		t.Errorf("the plugin saw %q", got)
	}
}

func TestDisableCheck(t *testing.T) {
	f := &fragile{broken: true}
	w := newWorld(t, `{"cniVersion":"1.1.0","name":"n","disableCheck":true,"plugins":[{"type":"first"}]}`, f.plugin("first"))
	n := w.open()
	_, err := n.Attach(t.Context(), w.attachment)
	_, rerr := n.CheckAndRepair(t.Context(), w.attachment)
	if err := errors.Join(err, rerr, n.Check(t.Context(), w.attachment)); err != nil {
		t.Error(err)
	}
	if got := f.take(); got != "ADD" {
		t.Errorf("the plugin saw %q", got)
	}
}
