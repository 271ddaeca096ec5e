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
	dir    string
	lock   *os.File // nil when the network has no directory
	owners map[netip.Addr]cni.Attachment
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
	s := &store{dir: filepath.Join(dataDir, network), owners: map[netip.Addr]cni.Attachment{}}
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

// read reads every reservation. It is most of what a call costs, and so stays
// below the os package, which makes twice the system calls for each file.
func (s *store) read() error {
	dir, err := os.Open(s.dir)
	if err != nil {
		return err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	buf := make([]byte, maxReservation)
	for _, name := range names {
		if strings.HasPrefix(name, tmpPrefix) {
			if err := os.Remove(s.path(name)); err != nil {
				return err
			}
			continue
		}
		addr, err := netip.ParseAddr(name)
		if err != nil {
			continue // the lock, the last addresses, or a stranger's
		}
		n, err := readAt(int(dir.Fd()), name, buf)
		if err != nil {
			return &os.PathError{Op: "reading", Path: s.path(name), Err: err}
		}
		owner := parseOwner(buf[:n])
		if owner.ContainerID == "" {
			// Its writer died between creating and filling it: no reservation.
			if err := os.Remove(s.path(name)); err != nil {
				return err
			}
			continue
		}
		s.owners[addr] = owner
	}
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
				err = errors.Join(err, os.Remove(s.path(a.String())))
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
	for a, o := range s.owners {
		if o == owner && set.rangeOf(a) != nil {
			addr = a
		}
	}
	if asked.IsValid() {
		holder, taken := s.owners[asked]
		switch {
		case addr == asked:
			return addr, false, nil
		case addr.IsValid():
			return addr, false, cni.Errorf(cni.CodeExists, "requested address %s: %q has %s already", asked, owner, addr)
		case taken:
			return asked, false, cni.Errorf(cni.CodeExhausted, "requested address %s is reserved for %q", asked, holder)
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
		_, taken := s.owners[a]
		if !taken {
			addr, ok = a, true
		}
		return taken
	})
	return addr, ok
}

// release removes the reservations whose owner matches, going on past errors.
func (s *store) release(matches func(owner cni.Attachment) bool) error {
	var errs []error
	for a, owner := range s.owners {
		if matches(owner) {
			if err := os.Remove(s.path(a.String())); err != nil && !errors.Is(err, os.ErrNotExist) {
				errs = append(errs, fmt.Errorf("releasing %s: %w", a, err))
			}
		}
	}
	return errors.Join(errs...)
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
	s.owners[a] = owner
	return nil
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
