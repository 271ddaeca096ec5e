package crisuite

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nodekit-project/nodekit/conformance"
	"github.com/nodekit-project/nodekit/cri"
	"github.com/nodekit-project/nodekit/cri/client"
	"github.com/nodekit-project/nodekit/internal/scratch"
)

// toolPath is where podtool is in the suite's images.
const toolPath = "/podtool"

// house is what the rules of one run share: the registry, and a runtime for those that
// do not kill it.
type house struct {
	target  Target // without the house
	scratch *scratch.Dir
	dir     string // of scratch
	images  *registry
	program string
	// online says that the runtime had a network for Pods at some time, offline that it
	// came up without one and never had one.
	online, offline atomic.Bool
	// answered says that the runtime has answered at some time; vain is why it never
	// will, as the first start found.
	answered atomic.Bool
	vain     atomic.Pointer[misplacedError]

	mu     sync.Mutex
	rt     *runtime
	failed error // of the last start of rt
	starts int   // that failed
	ledger []entry
}

// maxStarts is how often the shared runtime may fail to start, perhaps because the machine
// is busy, before the remaining rules no longer wait for it.
const maxStarts = 3

// entry is a thing that a rule created, by the name under which it could be left.
type entry struct{ rule, name string }

// open creates the house of a run.
func open(ctx context.Context, target Target) (Target, func(), error) {
	if err := cmp.Or(target.validate(), target.reachable(ctx)); err != nil {
		return target, nil, err
	}
	own, err := scratch.New()
	if err != nil {
		return target, nil, err
	}
	h := &house{target: target, scratch: own, dir: own.Path()}
	err = os.Chmod(h.dir, passableMode)
	if err == nil && target.Image == "" && target.missing([]Feature{Containers}) == nil {
		h.program, err = findProgram(target.Program, h.dir)
		if err == nil {
			h.images, err = newRegistry(h.program, listenOnLoopback)
		}
	}
	if err != nil {
		return target, nil, errors.Join(err, own.Remove())
	}
	target.house = h
	return target, h.close, nil
}

// passableMode is that of a directory which others may traverse but not read: below it are
// the roots of containers in user namespaces, whose users are nobody on the host.
const passableMode = 0o711

// answerTime is how long a runtime that already runs may take to answer.
const answerTime = 10 * time.Second

// reachable reports what would fail every rule without saying anything about the runtime.
func (t *Target) reachable(ctx context.Context) error {
	if t.Tool != "" && len(t.Exec) > 0 && slices.Contains(t.Lacks, Isolation) {
		if _, err := os.Stat(t.Tool); err != nil {
			return fmt.Errorf("fact tool: in a runtime that lacks %q it is a program of this machine: %w", Isolation, err)
		}
	}
	if t.Endpoint == "" {
		return nil
	}
	c, err := client.Dial(t.Endpoint, nil)
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	if err := answered(ctx, c); err != nil {
		return fmt.Errorf("no runtime answers at %s: start it first, or name the socket of one that runs: %w", t.Endpoint, err)
	}
	return nil
}

// close ends what the house has started.
func (h *house) close() {
	h.evict(slog.New(slog.DiscardHandler))
	if h.images != nil {
		h.images.close()
	}
	_ = h.scratch.Remove() // what is mounted there was detached
}

// shared returns the runtime of the rules that do not kill it, and starts it if it does
// not run: another rule may have ended it.
func (h *house) shared(ctx context.Context, in *input) (*runtime, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.starts == maxStarts {
		return nil, h.failed
	}
	if h.rt != nil && h.rt.lives() {
		return h.rt, nil
	}
	if h.rt != nil {
		h.rt.end(in.Log)
		h.rt = nil
	}
	dir, err := os.MkdirTemp(h.dir, "r")
	if err == nil {
		err = os.Chmod(dir, passableMode)
	}
	if err != nil {
		return nil, err
	}
	h.rt, err = startRuntime(ctx, h, dir, h.images, nil)
	if err != nil && ctx.Err() == nil {
		h.failed = err
		h.starts++
	}
	return h.rt, err
}

// evict ends the shared runtime: another is to be alone on the machine.
func (h *house) evict(log *slog.Logger) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.rt != nil {
		h.rt.end(log)
		h.rt = nil
	}
}

// note records a thing in the ledger.
func (h *house) note(rule, name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ledger = append(h.ledger, entry{rule, name})
}

// made returns the ledger.
func (h *house) made() []entry {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]entry(nil), h.ledger...)
}

// with turns a function that looks at the shared runtime into a rule's check.
func with(id string, check look, needs []Feature) func(context.Context, *input) error {
	return func(ctx context.Context, in *input) error {
		if err := in.Target.missing(needs); err != nil {
			return err
		}
		rt, err := in.Target.house.shared(ctx, in)
		if err != nil {
			return err
		}
		s, err := newSubject(ctx, id, in, rt)
		if err != nil {
			return err
		}
		defer s.close(ctx)
		err = check(ctx, s)
		if errors.Is(err, cri.ErrUnavailable) {
			rt.settles(ctx)
		}
		return errors.Join(err, rt.died())
	}
}

// withOwn is with for rules that kill the runtime: each gets one of its own.
func withOwn(id string, check look, needs []Feature) func(context.Context, *input) error {
	return func(ctx context.Context, in *input) error {
		if len(in.Target.Exec) == 0 {
			return conformance.NotApplicable("the target is an endpoint: rules that kill the runtime need a command that starts it")
		}
		if err := in.Target.missing(needs); err != nil {
			return err
		}
		h := in.Target.house
		h.evict(in.Log)
		dir := filepath.Join(in.TempDir, "r")
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
		rt, err := startRuntime(ctx, h, dir, h.images, nil)
		if err != nil {
			return err
		}
		defer rt.end(in.Log)
		s, err := newSubject(ctx, id, in, rt)
		if err != nil {
			return err
		}
		defer s.close(ctx)
		return check(ctx, s)
	}
}

// dyingTime is how long a runtime may take to end after its connections have ended.
const dyingTime = 5 * time.Second

// settles waits for the end of a runtime that does not answer: it may be about to end.
func (r *runtime) settles(ctx context.Context) {
	if r.process == nil {
		return
	}
	select {
	case <-r.process.Done():
	case <-ctx.Done():
	case <-time.After(dyingTime):
	}
}

// died returns an error when the runtime has ended by itself.
func (r *runtime) died() error {
	if r.lives() {
		return nil
	}
	return fmt.Errorf("the runtime ended during this rule: %s\nit printed: %s", r.process.Ending(), r.process.Tail())
}
