package hostlocal

import (
	"encoding/binary"
	"errors"
	"hash/crc32"

	"golang.org/x/sys/unix"
)

// The index file consists of pages of one size, each with its own checksum, so that a
// call reads and writes only the few that it needs.
//
//	page   = checksum uint64, entries uint16, overflowed uint16, 4 bytes, entries
//	header = checksum uint64, magic [8]byte, and the fields of the type header
const (
	pageSize = 4096
	pageHead = 16
)

type page struct {
	data  [pageSize]byte
	dirty bool
}

// sumOf covers everything but the checksum itself. The Castagnoli polynomial is as
// fast, but building its tables costs each process 0.3 ms.
func sumOf(data []byte) uint64 { return uint64(crc32.ChecksumIEEE(data[8:])) }

func (p *page) count() int            { return int(binary.LittleEndian.Uint16(p.data[8:])) }
func (p *page) overflowed() bool      { return p.data[10] != 0 }
func (p *page) setCount(n int)        { binary.LittleEndian.PutUint16(p.data[8:], uint16(n)) }
func (p *page) entry(i, n int) []byte { return p.data[pageHead+i*n:][:n] }

// pager reads pages on demand and keeps them. Its first error is sticky: pages are
// empty from then on, so err must be checked before anything is concluded from what
// they lack.
type pager struct {
	fd    int // -1 while the file is only in memory
	pages map[uint32]*page
	err   error
}

var errIndex = errors.New("the index is damaged")

// get returns a page with entries of the given size.
func (p *pager) get(at uint32, entry int) *page {
	if got := p.pages[at]; got != nil {
		return got
	}
	got := &page{}
	p.pages[at] = got
	if p.fd < 0 {
		return got
	}
	if err := readPage(p.fd, at, got.data[:]); err != nil || got.count() > (pageSize-pageHead)/entry {
		*got = page{}
		p.err = errors.Join(errIndex, err)
	}
	return got
}

func readPage(fd int, at uint32, into []byte) error {
	n, err := retry(func() (int, error) { return unix.Pread(fd, into, int64(at)*pageSize) })
	if err != nil {
		return err
	}
	if n != len(into) || binary.LittleEndian.Uint64(into) != sumOf(into) {
		return errIndex
	}
	return nil
}

func writePage(fd int, at uint32, data []byte) error {
	binary.LittleEndian.PutUint64(data, sumOf(data))
	n, err := retry(func() (int, error) { return unix.Pwrite(fd, data, int64(at)*pageSize) })
	if err == nil && n != len(data) {
		err = unix.ENOSPC
	}
	return err
}

// table is a hash table in pages of a file: an entry is on the page of its hash or,
// if that page overflowed, on a later one.
type table struct {
	*pager
	first, pages uint32
	size         int // of an entry
}

func (t table) most() int { return (pageSize - pageHead) / t.size }

// each calls yield with the entries that may have the hash, until yield returns
// false.
func (t table) each(hash uint64, yield func(p *page, i int) bool) {
	at := uint32(hash % uint64(t.pages))
	for range t.pages {
		p := t.get(t.first+at, t.size)
		for i := range p.count() {
			if !yield(p, i) {
				return
			}
		}
		if !p.overflowed() {
			return
		}
		at = (at + 1) % t.pages
	}
}

// all calls yield with every entry.
func (t table) all(yield func(entry []byte)) {
	for at := range t.pages {
		p := t.get(t.first+at, t.size)
		for i := range p.count() {
			yield(p.entry(i, t.size))
		}
	}
}

// insert returns a new entry for the hash, which the caller fills, or nil if the
// table is full.
func (t table) insert(hash uint64) []byte {
	at := uint32(hash % uint64(t.pages))
	for range t.pages {
		p := t.get(t.first+at, t.size)
		p.dirty = true
		if n := p.count(); n < t.most() {
			p.setCount(n + 1)
			e := p.entry(n, t.size)
			clear(e)
			return e
		}
		p.data[10] = 1
		at = (at + 1) % t.pages
	}
	return nil
}

// remove removes an entry; the last one of the page takes its place.
func (t table) remove(p *page, i int) {
	n := p.count() - 1
	copy(p.entry(i, t.size), p.entry(n, t.size))
	p.setCount(n)
	p.dirty = true
}
