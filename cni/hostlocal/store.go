package hostlocal

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cni"
)

// tmpPrefix marks files that are being written. The lock's holder may remove
// any that it finds.
const tmpPrefix = ".tmp-"

// store is the reservations of one network, read under the network's lock,
// which is held until close.
type store struct {
	dir  string
	lock *os.File // nil when the network has no directory
	held map[netip.Addr]reservation
}

// open opens the network's store, making its directory.
func open(dataDir, network string) (*store, error) {
	dir := filepath.Join(dataDir, network)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("making reservation directory: %w", err)
	}
	return openExisting(dataDir, network)
}

// openExisting opens the network's store, or an empty one that is nowhere.
func openExisting(dataDir, network string) (*store, error) {
	s := &store{dir: filepath.Join(dataDir, network), held: map[netip.Addr]reservation{}}
	f, err := os.OpenFile(filepath.Join(s.dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if errors.Is(err, os.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, fmt.Errorf("opening reservation lock: %w", err)
	}
	s.lock = f
	for err = unix.EINTR; errors.Is(err, unix.EINTR); {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
	}
	if err == nil {
		err = s.read()
	}
	if err != nil {
		s.close()
		return nil, fmt.Errorf("reading reservations of network %q: %w", network, err)
	}
	return s, nil
}

func (s *store) close() {
	if s.lock != nil {
		s.lock.Close() // and with it the lock
	}
}

// read finds every reservation, and reads those that no index file vouches for.
func (s *store) read() error {
	dir, err := os.Open(s.dir)
	if err != nil {
		return err
	}
	defer dir.Close()
	entries, err := list(dir)
	if err != nil {
		return err
	}
	index := map[netip.Addr]indexed{}
	var addrs []entry
	for _, e := range entries {
		switch i, ok := parseIndex(e); {
		case strings.HasPrefix(e.name, tmpPrefix):
			err = os.Remove(s.path(e.name))
		case ok && index[i.addr].entry.name != "": // one of them is stale: read the file
			err = errors.Join(os.Remove(s.path(e.name)), os.Remove(s.path(index[i.addr].entry.name)))
			delete(index, i.addr)
		case ok:
			index[i.addr] = i
		default:
			if e.addr, err = netip.ParseAddr(e.name); err == nil {
				addrs = append(addrs, e)
			}
			err = nil // the lock, the last addresses, or a stranger's
		}
		if err != nil {
			return err
		}
	}
	buf := make([]byte, maxReservation)
	for _, e := range addrs {
		if i := index[e.addr]; i.entry.inode == e.inode && e.inode != 0 {
			s.held[e.addr] = reservation{key: i.key}
			delete(index, e.addr)
		} else if err := s.readOne(int(dir.Fd()), e, buf); err != nil {
			return err
		}
	}
	for _, stale := range index {
		if err := os.Remove(s.path(stale.entry.name)); err != nil {
			return err
		}
	}
	return nil
}

func (s *store) readOne(dir int, e entry, buf []byte) error {
	n, err := readAt(dir, e.name, buf)
	if err != nil {
		return &os.PathError{Op: "reading", Path: s.path(e.name), Err: err}
	}
	owner := parseOwner(buf[:n])
	if owner.ContainerID == "" {
		// Its writer died between creating and filling it: no reservation.
		return os.Remove(s.path(e.name))
	}
	s.held[e.addr] = reservation{key: keyOf(owner), owner: owner}
	return nil
}

// maxReservation is more than a container id and an interface name need.
const maxReservation = 4 << 10

func readAt(dir int, name string, buf []byte) (n int, err error) {
	fd, err := retry(func() (int, error) { return unix.Openat(dir, name, unix.O_RDONLY|unix.O_CLOEXEC, 0) })
	if err != nil {
		return 0, err
	}
	n, err = retry(func() (int, error) { return unix.Read(fd, buf) })
	return n, errors.Join(err, unix.Close(fd))
}

func retry(call func() (int, error)) (n int, err error) {
	for err = unix.EINTR; errors.Is(err, unix.EINTR); {
		n, err = call()
	}
	return n, err
}

func parseOwner(content []byte) cni.Attachment {
	id, ifName, _ := strings.Cut(strings.TrimSpace(string(content)), "\n")
	return cni.Attachment{ContainerID: strings.TrimSpace(id), IfName: strings.TrimSpace(ifName)}
}

func (s *store) path(name string) string { return filepath.Join(s.dir, name) }

// reserve reserves an address of every set for the owner, or none. An owner
// that has one of a set keeps it.
func (s *store) reserve(owner cni.Attachment, sets []rangeSet, asked []netip.Addr) (addrs []netip.Addr, err error) {
	var fresh []netip.Addr
	defer func() {
		if err != nil {
			for _, a := range fresh {
				err = errors.Join(err, s.remove(a))
			}
		}
	}()
	for i, set := range sets {
		addr, isNew, err := s.choose(owner, set, i, asked[i])
		if err != nil {
			return nil, err
		}
		addrs = append(addrs, addr)
		if !isNew {
			continue
		}
		if err := s.write(addr, owner); err != nil {
			return nil, fmt.Errorf("reserving %s: %w", addr, err)
		}
		fresh = append(fresh, addr)
		if err := s.setLast(i, addr); err != nil {
			return nil, fmt.Errorf("noting the last address: %w", err)
		}
	}
	return addrs, nil
}

// choose returns the owner's address in the set, or one that is free.
func (s *store) choose(owner cni.Attachment, set rangeSet, index int, asked netip.Addr) (addr netip.Addr, isNew bool, err error) {
	key := keyOf(owner)
	for a, r := range s.held {
		if r.key == key && set.rangeOf(a) != nil {
			addr = a
		}
	}
	if asked.IsValid() {
		_, taken := s.held[asked]
		switch {
		case addr == asked:
			return addr, false, nil
		case addr.IsValid():
			return addr, false, cni.Errorf(cni.CodeExists, "requested address %s: %q has %s already", asked, owner, addr)
		case taken:
			return asked, false, cni.Errorf(cni.CodeExhausted, "requested address %s is reserved for %q", asked, s.ownerOf(asked))
		case !set.rangeOf(asked).usable(asked):
			return asked, false, cni.Errorf(cni.CodeConfig, "requested address %s belongs to the subnet itself", asked)
		}
		return asked, true, nil
	}
	if addr.IsValid() {
		return addr, false, nil
	}
	addr, ok := s.free(set, s.last(index))
	if !ok {
		return addr, false, cni.Errorf(cni.CodeExhausted, "no address is free in %s", set)
	}
	return addr, true, nil
}

// free returns the first free address of the set behind last.
func (s *store) free(set rangeSet, last netip.Addr) (addr netip.Addr, ok bool) {
	set.after(last, func(a netip.Addr) bool {
		_, taken := s.held[a]
		if !taken {
			addr, ok = a, true
		}
		return taken
	})
	return addr, ok
}

// release removes the reservations that match, going on past errors.
func (s *store) release(matches func(reservation) bool) error {
	var errs []error
	for a, r := range s.held {
		if matches(r) {
			if err := s.remove(a); err != nil {
				errs = append(errs, fmt.Errorf("releasing %s: %w", a, err))
			}
		}
	}
	return errors.Join(errs...)
}

// remove removes a reservation, and its index file behind it.
func (s *store) remove(a netip.Addr) error {
	if err := os.Remove(s.path(a.String())); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	err := os.Remove(s.path(indexName(s.held[a].key, a)))
	if errors.Is(err, os.ErrNotExist) {
		err = nil // it was read
	}
	delete(s.held, a)
	return err
}

// write makes the reservation's file appear with its content.
func (s *store) write(a netip.Addr, owner cni.Attachment) error {
	tmp := s.path(tmpPrefix + a.String())
	if err := os.WriteFile(tmp, []byte(owner.ContainerID+"\r\n"+owner.IfName), 0o600); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	if err := os.Rename(tmp, s.path(a.String())); err != nil {
		return err
	}
	s.held[a] = reservation{key: keyOf(owner), owner: owner}
	// Without it, as on a file system without hard links, the file is read.
	_ = os.Link(s.path(a.String()), s.path(indexName(keyOf(owner), a)))
	return nil
}

func (s *store) ownerOf(a netip.Addr) cni.Attachment {
	content, err := os.ReadFile(s.path(a.String()))
	if err != nil {
		return s.held[a].owner
	}
	return parseOwner(content)
}

func lastName(index int) string { return "last_reserved_ip." + strconv.Itoa(index) }

// last returns where the search for a free address of the set goes on. The file
// is a hint: without it, or with a torn one, the search begins at the start.
func (s *store) last(index int) netip.Addr {
	content, err := os.ReadFile(s.path(lastName(index)))
	if err != nil {
		return netip.Addr{}
	}
	a, _ := netip.ParseAddr(strings.TrimSpace(string(content)))
	return a
}

func (s *store) setLast(index int, a netip.Addr) error {
	return os.WriteFile(s.path(lastName(index)), []byte(a.String()), 0o600)
}
