package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cri/oci/keeper/internal/anchor"
)

// desk is where a piece of output is processed on its way from a container's pipe into
// its log. Whenever the keeper is killed, the next one finds the piece either still in
// the container's pipe or in the desk's transit pipe, and finds in the ledger which bytes
// of the log it becomes: so it can tell whether they have been written. The steps are
//
//	copy      tee(2) what the pipe holds, and make records of the whole lines
//	announce  the end of the log, and the size and the time of the records
//	move      splice(2) what the records hold into the transit pipe
//	write     the records
//	consume   what is in the transit pipe, and clear the announcement
//
// Only the keeper writes to a transit pipe, so its content shows how far the work had
// got. The container's pipe cannot show that, because the container keeps writing to it.
type desk struct {
	transit [2]int // held by the anchor as well
	copy    [2]int // lost with the keeper, with nothing of value in it
	slot    *slot
}

// slot is a desk's place in the ledger. Adding a field or changing its meaning requires a
// new ledger version.
type slot struct {
	busy  uint64 // 1 from announce to consume; set last, cleared first
	key   uint64 // of the container
	frame uint64 // the kind of the output
	end   uint64 // of the log before
	size  uint64 // of the records
	take  uint64 // bytes of output in the records
	at    uint64 // their time, in nanoseconds of the epoch
	flush uint64 // 1 if they include an unfinished line; earlier keepers depend on it
}

const (
	slotSize = int(unsafe.Sizeof(slot{}))
	maxDesks = 4096 // of a new ledger; unused pages cost nothing
)

// The ids of entries that are not containers begin with a space.
const (
	ledgerID = " ledger"
	deskID   = " desk"
)

// desks holds all desks. There are as many as outputs are worked on at the same time; an
// output that waits for a slow disk keeps its desk.
type desks struct {
	escrow *escrow
	ledger []byte
	room   int // how many desks the ledger has room for

	mu   sync.Mutex
	made int
	free []*desk
}

// ledgerEntry is the data of the ledger's entry; an entry without data is of version 1.
type ledgerEntry struct {
	Version int `json:"version"`
}

const ledgerVersion = 1

// deskEntry is the data of a desk's entry.
type deskEntry struct {
	Index int `json:"index"`
}

// restoreDesks returns the desks of an earlier keeper, or the first ones, and by the key
// of the container those desks at which that keeper was interrupted. A damaged desk loses
// only the piece of output that was at it.
func restoreDesks(e *escrow, entries []anchor.Entry) (d *desks, left map[uint64][]*desk, err error) {
	d = &desks{escrow: e}
	if err := d.openLedger(entries); err != nil {
		return nil, nil, fmt.Errorf("opening the ledger: %w", err)
	}
	left = map[uint64][]*desk{}
	for _, x := range entries {
		if !strings.HasPrefix(x.ID, deskID) {
			continue
		}
		k, err := d.restore(x)
		if err != nil {
			e.log.Error("a desk of an earlier keeper is given up", "desk", x.ID, "err", err)
			e.drop(x.ID)
			closeAll(x.Files)
			continue
		}
		if atomic.LoadUint64(&k.slot.busy) == 0 {
			k.clear() // of what only a lost ledger recorded
			d.free = append(d.free, k)
		} else {
			left[k.slot.key] = append(left[k.slot.key], k)
		}
	}
	return d, left, nil
}

// restore takes over the desk of an entry. Its place in the ledger is not reused, even if
// that fails.
func (d *desks) restore(x anchor.Entry) (*desk, error) {
	var in deskEntry
	if err := json.Unmarshal(x.Data, &in); err != nil {
		return nil, err
	}
	if in.Index < 0 || in.Index >= d.room {
		return nil, fmt.Errorf("it has the place %d of %d", in.Index, d.room)
	}
	d.made = max(d.made, in.Index+1)
	if len(x.Files) != 2 {
		return nil, fmt.Errorf("it has %d descriptors", len(x.Files))
	}
	return d.furnish(in.Index, [2]int(x.Files))
}

// openLedger maps the ledger of an earlier keeper, or creates one. A ledger that cannot
// be read is given up, and with it what was at the desks: at most one piece of output
// each.
func (d *desks) openLedger(entries []anchor.Entry) error {
	for _, x := range entries {
		if x.ID != ledgerID {
			continue
		}
		err := d.mapLedger(x)
		if err == nil {
			return nil
		}
		d.escrow.log.Error("the ledger of an earlier keeper is given up", "err", err)
		closeAll(x.Files)
	}
	fd, err := unix.MemfdCreate("nodekit-ledger", unix.MFD_CLOEXEC)
	if err != nil {
		return err
	}
	if err := unix.Ftruncate(fd, int64(maxDesks*slotSize)); err != nil {
		return errors.Join(err, unix.Close(fd))
	}
	data, _ := json.Marshal(ledgerEntry{ledgerVersion}) // it can be encoded
	x := anchor.Entry{ID: ledgerID, Data: data, Files: []int{fd}}
	if err := d.escrow.put(x); err != nil {
		return errors.Join(err, unix.Close(fd))
	}
	return d.mapLedger(x)
}

