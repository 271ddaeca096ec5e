package hostlocal

import (
	"errors"
	"net/netip"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cni"
)

// scan reads every file of the directory and rebuilds the index. It reports damaged
// files; see settle for how they are handled.
func (s *store) scan() error {
	names, err := namesIn(s.path)
	if err != nil {
		return err
	}
	var found []holding
	for _, name := range names {
		if strings.HasPrefix(name, tmpPrefix) { // left by a killed call
			if err := unix.Unlinkat(s.dir, name, 0); err != nil && !errors.Is(err, unix.ENOENT) {
				s.log.Warn("removing what a killed call left", "network", s.network, "file", name, "err", err)
			}
			continue
		}
		if a, ok := quarantinedAddr(name); ok {
			found = append(found, holding{key: quarantinedKey(), addr: a})
			continue
		}
		if a, ok := reservedAddr(name); ok {
			h, there := s.scanOne(a)
			if there {
				found = append(found, h)
			}
		}
	}
	blocks := map[[15]byte]bool{}
	for _, h := range found {
		a := h.addr.As16()
		blocks[[15]byte(a[:15])] = true
	}
	s.idx.close()
	s.idx, s.changed = newIndex(s.boot, len(found), len(blocks)), true
	for _, h := range found {
		s.idx.add(h)
	}
	return s.idx.err
}

func (s *store) scanOne(a netip.Addr) (h holding, there bool) {
	r, err := readReservation(s.dir, a.String(), s.boot)
	if errors.Is(err, unix.ENOENT) {
		return h, false
	}
	if r.addr = a; err != nil {
		r.damage = err.Error()
	}
	if r.damage == "" {
		return r.holding(), true
	}
	return s.settle(r), true
}

// settle handles a file without a readable owner. An empty file was never the answer
// to an ADD: its writer died before it could answer. A file of an earlier boot has no
// living owner. Both are quarantined, and the address is free. Any other file may
// belong to a living container, and keeps its address reserved until a person
// releases it or a GC keeps nothing.
func (s *store) settle(r reservation) holding {
	log := s.log.With("network", s.network, "address", r.addr, "damage", r.damage)
	if !r.empty && !r.stale {
		log.Warn("a reservation is damaged; its address is kept back")
		return r.holding()
	}
	s.changed = true
	if err := unix.Renameat(s.dir, r.addr.String(), s.dir, quarantinePrefix+r.addr.String()); err != nil {
		log.Warn("a reservation is damaged and cannot be put aside", "err", err)
		return r.holding()
	}
	log.Warn("a reservation was damaged; its address is free again", "file", quarantinePrefix+r.addr.String())
	return holding{key: quarantinedKey(), addr: r.addr}
}

// reportDamage logs the network's damaged files and returns the damaged reservations.
// If somebody has repaired one, the index is outdated.
func (s *store) reportDamage() (damaged []holding, err error) {
	for _, h := range s.idx.held(damagedKey()) {
		r, err := readReservation(s.dir, h.addr.String(), s.boot)
		if err == nil && r.damage == "" {
			return nil, errOutdated
		}
		s.log.Warn("a reservation is damaged; its address is kept back", "network", s.network, "address", h.addr)
		damaged = append(damaged, h)
	}
	for _, h := range s.idx.held(quarantinedKey()) {
		s.log.Warn("a damaged reservation is put aside", "network", s.network, "file", quarantinePrefix+h.addr.String())
		damaged = append(damaged, h)
	}
	return damaged, nil
}

// removeQuarantined removes a quarantined file.
func (s *store) removeQuarantined(h holding) error {
	s.changed = true
	err := unix.Unlinkat(s.dir, quarantinePrefix+h.addr.String(), 0)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return &os.PathError{Op: "removing", Path: quarantinePrefix + h.addr.String(), Err: err}
	}
	s.idx.remove(h, 0)
	return nil
}

func namesIn(path string) ([]string, error) {
	dir, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return dir.Readdirnames(-1)
}

// reservedAddr returns the address after which a file is named. The upstream plugin
// writes each address in only one form.
func reservedAddr(name string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(name)
	return a, err == nil && a.Zone() == "" && !a.Is4In6() && a.String() == name
}

func quarantinedAddr(name string) (netip.Addr, bool) {
	rest, ok := strings.CutPrefix(name, quarantinePrefix)
	if !ok {
		return netip.Addr{}, false
	}
	return reservedAddr(rest)
}

// keysOf returns the keys that an attachment's reservations may have: the
// attachment's and, for files without an interface name, the container's.
func keysOf(a cni.Attachment) []ownerKey {
	return []ownerKey{keyOf(a), keyOf(cni.Attachment{ContainerID: a.ContainerID})}
}
