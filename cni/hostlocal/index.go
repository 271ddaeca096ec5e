package hostlocal

import (
	"encoding/binary"
	"hash/fnv"
	"net/netip"
	"time"

	"github.com/nodekit-project/nodekit/cni"
)

// The index answers with a few reads what the directory answers only if each of its
// files is read: which addresses an attachment has, and which are free. The files are
// authoritative: what the index says about an owner is compared with the file, an
// address that it calls free is created exclusively, and any disagreement causes the
// index to be rebuilt.
//
// It is trusted only while nobody else has changed the directory: see store.

// ownerKey identifies the owner of an address. It never decides alone whether two
// attachments are the same: the file is read.
type ownerKey [15]byte

func keyOf(a cni.Attachment) (key ownerKey) {
	h := fnv.New128a()
	h.Write([]byte(a.String()))
	copy(key[:], h.Sum(nil))
	return key
}

func (k ownerKey) hash() uint64 { return binary.LittleEndian.Uint64(k[7:]) }

// Files without an owner are listed under keys of their own, which cannot collide: an
// attachment's text has no space.
func damagedKey() ownerKey     { return keyOf(cni.Attachment{ContainerID: " damaged"}) }
func quarantinedKey() ownerKey { return keyOf(cni.Attachment{ContainerID: " quarantined"}) }

// holding is a reserved address.
type holding struct {
	key   ownerKey
	addr  netip.Addr
	stale bool // made in an earlier boot
}

// Owner entries: key, stale byte, address. Block entries of 256 addresses: the first
// address, a bitmap of those taken, a bitmap of those released, and the end of the
// latter's reuse delay.
const (
	ownerSize = 15 + 1 + 16
	blockSize = 16 + 32 + 32 + 8

	ownersPerPage = 64 // on average, of 127 that fit
	blocksPerPage = 16 // of 46; neighbouring blocks share a page
)

// header has exported fields only for encoding/binary.
type header struct {
	Boot               [16]byte
	Sec, Nsec          int64 // the directory's mtime to which the index belongs
	Owners, OwnerPages uint32
	Blocks, BlockPages uint32
	Stale              uint32
}

type index struct {
	pager
	header
	now time.Duration // since the boot
}

// newIndex returns an empty index in memory with room for the given numbers of
// entries.
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

// held returns the key's addresses.
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

// all returns all holdings that match.
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

// add adds a holding. Quarantined files reserve no address.
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

// remove removes a holding, whose address is not reused for the delay.
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

// refresh marks a stale holding as one of this boot.
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

// crowded reports whether the tables should grow.
func (i *index) crowded() bool {
	return i.Owners > i.OwnerPages*(ownersPerPage*3/2) || i.Blocks > i.BlockPages*blocksPerPage*2
}

// grown returns a copy with room for twice as many entries.
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
