package hostlocal

import (
	"encoding/binary"
	"errors"

	"golang.org/x/sys/unix"
)

const (
	indexName = ".index"
	indexTmp  = tmpPrefix + "index"
	// magic ends with the version of the format; an index of another version is
	// replaced.
	magic = "nkipam\x00\x03"
)

// openIndex opens the directory's index file. It returns nil if there is none that
// belongs to this boot and to the directory's current state.
func openIndex(dir int, b boot, at unix.Timespec) (*index, error) {
	if b.id == "" {
		return nil, nil
	}
	fd, err := retry(func() (int, error) {
		return unix.Openat(dir, indexName, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	})
	if err != nil {
		return nil, err
	}
	i := &index{pager: pager{fd: fd, pages: map[uint32]*page{}}, now: b.uptime}
	head := make([]byte, pageSize)
	err = readPage(fd, 0, head)
	if err == nil {
		err = i.decode(head)
	}
	if err == nil && i.Boot == bootHash(b) && i.Sec == int64(at.Sec) && i.Nsec == int64(at.Nsec) {
		return i, nil
	}
	i.close()
	return nil, err
}

func (i *index) decode(page []byte) error {
	if string(page[8:16]) != magic {
		return errIndex
	}
	if _, err := binary.Decode(page[16:], binary.LittleEndian, &i.header); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(i.fd, &st); err != nil {
		return err
	}
	pages := 1 + int64(i.OwnerPages) + int64(i.BlockPages)
	full := uint64(i.OwnerPages)*uint64(i.ownerTable().most()) < uint64(i.Owners) ||
		uint64(i.BlockPages)*uint64(i.blockTable().most()) < uint64(i.Blocks)
	if i.OwnerPages == 0 || i.BlockPages == 0 || pages*pageSize != st.Size || full {
		return errIndex
	}
	return nil
}

func (i *index) encode() ([]byte, error) {
	out := make([]byte, pageSize)
	copy(out[8:], magic)
	_, err := binary.Encode(out[16:], binary.LittleEndian, &i.header)
	return out, err
}

func (i *index) close() {
	if i != nil && i.fd >= 0 {
		unix.Close(i.fd)
		i.fd = -1
	}
}

// save writes what has changed, for a directory whose mtime is then set to at. A
// partly written index never matches the directory's mtime: an existing index is
// first written without a time, and a new one appears whole.
func (i *index) save(dir int, at unix.Timespec) error {
	if i.err != nil {
		return i.err
	}
	if i.fd < 0 {
		return i.create(dir, at)
	}
	for _, step := range []func() error{
		func() error { return i.writeHeader(unix.Timespec{}) },
		func() error { return i.writePages() },
		func() error { return i.writeHeader(at) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func (i *index) create(dir int, at unix.Timespec) (err error) {
	for at := uint32(1); at <= i.OwnerPages+i.BlockPages; at++ {
		i.get(at, ownerSize).dirty = true
	}
	i.fd, err = retry(func() (int, error) {
		return unix.Openat(dir, indexTmp, unix.O_RDWR|unix.O_CREAT|unix.O_TRUNC|unix.O_CLOEXEC, 0o600)
	})
	if err != nil {
		return err
	}
	if err = i.writePages(); err == nil {
		err = i.writeHeader(at)
	}
	if err == nil {
		err = unix.Renameat(dir, indexTmp, dir, indexName)
	}
	if err != nil {
		return errors.Join(err, unix.Unlinkat(dir, indexTmp, 0))
	}
	return nil
}

func (i *index) writeHeader(at unix.Timespec) error {
	i.Sec, i.Nsec = int64(at.Sec), int64(at.Nsec)
	head, err := i.encode()
	if err != nil {
		return err
	}
	return writePage(i.fd, 0, head)
}

// writePages writes the changed pages.
func (i *index) writePages() error {
	for at, p := range i.pages {
		if !p.dirty {
			continue
		}
		if err := writePage(i.fd, at, p.data[:]); err != nil {
			return err
		}
		p.dirty = false
	}
	return nil
}
