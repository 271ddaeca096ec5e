package keeper_test

import (
	"fmt"
	"sync"
	"testing"
	"time"
)

// TestMemory holds the keeper, as it is built, to its bound with 500 containers,
// each of which has printed something.
func TestMemory(t *testing.T) {
	h := newHostOf(t, tool("keeper"))
	const count, limit = 500, 8 << 10 // kB
	hello, err := h.Hello(t.Context())
	h.must(err)
	before := h.rss(hello.PID)
	var starts sync.WaitGroup
	for w := range 4 {
		starts.Go(func() {
			for i := w; i < count; i += 4 {
				if _, err := h.container(fmt.Sprint("m", i), "echo hello; exec sleep 1000", nil); err != nil {
					t.Error(err)
				}
			}
		})
	}
	starts.Wait()
	time.Sleep(1500 * time.Millisecond) // it comes to rest
	after := h.rss(hello.PID)
	h.kill(itself)
	next, err := h.Hello(t.Context())
	h.must(err)
	time.Sleep(1500 * time.Millisecond)
	took := h.rss(next.PID)
	t.Logf("keeper: %d kB alone, %d kB with %d containers, %d kB as one that took them over; anchor %d kB",
		before, after, count, took, h.rss(next.Anchor))
	if max(after, took) > limit {
		t.Errorf("%d containers cost the keeper more than %d kB", count, limit)
	}
}