// mapLedger maps the ledger in its actual size: a keeper of another version may have room
// for more desks, or for fewer.
func (d *desks) mapLedger(x anchor.Entry) error {
	in := ledgerEntry{Version: 1}
	if len(x.Data) > 0 {
		if err := json.Unmarshal(x.Data, &in); err != nil {
			return err
		}
	}
	if in.Version != ledgerVersion || len(x.Files) != 1 {
		return fmt.Errorf("it has version %d and %d descriptors", in.Version, len(x.Files))
	}
	var st unix.Stat_t
	if err := unix.Fstat(x.Files[0], &st); err != nil {
		return err
	}
	if d.room = int(st.Size) / slotSize; d.room == 0 {
		return fmt.Errorf("it has %d bytes", st.Size)
	}
	ledger, err := unix.Mmap(x.Files[0], 0, d.room*slotSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	d.ledger = ledger
	return err
}

// take returns a desk for exclusive use until it is given back.
func (d *desks) take() (*desk, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if n := len(d.free); n > 0 {
		k := d.free[n-1]
		d.free = d.free[:n-1]
		return k, nil
	}
	if d.made >= d.room {
		return nil, errors.New("too many outputs at a time")
	}
	var transit [2]int
	if err := unix.Pipe2(transit[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil, err
	}
	k, err := d.furnish(d.made, transit)
	if err != nil {
		return nil, errors.Join(err, closeBoth(transit))
	}
	data, _ := json.Marshal(deskEntry{d.made}) // it can be encoded
	id := fmt.Sprint(deskID, d.made)
	if err = d.escrow.put(anchor.Entry{ID: id, Data: data, Files: transit[:]}); err == nil {
		err = d.escrow.kept(id)
	}
	if err != nil {
		d.escrow.drop(id)
		return nil, errors.Join(err, closeBoth(transit), closeBoth(k.copy))
	}
	d.made++
	return k, nil
}

func (d *desks) furnish(index int, transit [2]int) (*desk, error) {
	k := &desk{transit: transit, slot: (*slot)(unsafe.Pointer(&d.ledger[index*slotSize]))}
	return k, unix.Pipe2(k.copy[:], unix.O_CLOEXEC|unix.O_NONBLOCK)
}

func (d *desks) giveBack(k *desk) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.free = append(d.free, k)
}

// clear discards what is at the desk.
func (k *desk) clear() {
	_ = discard(k.transit[0], make([]byte, held(k.transit[0])))
	*k.slot = slot{}
}

func closeBoth(fds [2]int) error { return errors.Join(unix.Close(fds[0]), unix.Close(fds[1])) }

// pages is the memory for working on a piece of output.
type pages struct {
	in  [pieceSize]byte
	out []byte
}

// pieceSize is the most that is processed at once: the longest record and a newline, or
// many short ones. Records are longer than their content, fifty times so for empty lines.
const (
	pieceSize = 20 << 10
	keepOut   = 64 << 10 // larger buffers are not kept
)

// pool is memory shared by all outputs: it is borrowed while there is output to process,
// so an idle container uses none.
type pool struct{ pool sync.Pool }

func (b *pool) get() *pages {
	if p, ok := b.pool.Get().(*pages); ok {
		return p
	}
	return new(pages)
}

func (b *pool) put(p *pages) {
	if cap(p.out) > keepOut {
		p.out = nil
	}
	b.pool.Put(p)
}

// duplicate copies what a pipe holds into buf without consuming it. 0 without an error is
// the end of the output.
func (k *desk) duplicate(pipe int, buf []byte) (n int, err error) {
	again(func() error {
		var m int64
		m, err = unix.Tee(pipe, k.copy[1], len(buf), unix.SPLICE_F_NONBLOCK)
		n = int(m)
		return err
	})
	if n <= 0 || err != nil {
		return 0, err
	}
	return n, readFull(k.copy[0], buf[:n])
}

// move moves n bytes of a pipe into the transit pipe, or fewer on an error.
func (k *desk) move(pipe, n int) (moved int, err error) {
	for moved < n && err == nil {
		var m int64
		again(func() error {
			m, err = unix.Splice(pipe, nil, k.transit[1], nil, n-moved, unix.SPLICE_F_NONBLOCK)
			return err
		})
		if m <= 0 {
			break
		}
		moved += int(m)
	}
	return moved, err
}

// held returns how many bytes are in a pipe.
func held(pipe int) int {
	n, err := unix.IoctlGetInt(pipe, unix.TIOCINQ)
	if err != nil {
		return 0
	}
	return n
}

// readFull reads bytes that are known to be available.
func readFull(fd int, buf []byte) error {
	for len(buf) > 0 {
		n, err := readAgain(fd, buf)
		if err != nil {
			return err
		}
		if n == 0 {
			return errors.New("a pipe has ended early")
		}
		buf = buf[n:]
	}
	return nil
}

func readAgain(fd int, buf []byte) (n int, err error) {
	again(func() error {
		n, err = unix.Read(fd, buf)
		return err
	})
	return n, err
}

func again(call func() error) {
	for errors.Is(call(), unix.EINTR) {
	}
}
