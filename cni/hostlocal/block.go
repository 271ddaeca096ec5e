package hostlocal

import (
	"encoding/binary"
	"hash/fnv"
	"math/bits"
	"net/netip"
	"time"
)

// block is the index entry of 256 addresses, which differ only in the last byte.
type block []byte

func (b block) first() netip.Addr    { return netip.AddrFrom16([16]byte(b)).Unmap() }
func (b block) taken(w int) uint64   { return binary.LittleEndian.Uint64(b[16+w*8:]) }
func (b block) resting(w int) uint64 { return binary.LittleEndian.Uint64(b[48+w*8:]) }
func (b block) until() time.Duration { return time.Duration(binary.LittleEndian.Uint64(b[80:])) }

func (b block) set(at int, n byte, on bool) {
	if on {
		b[at+int(n/8)] |= 1 << (n % 8)
	} else {
		b[at+int(n/8)] &^= 1 << (n % 8)
	}
}

// next returns the last byte of the block's first free address from byte n on,
// including addresses in their reuse delay if tired.
func (b block) next(n byte, tired bool, now time.Duration) (byte, bool) {
	tired = tired || b.until() <= now
	for w := int(n / 64); w < 4; w++ {
		free := ^b.taken(w)
		if !tired {
			free &^= b.resting(w)
		}
		if w == int(n/64) {
			free &= ^uint64(0) << (n % 64)
		}
		if free != 0 {
			return byte(w*64 + bits.TrailingZeros64(free)), true
		}
	}
	return 0, false
}

// blockOf returns the block of an address. If there is none, all its addresses are
// free; make creates it.
func (i *index) blockOf(a netip.Addr, make bool) (found block) {
	base := a.As16()
	base[15] = 0
	h := fnv.New64a()
	h.Write(base[:14])
	h.Write([]byte{base[14] &^ 31}) // neighbouring blocks share a page
	hash := h.Sum64()
	t := i.blockTable()
	t.each(hash, func(p *page, n int) bool {
		e := p.entry(n, blockSize)
		if [16]byte(e) != base {
			return true
		}
		found = block(e)
		p.dirty = p.dirty || make
		return false
	})
	if found != nil || !make {
		return found
	}
	e := t.insert(hash)
	if e == nil {
		i.err = errIndex
		return nil
	}
	i.Blocks++
	copy(e, base[:])
	return block(e)
}

// mark records that an address is taken, or released and not to be reused for the
// delay. A block has a single end of the delay for all its released addresses, so
// some wait longer.
func (i *index) mark(a netip.Addr, taken bool, delay time.Duration) {
	b := i.blockOf(a, true)
	if b == nil {
		return
	}
	last := a.As16()[15]
	b.set(16, last, taken)
	if b.until() <= i.now {
		clear(b[48:80])
	}
	b.set(48, last, !taken && delay > 0)
	if until := i.now + delay; !taken && until > b.until() {
		binary.LittleEndian.PutUint64(b[80:], uint64(until))
	}
}

func (i *index) isTaken(a netip.Addr) bool {
	b, last := i.blockOf(a, false), a.As16()[15]
	return b != nil && b.taken(int(last/64))&(1<<(last%64)) != 0
}

// free returns the set's first free address after last that is not in its reuse delay
// or, if there is none, one that is.
func (i *index) free(set rangeSet, last netip.Addr) (netip.Addr, bool) {
	parts := set.after(last)
	for _, tired := range []bool{false, true} {
		for _, p := range parts {
			if a, ok := i.freeIn(p, tired); ok {
				return a, true
			}
		}
	}
	return netip.Addr{}, false
}

// freeIn takes one step for each block and each exclusion, not one for each address.
func (i *index) freeIn(p part, tired bool) (netip.Addr, bool) {
	a, ok := p.usable(p.span.first)
	for ok && !p.last.Less(a) {
		b := i.blockOf(a, false)
		if b == nil {
			return a, true
		}
		at := a.As16()
		n, found := b.next(at[15], tired, i.now)
		switch {
		case found && n == at[15]:
			return a, true
		case found:
			at[15] = n
			a, ok = p.usable(netip.AddrFrom16(at).Unmap())
		default:
			at[15] = 255
			next := netip.AddrFrom16(at).Unmap().Next()
			if !next.IsValid() {
				return a, false
			}
			a, ok = p.usable(next)
		}
	}
	return a, false
}
