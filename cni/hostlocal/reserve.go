package hostlocal

import (
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/nodekit-project/nodekit/cni"
)

// takeBackAtOnce bounds how many addresses of earlier boots one ADD frees.
const takeBackAtOnce = 64

// reserve reserves an address of every set for the owner, or none at all. If the
// owner already has an address of a set, it keeps that; fresh are the newly reserved
// ones.
func (s *store) reserve(owner cni.Attachment, p plan) (addrs []netip.Addr, fresh []holding, err error) {
	defer func() {
		if err != nil {
			for _, h := range fresh {
				err = errors.Join(err, s.remove(h, 0))
			}
		}
	}()
	held, err := s.heldBy(owner)
	if err != nil {
		return nil, nil, err
	}
	for i, set := range p.sets {
		h, isNew, err := s.choose(owner, held, set, request{i, p.asked[i]})
		if err == nil && isNew {
			if err = s.create(h.addr, owner); err == nil {
				fresh = append(fresh, h)
				err = writeLast(s.dir, i, h.addr)
			}
		} else if err == nil && h.stale {
			err = s.refresh(h)
		}
		if err != nil {
			return nil, fresh, err
		}
		addrs = append(addrs, h.addr)
	}
	return addrs, fresh, nil
}

// giveBack releases what reserve reserved, unless it belongs to somebody else by now.
func (s *store) giveBack(owner cni.Attachment, fresh []holding) error {
	held, err := s.heldBy(owner)
	if err != nil {
		return err
	}
	var errs []error
	for _, h := range fresh {
		if slices.ContainsFunc(held, func(own holding) bool { return own.addr == h.addr }) {
			errs = append(errs, s.remove(h, 0))
		}
	}
	return errors.Join(errs...)
}

func (s *store) refresh(h holding) error {
	s.changed = true
	if err := refreshReservation(s.dir, h.addr.String(), s.boot); err != nil {
		return err
	}
	s.idx.refresh(h)
	return nil
}

// request is what an ADD wants from a set.
type request struct {
	set  int
	addr netip.Addr // the zero Addr means any
}

// choose returns the owner's address in the set, or a free one.
func (s *store) choose(owner cni.Attachment, held []holding, set rangeSet, ask request) (h holding, isNew bool, err error) {
	own := slices.IndexFunc(held, func(h holding) bool { return set.rangeOf(h.addr) != nil })
	switch {
	case own >= 0 && ask.addr.IsValid() && held[own].addr != ask.addr:
		return h, false, cni.Errorf(cni.CodeExists, "requested address %s: %q has %s already", ask.addr, owner, held[own].addr)
	case own >= 0:
		return held[own], false, nil
	case ask.addr.IsValid():
		h, err = s.chooseAsked(owner, ask.addr)
		return h, true, err
	}
	addr, ok := s.idx.free(set, readLast(s.dir, ask.set))
	if !ok && s.idx.err == nil && s.idx.Stale > 0 {
		if err := s.takeBack(set); err != nil {
			return h, false, err
		}
		addr, ok = s.idx.free(set, readLast(s.dir, ask.set))
	}
	if s.idx.err != nil {
		return h, false, errOutdated
	}
	if !ok {
		return h, false, cni.Errorf(cni.CodeExhausted, "no address is free in %s%s", set, s.keptBack(set))
	}
	return holding{key: keyOf(owner), addr: addr}, true, nil
}

// chooseAsked returns the requested address, unless its owner may be alive.
func (s *store) chooseAsked(owner cni.Attachment, a netip.Addr) (holding, error) {
	h := holding{key: keyOf(owner), addr: a}
	taken := s.idx.isTaken(a)
	if s.idx.err != nil {
		return h, errOutdated
	}
	if !taken {
		return h, nil
	}
	r, err := readReservation(s.dir, a.String(), s.boot)
	switch {
	case err != nil:
		return h, errOutdated
	case r.damage != "":
		return h, cni.Errorf(cni.CodeExhausted, "requested address %s has a damaged reservation: %s", a, r.damage)
	case !r.stale:
		return h, cni.Errorf(cni.CodeExhausted, "requested address %s is reserved for %q", a, r.owner)
	}
	s.log.Info("taking back an address of an earlier boot", "network", s.network, "address", a, "owner", r.owner)
	r.addr = a
	return h, s.remove(r.holding(), 0)
}

