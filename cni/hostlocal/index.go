package hostlocal

import (
	"encoding/binary"
	"hash/fnv"
	"net/netip"
	"time"

	"github.com/nodekit-project/nodekit/cni"
)

// The index answers, with a few reads, what the directory answers only when
// every file of it is read: which addresses an attachment has, and which are
// free. The files remain the truth. What the index says of an owner is compared
// with the file, an address that it calls free is created exclusively, and a
// disagreement of any kind makes the index new.
//
// It is believed only while nobody else has changed the directory: see store.

// ownerKey names who an address is reserved for. Whether two attachments are one
// is never decided by it: the file is read.
type ownerKey [15]byte

func keyOf(a cni.Attachment) (key ownerKey) {
	h := fnv.New128a()
	h.Write([]byte(a.String()))
	copy(key[:], h.Sum(nil))
	return key
}

func (k ownerKey) hash() uint64 { return binary.LittleEndian.Uint64(k[7:]) }

// What has no owner is listed under keys of its own; no attachment's text has a
// space.
func damagedKey() ownerKey     { return keyOf(cni.Attachment{ContainerID: " damaged"}) }
func quarantinedKey() ownerKey { return keyOf(cni.Attachment{ContainerID: " quarantined"}) }

// holding is an address that somebody has.
type holding struct {
	key   ownerKey
	addr  netip.Addr
	stale bool // made in an earlier boot
}

// Owners: key, stale byte, address. Blocks of 256 addresses: the first one,
// a bit for each that is taken, a bit for each that was released, and until when
// the latter are passed over.
const (
	ownerSize = 15 + 1 + 16
	blockSize = 16 + 32 + 32 + 8

	ownersPerPage = 64 // on average, of 127 that fit
	blocksPerPage = 16 // of 46; neighbours share a page
)

// header is exported to encoding/binary alone.
type header struct {
	Boot               [16]byte
	Sec, Nsec          int64 // the directory's time that the index belongs to
	Owners, OwnerPages uint32
	Blocks, BlockPages uint32
	Stale              uint32
}

type index struct {
	pager
	header
	now time.Duration // since the boot
}

// newIndex returns an empty index in memory that holds so many entries.
func newIndex(b boot, owners, blocks int) *index {
	i := &index{pager: pager{fd: -1, pages: map[uint32]*page{}}, now: b.uptime}
	i.Boot = bootHash(b)
	i.OwnerPages = uint32(owners/ownersPerPage + 1)
	i.BlockPages = uint32(blocks/blocksPerPage + 1)
	return i
}

func bootHash(b boot) (sum [16]byte) {
	h := fnv.New128a()
	h.Write([]byte(b.id))
	copy(sum[:], h.Sum(nil))
	return sum
}

func (i *index) ownerTable() table { return table{&i.pager, 1, i.OwnerPages, ownerSize} }
func (i *index) blockTable() table { return table{&i.pager, 1 + i.OwnerPages, i.BlockPages, blockSize} }

// held returns what the key has.
func (i *index) held(key ownerKey) (held []holding) {
	t := i.ownerTable()
	t.each(key.hash(), func(p *page, n int) bool {
		if h := decodeHolding(p.entry(n, ownerSize)); h.key == key {
			held = append(held, h)
		}
		return true
	})
	return held
}

// all returns everything that matches.
func (i *index) all(matches func(holding) bool) (held []holding) {
	i.ownerTable().all(func(e []byte) {
		if h := decodeHolding(e); matches(h) {
			held = append(held, h)
		}
	})
	return held
}

func decodeHolding(e []byte) (h holding) {
	copy(h.key[:], e)
	h.stale = e[15] != 0
	h.addr = netip.AddrFrom16([16]byte(e[16:])).Unmap()
	return h
}

// add notes a holding. Quarantined files hold no address.
func (i *index) add(h holding) {
	e := i.ownerTable().insert(h.key.hash())
	if e == nil {
		i.err = errIndex
		return
	}
	copy(e, h.key[:])
	if h.stale {
		e[15] = 1
		i.Stale++
	}
	addr := h.addr.As16()
	copy(e[16:], addr[:])
	i.Owners++
	if h.key != quarantinedKey() {
		i.mark(h.addr, true, 0)
	}
}

// remove forgets a holding, whose address is passed over for the delay.
func (i *index) remove(h holding, delay time.Duration) {
	t := i.ownerTable()
	t.each(h.key.hash(), func(p *page, n int) bool {
		got := decodeHolding(p.entry(n, ownerSize))
		if got.key != h.key || got.addr != h.addr {
			return true
		}
		if got.stale && i.Stale > 0 {
			i.Stale--
		}
		t.remove(p, n)
		i.Owners--
		return false
	})
	if h.key != quarantinedKey() {
		i.mark(h.addr, false, delay)
	}
}

// refresh makes a stale holding one of this boot.
func (i *index) refresh(h holding) {
	i.ownerTable().each(h.key.hash(), func(p *page, n int) bool {
		e := p.entry(n, ownerSize)
		if got := decodeHolding(e); got.key != h.key || got.addr != h.addr || !got.stale {
			return true
		}
		e[15], p.dirty = 0, true
		if i.Stale > 0 {
			i.Stale--
		}
		return false
	})
}

// crowded tells that the tables want to be larger.
func (i *index) crowded() bool {
	return i.Owners > i.OwnerPages*(ownersPerPage*3/2) || i.Blocks > i.BlockPages*blocksPerPage*2
}

// grown returns a copy with room for twice as much.
func (i *index) grown() *index {
	out := newIndex(boot{uptime: i.now}, int(i.Owners)*2, int(i.Blocks)*2)
	out.Boot = i.Boot
	for _, h := range i.all(func(holding) bool { return true }) {
		out.add(h)
	}
	i.blockTable().all(func(e []byte) {
		from := block(e)
		if to := out.blockOf(from.first(), true); to != nil && from.until() > i.now {
			copy(to[48:], from[48:])
		}
	})
	if i.err != nil {
		out.err = i.err
	}
	return out
}
