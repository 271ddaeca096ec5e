package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cri/oci/keeper/internal/anchor"
	"github.com/nodekit-project/nodekit/cri/oci/keeper/internal/wire"
)

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

// record is the data of an entry. Keepers of other versions read it: fields may be added
// but never change. An older keeper drops fields that it does not know at its next
// change, so a newer one must work without them.
type record struct {
	// Key names the container in the ledger.
	Key uint64 `json:"key"`
	// Start is how the container is started; for an exec, only the command. The command
	// is dropped once the process has started.
	Start wire.StartRequest `json:"start"`
	Exec  bool              `json:"exec,omitempty"`
	OOM   int               `json:"oom,omitempty"` // see oomWatch.before
	Run   int               `json:"run,omitempty"` // process of the OCI runtime that starts it
	Exit  *wire.Exit        `json:"exit,omitempty"`
	// Attached says that a client has attached to a standard input that is closed after
	// the first one: that client is gone with its keeper.
	Attached bool `json:"attached,omitempty"`
	// Sole says that the exit could not be journalled and is recorded only here.
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

// content is the data of a holding.
type content struct {
	entry anchor.Entry
	rec   record
	spent []int // descriptors to close once the change in progress is put
}

func (e *escrow) newHolding(id string, rec record) *holding {
	return &holding{escrow: e, content: content{entry: anchor.Entry{ID: id, Starting: true}, rec: rec}}
}

// holdingOf returns the holding of a recalled entry; after an error, without descriptors,
// whose roles are then unknown.
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

// change alters the holding and puts it. After an error, it is as before, and so is what
// the anchor has: no descriptor that was taken out may be closed. After drop, change does
// nothing.
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

// rename gives the entry another id, so that another entry may have its own. If this
// keeper dies in between, both exist: see restoreRemoved. After an error it is as before;
// after drop it does nothing.
func (h *holding) rename(id string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.gone {
		return nil
	}
	entry := h.entry
	entry.ID = id
	if err := h.escrow.put(entry); err != nil {
		return err
	}
	h.escrow.drop(h.entry.ID)
	h.entry = entry
	return nil
}

// key names the container in the ledger.
func (h *holding) key() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.rec.Key
}

// kept returns an error if the anchor could not take the last change: see escrow.kept.
func (h *holding) kept() error {
	h.mu.Lock()
	id := h.entry.ID
	h.mu.Unlock()
	return h.escrow.kept(id)
}

// drop drops the holding; the anchor then reaps the process if it has ended.
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

// abandon is drop for a holding whose descriptors nobody else uses: they are closed. A
// descriptor that was retired earlier may have been reused by now.
func (h *holding) abandon() {
	h.mu.Lock()
	files := h.entry.Files
	h.entry.Files, h.rec.Roles = nil, nil
	h.mu.Unlock()
	h.drop()
	closeAll(files)
}

// began records that the process was started, and drops the command that started it,
// which is most of a holding's size. Within change.
func (c *content) began(proc *process) {
	c.entry.PID, c.entry.Starting, c.rec.Run = proc.pid, false, 0
	c.retire(roleRuntime)
	c.rec.Start.Command = wire.Command{}
	c.set(roleProcess, proc.pidfd)
}

// runs records the OCI runtime process of the start. Its descriptor outlives the process,
// so that the next keeper can tell that it has been reaped.
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

// abortStart kills the OCI runtime of a start in progress, if it is running.
func (h *holding) abortStart() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	fd := h.get(roleRuntime)
	if h.gone || fd < 0 {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("killing the OCI runtime of a start: %w", err)
	}
	return nil
}

// keepExit records how the container ended, and that its process may be reaped.
func (h *holding) keepExit(exit *wire.Exit, sole bool) error {
	return h.change(func(h *content) {
		h.entry.PID, h.rec.Exit, h.rec.Sole = 0, exit, sole
		h.set(roleProcess, -1)
	})
}

// forgetExit records that the exit is recorded elsewhere.
func (h *holding) forgetExit() error {
	h.mu.Lock()
	sole := h.rec.Sole
	h.mu.Unlock()
	if !sole {
		return nil
	}
	if err := h.change(func(h *content) { h.rec.Sole = false }); err != nil {
		return err
	}
	h.release()
	return nil
}

// release drops a holding that is no longer needed: the container has ended, and all its
// output has been read.
func (h *holding) release() {
	h.mu.Lock()
	over := h.rec.Exit != nil && !h.rec.Sole &&
		!slices.ContainsFunc([]role{roleStdout, roleStderr, roleTerminal}, func(r role) bool { return h.get(r) >= 0 })
	h.mu.Unlock()
	if over {
		h.drop()
	}
}

// set assigns a descriptor to a role; -1 removes the present one. Within change.
func (c *content) set(r role, fd int) {
	if i := slices.Index(c.rec.Roles, r); i >= 0 {
		c.rec.Roles = slices.Delete(c.rec.Roles, i, i+1)
		c.entry.Files = slices.Delete(c.entry.Files, i, i+1)
	}
	if fd >= 0 {
		c.rec.Roles, c.entry.Files = append(c.rec.Roles, r), append(c.entry.Files, fd)
	}
}

// retire removes a descriptor that nobody else uses, and has it closed afterwards. Within
// change.
func (c *content) retire(r role) {
	if fd := c.get(r); fd >= 0 {
		c.set(r, -1)
		c.spent = append(c.spent, fd)
	}
}

// get returns the descriptor in a role; -1 if there is none. Within change, or before
// anybody else has the holding.
func (c *content) get(r role) int {
	if i := slices.Index(c.rec.Roles, r); i >= 0 {
		return c.entry.Files[i]
	}
	return -1
}
