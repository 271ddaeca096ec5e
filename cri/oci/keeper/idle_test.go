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
	after := h.atRest(hello.PID, limit)
	h.kill(itself)
	next, err := h.Hello(t.Context())
	h.must(err)
	took := h.atRest(next.PID, limit)
	t.Logf("keeper: %d kB alone, %d kB with %d containers, %d kB as one that took them over; anchor %d kB",
		before, after, count, took, h.rss(next.Anchor))
	if max(after, took) > limit {
		t.Errorf("%d containers cost the keeper more than %d kB", count, limit)
	}
}

// atRest returns what the keeper has when it has come to rest, which is a second after
// the last call, or later on a busy machine: then it is below the limit.
func (h *host) atRest(pid, limit int) (rss int) {
	h.t.Helper()
	time.Sleep(1500 * time.Millisecond)
	for late := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if rss = h.rss(pid); rss <= limit || time.Now().After(late) {
			return rss
		}
	}
}