// restore reserves the address for the owner, whose live interface is known to have
// it.
func (s *store) restore(owner cni.Attachment, held []holding, a netip.Addr) error {
	if i := slices.IndexFunc(held, func(h holding) bool { return h.addr == a }); i >= 0 {
		if held[i].stale {
			return s.refresh(held[i])
		}
		return nil
	}
	if damaged := (holding{key: damagedKey(), addr: a}); slices.ContainsFunc(s.idx.held(damagedKey()), func(h holding) bool { return h.addr == a }) {
		if err := s.remove(damaged, 0); err != nil {
			return err
		}
	}
	if _, err := s.chooseAsked(owner, a); err != nil {
		return err
	}
	s.log.Warn("putting back a reservation", "network", s.network, "address", a, "owner", owner)
	return s.create(a, owner)
}

// takeBack frees addresses of the set whose containers died with an earlier boot. It
// frees only a few, so that returning containers find their own address, but more if
// there are many, so that not every ADD has to.
func (s *store) takeBack(set rangeSet) error {
	stale := s.staleIn(set)
	most := min(1+len(stale)/16, takeBackAtOnce)
	for _, h := range stale[:min(most, len(stale))] {
		r, err := s.read(h)
		if err != nil {
			return err
		}
		if !r.stale {
			return errOutdated
		}
		if err := s.remove(h, 0); err != nil {
			return err
		}
		s.log.Info("taking back an address of an earlier boot", "network", s.network, "address", h.addr, "owner", r.owner)
	}
	return nil
}

func (s *store) staleIn(set rangeSet) []holding {
	if s.idx.Stale == 0 {
		return nil
	}
	return s.idx.all(func(h holding) bool {
		return h.stale && h.key != damagedKey() && set.rangeOf(h.addr) != nil
	})
}

// release releases the attachment's addresses.
func (s *store) release(a cni.Attachment, delay time.Duration) error {
	held, err := s.heldBy(a)
	if err != nil {
		return err
	}
	var errs []error
	for _, h := range held {
		errs = append(errs, s.remove(h, delay))
	}
	return errors.Join(errs...)
}

// collect releases what belongs to none of the attachments, and removes quarantined
// files. The owner of a damaged reservation is unknown, so it goes only if nothing is
// to be kept.
func (s *store) collect(valid []cni.Attachment, delay time.Duration) error {
	keep := map[ownerKey]bool{damagedKey(): len(valid) > 0}
	for _, a := range valid {
		for _, key := range keysOf(a) {
			keep[key] = true
		}
	}
	doomed := s.idx.all(func(h holding) bool { return !keep[h.key] })
	if s.idx.err != nil {
		return errOutdated
	}
	var errs []error
	for _, h := range doomed {
		err := s.collectOne(h, delay)
		if errors.Is(err, errOutdated) {
			return err
		}
		errs = append(errs, err)
	}
	_, err := s.reportDamage()
	return errors.Join(append(errs, err)...)
}

func (s *store) collectOne(h holding, delay time.Duration) error {
	switch h.key {
	case quarantinedKey():
		s.log.Warn("removing a damaged reservation that was put aside", "network", s.network, "address", h.addr)
		return s.removeQuarantined(h)
	case damagedKey():
		s.log.Warn("removing a damaged reservation", "network", s.network, "address", h.addr)
		return s.remove(h, delay)
	}
	if _, err := s.read(h); err != nil {
		return err
	}
	return s.remove(h, delay)
}
