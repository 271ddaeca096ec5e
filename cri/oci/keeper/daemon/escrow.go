package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cri/oci/keeper/internal/anchor"
	"github.com/nodekit-project/nodekit/cri/oci/keeper/internal/wire"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// escrow is what the anchor holds for this keeper, and what this keeper takes
// along when it has to become the anchor itself. A descriptor leaves the escrow
// before it is closed, and comes in before anything depends on it.
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

// recall returns what an earlier keeper has left.
func (e *escrow) recall() ([]anchor.Entry, error) {
	list, err := e.line.List()
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, x := range list {
		e.entries[x.ID] = x
	}
	return list, err
}

// put replaces an entry. After an error, mostly that it is too large to be held,
// what was there before is.
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

// putLimit bounds the wait for what a put lacks.
const putLimit = 500 * time.Millisecond

// passes reports whether a put may succeed later: the kernel has no memory for it
// now, or too much is on its way, or the anchor is dying.
func passes(err error) bool {
	for _, e := range []error{unix.ENOMEM, unix.ENOBUFS, unix.ETOOMANYREFS, unix.EPIPE, unix.ECONNRESET} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// kept reports whether the anchor could take what was put last, which is as good
// as nothing otherwise.
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

// check takes over when the anchor is gone.
func (e *escrow) check() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.line.Gone() {
		e.takeOver()
	}
}

// takeOver makes this process the anchor, whatever it is doing: calls under way
// end as they do when a keeper is killed. e.mu is held.
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

// role says what a descriptor in an entry is.
type role string

const (
	roleStdout   role = "stdout"
	roleStderr   role = "stderr"
	roleStdin    role = "stdin"
	roleTerminal role = "terminal"
	roleLog      role = "log"
	roleProcess  role = "process"
	roleConsole  role = "console"
	roleRuntime  role = "runtime" // process of record.Run
)

// record is the data of an entry. Keepers of other versions read it: fields are
// added, and never change. An older keeper drops those that it does not know at its
// next change, so a newer one must do without.
type record struct {
	// Key names the container in the ledger.
	Key uint64 `json:"key"`
	// Start is how it is started; of an exec, the command alone, and without the
	// command once it was.
	Start wire.StartRequest `json:"start"`
	Exec  bool              `json:"exec,omitempty"`
	OOM   int               `json:"oom,omitempty"` // see oomWatch.before
	Run   int               `json:"run,omitempty"` // process of the OCI runtime that starts it
	Exit  *wire.Exit        `json:"exit,omitempty"`
	// Attached says that somebody has joined a standard input that is closed after
	// the first: that client is gone with its keeper.
	Attached bool `json:"attached,omitempty"`
	// Sole says that the exit could not be journalled, and is nowhere but here.
	Sole  bool   `json:"sole,omitempty"`
	Roles []role `json:"roles,omitempty"` // of the entry's descriptors
}

// holding is the entry of a container or an exec.
type holding struct {
	escrow *escrow

	mu sync.Mutex
	content
	gone bool
}

// content is what a holding says.
type content struct {
	entry anchor.Entry
	rec   record
	spent []int // descriptors to close when the change under way is handed in
}

func (e *escrow) newHolding(id string, rec record) *holding {
	return &holding{escrow: e, content: content{entry: anchor.Entry{ID: id, Starting: true}, rec: rec}}
}

// holdingOf returns the holding of an entry that was recalled; after an error,
// without descriptors: nobody can tell what they are.
func (e *escrow) holdingOf(x anchor.Entry) (*holding, error) {
	h := &holding{escrow: e, content: content{entry: x}}
	err := json.Unmarshal(x.Data, &h.rec)
	if err == nil && len(h.rec.Roles) != len(x.Files) {
		err = fmt.Errorf("its entry has %d descriptors of %d", len(x.Files), len(h.rec.Roles))
	}
	if err != nil {
		h.entry.Files, h.rec.Roles = nil, nil
	}
	return h, err
}

// change alters the holding and hands it in. After an error it is as before, and so
// is what the anchor has: no descriptor that was taken out may be closed. After drop
// it does nothing.
func (h *holding) change(alter func(*content)) (err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.gone {
		return nil
	}
	next := h.content
	next.entry.Files, next.rec.Roles = slices.Clone(next.entry.Files), slices.Clone(next.rec.Roles)
	alter(&next)
	if next.entry.Data, err = json.Marshal(next.rec); err != nil {
		return err
	}
	if err := h.escrow.put(next.entry); err != nil {
		return err
	}
	closeAll(next.spent)
	next.spent = nil
	h.content = next
	return nil
}

// kept reports whether the anchor could take the last change: see escrow.kept.
func (h *holding) kept() error {
	h.mu.Lock()
	id := h.entry.ID
	h.mu.Unlock()
	return h.escrow.kept(id)
}

// drop gives the holding up; an ended process is reaped then.
func (h *holding) drop() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.gone {
		return
	}
	h.gone = true
	h.escrow.drop(h.entry.ID)
	if fd := h.get(roleRuntime); fd >= 0 {
		_ = unix.Close(fd) // nothing was written through it
	}
}

// began says that the process was started, and forgets by what: that is most of
// what a holding weighs. Within change.
func (c *content) began(proc *process) {
	c.entry.PID, c.entry.Starting, c.rec.Run = proc.pid, false, 0
	c.retire(roleRuntime)
	c.rec.Start.Command = wire.Command{}
	c.set(roleProcess, proc.pidfd)
}

// runs says which process starts it. Its descriptor outlives the process: the next
// keeper can tell that it has been reaped.
func (h *holding) runs(run *process) error {
	fd, err := unix.FcntlInt(uintptr(run.pidfd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	err = h.change(func(h *content) {
		h.rec.Run = run.pid
		h.set(roleRuntime, fd)
	})
	if err != nil {
		err = errors.Join(err, unix.Close(fd))
	}
	return err
}

// forgetExit says that the exit is on record elsewhere.
func (h *holding) forgetExit() {
	h.mu.Lock()
	was := h.rec.Sole
	h.rec.Sole = false
	h.mu.Unlock()
	if was {
		h.release()
	}
}

// release drops a holding that is only of use while the container lives.
func (h *holding) release() {
	h.mu.Lock()
	over := h.rec.Exit != nil && !h.rec.Sole
	h.mu.Unlock()
	if over {
		h.drop()
	}
}

// set puts a descriptor into a role; -1 takes out what is there. Within change.
func (c *content) set(r role, fd int) {
	if i := slices.Index(c.rec.Roles, r); i >= 0 {
		c.rec.Roles = slices.Delete(c.rec.Roles, i, i+1)
		c.entry.Files = slices.Delete(c.entry.Files, i, i+1)
	}
	if fd >= 0 {
		c.rec.Roles, c.entry.Files = append(c.rec.Roles, r), append(c.entry.Files, fd)
	}
}

// retire takes a descriptor out that is nobody else's, and closes it afterwards.
// Within change.
func (c *content) retire(r role) {
	if fd := c.get(r); fd >= 0 {
		c.set(r, -1)
		c.spent = append(c.spent, fd)
	}
}

// get returns the descriptor in a role; -1 for none. Within change, or before
// anybody else has the holding.
func (c *content) get(r role) int {
	if i := slices.Index(c.rec.Roles, r); i >= 0 {
		return c.entry.Files[i]
	}
	return -1
}
