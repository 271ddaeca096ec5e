package daemon

import (
	"errors"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cri/oci/keeper/internal/anchor"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// escrow is what the anchor holds for this keeper, and what this keeper keeps if it has
// to become the anchor itself. A descriptor is taken out of the escrow before it is
// closed, and put in before anything depends on it.
type escrow struct {
	line *anchor.Line
	args []string // of the anchor that this keeper may become
	log  *slog.Logger

	mu      sync.Mutex
	entries map[string]anchor.Entry
}

func newEscrow(line *anchor.Line, args []string, log *slog.Logger) *escrow {
	return &escrow{line: line, args: args, log: log, entries: map[string]anchor.Entry{}}
}

// recall returns the entries that an earlier keeper left.
func (e *escrow) recall() ([]anchor.Entry, error) {
	list, err := e.line.List()
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, x := range list {
		e.entries[x.ID] = x
	}
	return list, err
}

// put replaces an entry. After an error, usually that the entry is too large, the
// previous one remains.
func (e *escrow) put(x anchor.Entry) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	before, had := e.entries[x.ID]
	e.entries[x.ID] = x
	err := e.line.Put(x)
	for pause := time.Millisecond; err != nil && passes(err) && pause < putLimit; pause *= 2 {
		if e.line.Gone() {
			e.takeOver()
		}
		time.Sleep(pause)
		err = e.line.Put(x)
	}
	if err == nil {
		return nil
	}
	if delete(e.entries, x.ID); had {
		e.entries[x.ID] = before
	}
	return err
}

// putLimit bounds the wait for resources that a put lacks.
const putLimit = 500 * time.Millisecond

// passes reports whether a put may succeed later: the kernel has no memory for it now,
// too many descriptors are in flight, or the anchor is dying.
func passes(err error) bool {
	for _, e := range []error{unix.ENOMEM, unix.ENOBUFS, unix.ETOOMANYREFS, unix.EPIPE, unix.ECONNRESET} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// kept returns an error if the anchor could not take the last put completely, which then
// counts as not made.
func (e *escrow) kept(id string) error {
	err := e.line.Kept(id)
	if err != nil && !errors.Is(err, fault.Exhausted) {
		e.check()
	}
	return err
}

func (e *escrow) drop(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, ok := e.entries[id]; !ok {
		return
	}
	delete(e.entries, id)
	if e.line.Drop(id) != nil && e.line.Gone() {
		e.takeOver()
	}
}

// check takes over if the anchor is gone.
func (e *escrow) check() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.line.Gone() {
		e.takeOver()
	}
}

// takeOver makes this process the anchor, whatever it is doing: calls in progress end as
// they do when a keeper is killed. e.mu is held.
func (e *escrow) takeOver() {
	e.log.Error("the anchor died: this keeper takes its place")
	syscall.ForkLock.Lock()
	err := anchor.Become(e.args, slices.Collect(maps.Values(e.entries)))
	e.log.Error("becoming the anchor: the containers' descriptors are lost", "err", err)
	os.Exit(1) // a panic might be recovered, and nothing works here any more
}

// peek asks how a child of the anchor ended.
func (e *escrow) peek(pid, pidfd int) (ended bool, code int32, err error) {
	ended, code, err = e.line.Peek(pid, pidfd)
	if err != nil && !errors.Is(err, unix.ECHILD) {
		e.check()
	}
	return ended, code, err
}
