package flight_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodekit-project/nodekit/cri/internal/flight"
	"github.com/nodekit-project/nodekit/internal/call"
	"github.com/nodekit-project/nodekit/internal/fault"
)

func TestDoGoesOnWithoutItsClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := flight.NewGroup(t.Context())
		client, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var finished error
		err := g.Do(client, func(ctx context.Context) error {
			time.Sleep(time.Minute)
			finished = errors.Join(ctx.Err(), errors.New("finished"))
			return nil
		})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		g.Close()
		if finished == nil || finished.Error() != "finished" {
			t.Errorf("Close returned before the call did: %v", finished)
		}
		if err := g.Do(t.Context(), nil); !errors.Is(err, fault.Unavailable) {
			t.Errorf("Do after Close: %v", err)
		}
		if _, err := g.Join(t.Context(), "a", nil); !errors.Is(err, fault.Unavailable) {
			t.Errorf("Join after Close: %v", err)
		}
	})
}

// What outlives its client stays in the client's trace.
func TestTrace(t *testing.T) {
	g := flight.NewGroup(t.Context())
	defer g.Close()
	want := call.Trace{Parent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
	client := call.WithTrace(t.Context(), want)
	var done, joined call.Trace
	err := g.Do(client, func(ctx context.Context) error { done = call.TraceFrom(ctx); return nil })
	_, jerr := g.Join(client, "a", func(ctx context.Context) (string, error) { joined = call.TraceFrom(ctx); return "id", nil })
	if err := errors.Join(err, jerr); err != nil || done != want || joined != want {
		t.Errorf("Do is in the trace %v, Join in %v, want %v (%v)", done, joined, want, err)
	}
}

func TestJoin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := flight.NewGroup(t.Context())
		var made atomic.Int32
		create := func(context.Context) (string, error) {
			time.Sleep(time.Second)
			if made.Add(1) > 2 {
				return "", errors.New("third")
			}
			return "id", nil
		}
		join := func(key string) {
			if id, err := g.Join(t.Context(), key, create); id != "id" || err != nil {
				t.Errorf("got %q, %v", id, err)
			}
		}
		var wg sync.WaitGroup
		for range 5 {
			wg.Go(func() { join("a") })
		}
		wg.Wait()
		join("b")
		if made.Load() != 2 {
			t.Errorf("made %d times, want once for each key", made.Load())
		}
		if _, err := g.Join(t.Context(), "a", create); err == nil {
			t.Error("a key was remembered after its flight")
		}
		g.Close()
	})
}

func TestGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := flight.NewGate()
		leave1, _ := g.Share(t.Context())
		leave2, _ := g.Share(t.Context())
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := g.Alone(short); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("alone among two: %v", err)
		}
		leave1()
		leave2()
		leave, err := g.Alone(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var after atomic.Bool
		go func() {
			leave, _ := g.Share(context.Background())
			after.Store(true)
			leave()
		}()
		synctest.Wait()
		if after.Load() {
			t.Error("shared with one that is alone")
		}
		leave()
		synctest.Wait()
		if !after.Load() {
			t.Error("nobody got in afterwards")
		}
	})
}

func TestDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d flight.Deadline
		start := time.Now()
		d.Hasten(start.Add(time.Hour))
		go func() {
			time.Sleep(time.Second)
			d.Hasten(time.Now())
		}()
		var given []time.Duration
		err := d.Meet(t.Context(), start.Add(2*time.Hour), func(ctx context.Context, by time.Time) error {
			given = append(given, by.Sub(start))
			select {
			case <-time.After(time.Until(by)):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		if err != nil || time.Since(start) != time.Second || len(given) != 2 || given[0] != time.Hour || given[1] != time.Second {
			t.Errorf("given %v, took %v: %v", given, time.Since(start), err)
		}
		cannot := func(context.Context, time.Time) error { return errors.New("cannot") }
		if err := d.Meet(t.Context(), time.Now(), cannot); err == nil || err.Error() != "cannot" {
			t.Errorf("an error of its own: %v", err)
		}
		again := time.Now().Add(time.Minute)
		_ = d.Meet(t.Context(), again, func(_ context.Context, by time.Time) error {
			if !by.Equal(again) {
				t.Errorf("after a failure the time is %v, want a minute", time.Until(by))
			}
			return nil
		})
	})
}

// TestGuard: the error says where an author's function panicked, and one line of the log
// what led there.
func TestGuard(t *testing.T) {
	var text strings.Builder
	var none map[string]int
	err := flight.Guard(slog.New(slog.NewTextHandler(&text, nil)), "RunSandbox", func() error {
		none["x"]++
		return nil
	})
	if !regexp.MustCompile(`^RunSandbox panicked at flight_test\.go:[0-9]+: assignment to entry in nil map$`).MatchString(fmt.Sprint(err)) {
		t.Error(err)
	}
	if got := text.String(); !strings.Contains(got, "flight_test.TestGuard") || strings.Contains(got, "goroutine") {
		t.Error(got)
	}
}
