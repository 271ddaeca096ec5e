package call_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nodekit-project/nodekit/internal/call"
)

// told is an observer that keeps what it is told, as a line each.
func told(patience time.Duration) (*call.Observer, func() []string) {
	var mu sync.Mutex
	var lines []string
	note := func(what string) func(context.Context, call.Call) {
		return func(_ context.Context, c call.Call) {
			mu.Lock()
			defer mu.Unlock()
			lines = append(lines, fmt.Sprintf("%s %s %s %s %v of %v: %v", what, c.Pod, c.Plugin, c.Method, c.Took, c.Limit, c.Err))
		}
	}
	o := &call.Observer{Done: note("done"), Waits: note("waits"), Patience: patience}
	return o, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return lines
	}
}

func TestObserver(t *testing.T) {
	for _, tt := range []struct {
		name  string
		takes time.Duration
		limit time.Duration
		want  []string
	}{
		{"quick", 4 * time.Second, time.Minute, []string{"done ns/p mine M 4s of 0s: late"}},
		{"slow", 6 * time.Second, time.Minute, []string{
			"waits ns/p mine M 5s of 1m0s: <nil>", "done ns/p mine M 6s of 0s: late",
		}},
		{"hanging", time.Hour, 0, []string{
			"waits ns/p mine M 5s of 0s: <nil>", "waits ns/p mine M 30s of 0s: <nil>", "done ns/p mine M 1h0m0s of 0s: late",
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o, lines := told(0)
				ctx := call.WithPod(t.Context(), call.Pod{Namespace: "ns", Name: "p", UID: "u"})
				if tt.limit > 0 {
					limited, cancel := context.WithTimeout(ctx, tt.limit)
					defer cancel()
					ctx = limited
				}
				this := o.Named("mine").Begin(ctx, call.Call{Plugin: "/a.sock", Method: "M"})
				time.Sleep(tt.takes)
				this.Done(ctx, errors.New("late"))
				time.Sleep(time.Hour) // nothing comes after the end
				if diff := cmp.Diff(tt.want, lines()); diff != "" {
					t.Error(diff)
				}
			})
		})
	}
}

// TestEndWhileTold: whoever is told that a call goes on is not told so after its end.
func TestEndWhileTold(t *testing.T) {
	var calls sync.WaitGroup
	for range 2000 {
		var mu sync.Mutex
		var ended bool
		o := &call.Observer{
			Done: func(context.Context, call.Call) {
				mu.Lock()
				defer mu.Unlock()
				ended = true
			},
			Waits: func(context.Context, call.Call) {
				mu.Lock()
				defer mu.Unlock()
				if ended {
					t.Error("a call goes on that has ended")
				}
			},
			Patience: time.Microsecond,
		}
		calls.Go(func() {
			this := o.Begin(t.Context(), call.Call{})
			time.Sleep(2 * time.Microsecond)
			this.Done(t.Context(), nil)
		})
	}
	calls.Wait()
	time.Sleep(10 * time.Millisecond)
}

// TestNobody: without an observer, or one of its functions, nothing is told.
func TestNobody(t *testing.T) {
	var nobody *call.Observer
	for _, o := range []*call.Observer{nobody, nobody.Named("x"), {}, {Waits: func(context.Context, call.Call) { t.Error("told") }}} {
		o.Begin(t.Context(), call.Call{}).Done(t.Context(), nil)
	}
}

func BenchmarkCall(b *testing.B) {
	tell := func(context.Context, call.Call) {}
	for name, o := range map[string]*call.Observer{"nobody": nil, "done": {Done: tell}, "waits": {Done: tell, Waits: tell}} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				o.Begin(b.Context(), call.Call{Family: "cni", Plugin: "p", Method: "ADD"}).Done(b.Context(), nil)
			}
		})
	}
}
