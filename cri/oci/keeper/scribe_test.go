package keeper_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nodekit-project/nodekit/cri/oci/keeper"
)

// TestOutputOfEveryShape: what containers write in every way that the kernel has for a pipe
// is in their logs, byte for byte, and nobody waits for ever, while logs are rotated, those
// come and go who are attached and read nothing, and keepers are killed. The next keeper
// looks at everything anew, so what one of them overlooks shows only where it lives.
func TestOutputOfEveryShape(t *testing.T) {
	t.Run("undisturbed", func(t *testing.T) { newHost(t).scribes() })
	t.Run("killed", func(t *testing.T) {
		h := newHost(t)
		ctx, cancel := context.WithCancel(t.Context())
		killer := make(chan int)
		go func() { killer <- h.killOn(ctx, []func(keeper.Hello) int{itself}) }()
		h.scribes()
		cancel()
		t.Logf("%d kills", <-killer)
	})
}

// scribes runs some containers, four at a time.
func (h *host) scribes() {
	seed := rand.Uint64N(1 << 40)
	h.t.Logf("the seeds are %d and those that follow", seed)
	var all sync.WaitGroup
	for w := range uint64(4) {
		all.Go(func() {
			for i := range uint64(10) {
				h.scribe(seed + 10*w + i)
			}
		})
	}
	all.Wait()
}

// scribe runs a container that writes what the seed says, and compares.
func (h *host) scribe(seed uint64) {
	id := fmt.Sprint("scribe", seed)
	dir := filepath.Join(h.dir, id)
	_, err := h.container(id, fmt.Sprintf("exec %s %d", tool("scribe"), seed), nil)
	if err != nil {
		h.t.Error(err)
		return
	}
	ctx, cancel := context.WithTimeout(h.t.Context(), 30*time.Second)
	defer cancel()
	rotations := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(rotations)
		h.rotate(ctx, id, ended)
	}()
	exit, err := h.Wait(ctx, id)
	close(ended)
	<-rotations
	switch {
	case err != nil:
		h.t.Errorf("%s: %v", id, err)
		return
	case exit.Code != int32(seed%90)+10 || exit.Lost:
		text, _ := os.ReadFile(filepath.Join(dir, "failed"))
		h.t.Errorf("%s ended as %+v: %s", id, exit, text)
	}
	logs, err := filepath.Glob(dir + "/log.*")
	if err != nil {
		h.t.Error(err)
	}
	slices.Sort(logs)
	var got [2]string
	for _, file := range append(logs, dir+"/log") {
		if _, err := os.Stat(file); err == nil { // the last rotation may have been too late
			stdout, stderr := h.streamsOf(file)
			got[0], got[1] = got[0]+stdout, got[1]+stderr
		}
	}
	for i, text := range got {
		want, err := os.ReadFile(filepath.Join(dir, fmt.Sprint("want", i+1)))
		if err != nil {
			h.t.Error(err)
		}
		h.same(fmt.Sprintf("output %d of %s", i+1, id), text, string(want))
	}
	if err := h.Remove(ctx, id); err != nil {
		h.t.Error(err)
	}
}

// rotate rotates the log of a container until it has ended, with somebody attached from
// time to time who reads nothing.
func (h *host) rotate(ctx context.Context, id string, ended <-chan struct{}) {
	file := filepath.Join(h.dir, id, "log")
	for n := 0; ; n++ {
		if a, err := h.Attach(ctx, id, false); err == nil {
			defer a.Close()
		}
		select {
		case <-ended:
			return
		case <-time.After(time.Duration(rand.IntN(100)) * time.Millisecond):
		}
		_ = os.Rename(file, fmt.Sprintf("%s.%06d", file, n)) // one that was not opened again is not there
		_ = h.Reopen(ctx, id)                                // it may have ended
	}
}
