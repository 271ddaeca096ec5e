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

// desk is where a piece of output is worked on, on its way from a container's
// pipe into its log. Whatever moment the keeper is killed in, the next one finds
// the piece either still in the container's pipe or in the desk's transit pipe,
// and in the ledger which bytes of the log it makes: so it can tell whether they
// are there. The steps are
//
//	copy      tee(2) what the pipe holds, and make records of the whole lines
//	announce  the end of the log, and the size and the time of the records
//	move      splice(2) what the records hold into the transit pipe
//	write     the records
//	consume   what is in the transit pipe, and strike the announcement out
//
// Only the keeper writes to a transit pipe, so what is in it tells how far the
// work had come, which the container's pipe cannot: the container goes on
// writing there.
type desk struct {
	transit [2]int // held by the anchor as well
	copy    [2]int // lost with the keeper, with nothing of value in it
	slot    *slot
}

// slot is a desk's place in the ledger. A field more or of another meaning makes it
// a ledger of another version.
type slot struct {
	busy  uint64 // 1 from announce to consume; written last, struck out first
	key   uint64 // of the container
	frame uint64 // which output
	end   uint64 // of the log before
	size  uint64 // of the records
	take  uint64 // bytes of output in them
	at    uint64 // their time, in nanoseconds of the epoch
	flush uint64 // 1 when an unfinished line is among them; earlier keepers go by it
}

const (
	slotSize = int(unsafe.Sizeof(slot{}))
	maxDesks = 4096 // of a new ledger; pages that are not used cost nothing
)

// The ids of entries that are no container's begin with a space.
const (
	ledgerID = " ledger"
	deskID   = " desk"
)

// desks are all desks. As many are made as outputs are worked on at a time; one
// that waits for a slow disk keeps its desk to itself.
type desks struct {
	escrow *escrow
	ledger []byte
	room   int // how many the ledger has room for

	mu   sync.Mutex
	made int
	free []*desk
}

// ledgerEntry is the data of the ledger's entry; without any it is of version 1.
type ledgerEntry struct {
	Version int `json:"version"`
}

const ledgerVersion = 1

// deskEntry is the data of a desk's entry.
type deskEntry struct {
	Index int `json:"index"`
}

// restoreDesks returns the desks of an earlier keeper, or the first, and those
// at which that one was interrupted by the key of the container. A desk that is
// damaged takes what was at it along, and nothing else.
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
			k.clear() // of what a ledger that was lost knew of
			d.free = append(d.free, k)
		} else {
			left[k.slot.key] = append(left[k.slot.key], k)
		}
	}
	return d, left, nil
}

// restore takes up the desk of an entry. Its place in the ledger is not given to
// another one, whatever becomes of it.
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

// openLedger maps the ledger of an earlier keeper, or makes one. What cannot be read
// is given up, and with it what was at the desks: a piece of output of each at most.
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

// mapLedger maps as much as there is: a keeper of another version may have room for
// more desks, or for less.
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

// take returns a desk for the caller alone, until it is given back.
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

// clear throws away what is at the desk.
func (k *desk) clear() {
	_ = discard(k.transit[0], make([]byte, held(k.transit[0])))
	*k.slot = slot{}
}

func closeBoth(fds [2]int) error { return errors.Join(unix.Close(fds[0]), unix.Close(fds[1])) }

// pages is the memory that a piece of output is worked on in.
type pages struct {
	in  [pieceSize]byte
	out []byte
}

// pieceSize is the most that is worked on at once: the longest record and a
// newline, or many short ones. Records are longer than what they hold, of empty
// lines fifty times.
const (
	pieceSize = 20 << 10
	keepOut   = 64 << 10 // longer memory is not kept
)

// pool is memory that is shared by all outputs: it is borrowed while there is
// something to work on, so an idle container has none.
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

// duplicate copies what a pipe holds into buf and leaves it there. 0 and no
// error is the end.
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

// move moves n bytes of a pipe into the transit pipe, or less on an error.
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

// held is how many bytes are in a pipe.
func held(pipe int) int {
	n, err := unix.IoctlGetInt(pipe, unix.TIOCINQ)
	if err != nil {
		return 0
	}
	return n
}

// readFull reads what is known to be there.
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
