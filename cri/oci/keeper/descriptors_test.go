package keeper_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cri/oci/keeper"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// TestDescriptorsRunOut: a keeper that cannot accept calls for a while keeps
// its containers and answers again, and a client that cannot call does not take
// it for dead.
func TestDescriptorsRunOut(t *testing.T) {
	h := newHost(t)
	h.start("c", "exec sleep 100")
	hello, err := h.Hello(t.Context())
	h.must(err)
	var old unix.Rlimit
	h.must(unix.Prlimit(hello.PID, unix.RLIMIT_NOFILE, nil, &old))
	h.must(unix.Prlimit(hello.PID, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 3, Max: old.Max}, nil))
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := keeper.NewClient(h.dir).Hello(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a keeper without descriptors answers %v, want nothing", err)
	}
	h.must(unix.Prlimit(hello.PID, unix.RLIMIT_NOFILE, &old, nil))
	list, err := h.List(t.Context())
	if err != nil || len(list) != 1 || list[0].PID == 0 {
		t.Errorf("afterwards the keeper has %v, %v", list, err)
	}

	var own unix.Rlimit
	h.must(unix.Getrlimit(unix.RLIMIT_NOFILE, &own))
	h.must(unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 3, Max: own.Max}))
	_, err = keeper.NewClient(h.dir).Hello(t.Context())
	h.must(unix.Setrlimit(unix.RLIMIT_NOFILE, &own))
	if !errors.Is(err, fault.Exhausted) {
		t.Errorf("a client without descriptors says %v, want %q", err, fault.Exhausted)
	}
}

// TestAnchorRunsOutOfDescriptors: what the anchor cannot hold is not started, and
// what it holds already survives the keeper as ever.
func TestAnchorRunsOutOfDescriptors(t *testing.T) {
	h := newHost(t)
	h.start("before", "echo before; "+held+"exit 4")
	hello, err := h.Hello(t.Context())
	h.must(err)
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", hello.Anchor))
	h.must(err)
	var old unix.Rlimit
	h.must(unix.Prlimit(hello.Anchor, unix.RLIMIT_NOFILE, nil, &old))
	h.must(unix.Prlimit(hello.Anchor, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(len(fds)), Max: old.Max}, nil))
	_, err = h.container("none", "exec sleep 1000", nil)
	if !errors.Is(err, fault.Exhausted) {
		t.Errorf("a start that the anchor cannot hold says %v, want %q", err, fault.Exhausted)
	}
	if err := h.Reopen(t.Context(), "before"); !errors.Is(err, fault.Exhausted) {
		t.Errorf("a reopening that the anchor cannot hold says %v, want %q", err, fault.Exhausted)
	}
	h.must(unix.Prlimit(hello.Anchor, unix.RLIMIT_NOFILE, &old, nil))
	h.kill(itself)
	list, err := h.List(t.Context())
	if err != nil || len(list) != 1 || list[0].ID != "before" {
		t.Errorf("the next keeper has %+v, %v", list, err)
	}
	h.release("before")
	if e := h.exit("before"); e.Code != 4 || h.text("before") != "before\n" {
		t.Errorf("it ended with %d and the log %q, want 4", e.Code, h.text("before"))
	}
	h.start("after", "exit 5")
	if e := h.exit("after"); e.Code != 5 {
		t.Errorf("the next one ended with %d, want 5", e.Code)
	}
}

// TestEndedContainersHoldNoDescriptors, although they are not removed yet.
func TestEndedContainersHoldNoDescriptors(t *testing.T) {
	h := newHost(t)
	hello, err := h.Hello(t.Context())
	h.must(err)
	count := func() int {
		fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", hello.PID))
		h.must(err)
		return len(fds)
	}
	h.start("first", "exit 0") // opens what the keeper keeps for itself
	h.exit("first")
	before := count()
	for i := range 5 {
		id := fmt.Sprint("c", i)
		_, err := h.container(id, "exit 0", func(r *keeper.StartRequest) { r.Stdin = true })
		h.must(err)
		h.exit(id)
	}
	// An exit is told before the last descriptor is closed.
	for late := time.Now().Add(5 * time.Second); count() > before; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(late) {
			t.Fatalf("5 containers that ended hold %d descriptors", count()-before)
		}
	}
}
