package cnisuite

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/nodekit-project/nodekit/conformance"
)

// determines is what the specification requires of an IPAM plugin, in one sentence.
const determines = "The IPAM plugin must determine the interface IP/subnet, Gateway and Routes and return this information to the \"main\" plugin to apply."

// releases is the sentence on DEL for them.
const releases = "an IPAM plugin should generally release an IP allocation and return success even if the container network namespace no longer exists"

// ipamRules are about plugins that assign addresses. They are called like a delegate:
// with the whole configuration of the plugin that delegates.
func ipamRules() []conformance.Rule[Target] {
	const must, should, advisory = conformance.Must, conformance.Should, conformance.Advisory
	const parallel = "The container runtime must not invoke parallel operations for the same container, but is allowed to invoke parallel operations for different containers."
	const section4, section3 = "Section 4: Plugin Delegation", "Section 3, Lifecycle & Ordering"
	at := func(tier conformance.Tier, r conformance.Rule[Target]) conformance.Rule[Target] {
		r.Tier = tier
		return r
	}
	return []conformance.Rule[Target]{
		checked(rule("CNI-IPAM-001", must, "the result of an IPAM plugin has ips without interface, and no interfaces", "Delegated plugins (IPAM)",
			"Delegated IPAM plugins must return an abbreviated Success object. Specifically, it is missing the interfaces array, as well as the interface entry in ips."), checkIPAMResult),
		at(conformance.Crash, checked(rule("CNI-IPAM-002", must, "40 ADDs at a time get addresses that nobody else has", section3, parallel), atOnce(40))),
		at(conformance.Soak, checked(rule("CNI-IPAM-003", must, "200 ADDs at a time get addresses that nobody else has", section3, parallel), atOnce(200))),
		checked(rule("CNI-IPAM-004", should, "a requested address is given or refused, and nothing else (de facto)", "CONVENTIONS.md, Well-known Capabilities",
			"Dynamically allocate IPs for container interface. Runtime which has the ability of address allocation can pass these to plugins."), checkRequests),
		checked(rule("CNI-IPAM-005", should, "an address that somebody has is not given on request (de facto)", "CONVENTIONS.md, Well-known Capabilities",
			"Dynamically allocate IPs for container interface. Runtime which has the ability of address allocation can pass these to plugins."), checkRequestHeld),
		checked(rule("CNI-IPAM-006", must, "ADD without a free address is an error", "Errors",
			"A plugin must exit with a return code of 0 on success, and non-zero on failure."), checkExhaustion),
		checked(rule("CNI-IPAM-007", should, "STATUS without a free address is an error of code 50", "STATUS",
			"if a plugin has a limited number of resources (e.g. IP addresses, hardware queues), it should return an error if those resources are exhausted and no new ADD requests can be serviced."), checkStatusExhausted),
		checked(rule("CNI-IPAM-008", must, "DEL makes the address available again", "DEL",
			"undo any modifications applied in the plugin's ADD functionality"), releasing(with{what: "DEL"})),
		at(conformance.Crash, checked(rule("CNI-IPAM-009", advisory, "40 ADDs and DELs that are killed lose no address after DEL and GC", section3,
			"A delete must still be executed even if the add fails"), killings(40))),
		at(conformance.Soak, checked(rule("CNI-IPAM-010", advisory, "1000 ADDs and DELs that are killed lose no address after DEL and GC", section3,
			"A delete must still be executed even if the add fails"), killings(1000))),
		checked(rule("CNI-IPAM-011", should, "no address is that of the gateway, of the network or for broadcasts (de facto)", section4, determines), checkReserved),
		checked(rule("CNI-IPAM-012", must, "one DEL frees all that ADDs of the attachment took", "DEL",
			"undo any modifications applied in the plugin's ADD functionality"), checkOneDelFreesAll),
		checked(rule("CNI-IPAM-013", advisory, "DEL and GC of one network free nothing of another", "DEL", releases), checkIsolated),
		checked(rule("CNI-IPAM-014", advisory, "a record that was emptied is reported or mended", "CHECK", untracked), checkCorruption),
		checked(rule("CNI-IPAM-015", advisory, "an address that was released is not the next one to be given", section4, determines), checkRotation),
		checked(rule("CNI-IPAM-016", should, "GC makes the addresses of stale attachments available again", "GC", stale), checkGCReleases),
		checked(rule("CNI-IPAM-017", advisory, "an ADD that finds no free address keeps nothing, before the DEL too", "Errors",
			"A plugin must exit with a return code of 0 on success, and non-zero on failure."), checkExhaustedKeeps),
		checked(rule("CNI-IPAM-018", advisory, "a second ADD of an attachment is refused or gives the same addresses", section3,
			"An attachment may be uniquely identified by the (CNI_CONTAINERID, CNI_IFNAME) tuple."), checkSameTuple),
		checked(rule("CNI-IPAM-019", should, "DEL makes the address available again without a network namespace, too", "DEL", releases),
			releasing(with{what: "DEL without CNI_NETNS", unset: []string{"CNI_NETNS"}})),
	}
}

func checkIPAMResult(ctx context.Context, l *lab) error {
	if err := l.isIPAM(); err != nil {
		return err
	}
	got, out, err := l.take(ctx, nil)
	if err != nil {
		return err
	}
	if err := out.ok(nil); err != nil {
		return err
	}
	if len(got.result.Interfaces) > 0 {
		return fmt.Errorf("the result has interfaces: %s", out)
	}
	for _, ip := range got.result.IPs {
		if ip.Interface != nil {
			return fmt.Errorf("the result's address %s is on an interface: %s", ip.Address, out)
		}
		if _, err := netip.ParsePrefix(ip.Address); err != nil {
			return fmt.Errorf("the result's address %q is not in CIDR notation: %s", ip.Address, out)
		}
	}
	if got.result.CNIVersion != l.version {
		return fmt.Errorf("the result's cniVersion is %q, that of the request was %q", got.result.CNIVersion, l.version)
	}
	return nil
}

func atOnce(n int) func(context.Context, *lab) error {
	return func(ctx context.Context, l *lab) error {
		if err := l.allocates(); err != nil {
			return err
		}
		all, err := l.takeAtOnce(ctx, n)
		if err != nil {
			return err
		}
		return distinct(all)
	}
}

// checkRequests requests an address that was assigned before, and others next to it:
// not all of them need be free and in the plugin's ranges.
func checkRequests(ctx context.Context, l *lab) error {
	ways, err := l.requests()
	if err != nil {
		return err
	}
	used, out, err := l.take(ctx, nil)
	if err != nil {
		return err
	}
	if err := errors.Join(out.ok(nil), l.giveBack(ctx, used)); err != nil {
		return err
	}
	for _, way := range ways {
		if err := l.askNear(ctx, way, used.result.IPs[0].Address); err != nil {
			return err
		}
	}
	return nil
}

func (l *lab) askNear(ctx context.Context, way, near string) error {
	address, err := netip.ParsePrefix(near)
	if err != nil {
		return err
	}
	var last *answer
	for range 8 {
		c, err := l.newContainer()
		if err != nil {
			return err
		}
		got, out, err := l.request(ctx, c, way, address)
		if err != nil {
			return err
		}
		if got.result != nil {
			if !slices.Contains(got.result.addresses(), address.Addr()) {
				return fmt.Errorf("%s got %v", out.what, got.result.addresses())
			}
			return l.giveBack(ctx, got)
		}
		last = out
		if next := address.Addr().Next(); address.Masked().Contains(next) {
			address = netip.PrefixFrom(next, address.Bits())
		}
	}
	return fmt.Errorf("no address was given by %s, not even one that had been given without a request: %s", way, last)
}

func checkRequestHeld(ctx context.Context, l *lab) error {
	ways, err := l.requests()
	if err := cmp.Or(err, l.allocates()); err != nil {
		return err
	}
	held, out, err := l.take(ctx, nil)
	if err != nil {
		return err
	}
	if err := out.ok(nil); err != nil {
		return err
	}
	address, err := netip.ParsePrefix(held.result.IPs[0].Address)
	if err != nil {
		return err
	}
	for _, way := range ways {
		c, err := l.newContainer()
		if err != nil {
			return err
		}
		got, _, err := l.request(ctx, c, way, address)
		if err != nil {
			return err
		}
		if err := distinct([]lease{held, got}); err != nil {
			return fmt.Errorf("asked by %s: %w", way, err)
		}
	}
	return nil
}

func checkExhaustion(ctx context.Context, l *lab) error {
	keys, err := l.small()
	if err != nil {
		return err
	}
	_, refusal, err := l.drain(ctx, keys)
	if err != nil {
		return err
	}
	return refusal.failed()
}

// checkExhaustedKeeps looks in the plugin's files, if there are any, for what the
// failed ADD keeps, because no DEL follows it.
func checkExhaustedKeeps(ctx context.Context, l *lab) error {
	keys, err := l.small()
	if err != nil {
		return err
	}
	if _, _, err := l.drain(ctx, keys); err != nil {
		return err
	}
	before, err := l.snapshot()
	if err != nil {
		return err
	}
	if _, _, err := l.take(ctx, keys); err != nil {
		return err
	}
	if err := l.clean(ctx, before); err != nil {
		return fmt.Errorf("an ADD that found no address: %w", err)
	}
	return nil
}

func checkStatusExhausted(ctx context.Context, l *lab) error {
	keys, err := l.small()
	if err := cmp.Or(err, l.hasStatus()); err != nil {
		return err
	}
	all, _, err := l.drain(ctx, keys)
	if err != nil {
		return err
	}
	out, err := l.call(ctx, "STATUS", nil, with{what: "STATUS without a free address", keys: keys})
	if err != nil {
		return err
	}
	if _, err := out.refused(50, 51); err != nil {
		return err
	}
	if err := l.giveBack(ctx, all...); err != nil {
		return err
	}
	return l.ready(ctx, with{what: "STATUS after DEL freed all addresses", keys: keys})
}

// releasing takes all of the few addresses, and expects that such a DEL frees one.
func releasing(w with) func(context.Context, *lab) error {
	return func(ctx context.Context, l *lab) error {
		all, keys, err := l.drained(ctx)
		if err != nil {
			return err
		}
		if err := errors.Join(l.delWith(ctx, all[0].c, w), l.delWith(ctx, all[0].c, w)); err != nil {
			return err
		}
		got, out, err := l.take(ctx, keys)
		if err != nil {
			return err
		}
		if got.result == nil {
			return fmt.Errorf("no address was free after %s: %s", w.what, out)
		}
		all[0] = got
		return distinct(all)
	}
}

// checkReserved checks all of the few addresses or, if there are not few, some.
func checkReserved(ctx context.Context, l *lab) error {
	if err := l.isIPAM(); err != nil {
		return err
	}
	var all []lease
	keys, err := l.small()
	if err == nil {
		all, _, err = l.drain(ctx, keys)
	} else if l.target.Exhaustible == "" {
		err = nil
		for range 20 {
			got, out, err := l.take(ctx, nil)
			if err != nil {
				return err
			}
			if got.result == nil && len(all) == 0 {
				return out.ok(nil)
			}
			all = append(all, got)
		}
	}
	if err != nil {
		return err
	}
	for _, got := range all {
		if got.result != nil {
			if err := got.result.reserved(); err != nil {
				return err
			}
		}
	}
	return nil
}

// reserved ignores point-to-point networks, in which every address may be assigned
// (RFC 3021, RFC 6164).
func (r *result) reserved() error {
	for _, ip := range r.IPs {
		p, err := netip.ParsePrefix(ip.Address)
		if err != nil {
			return err
		}
		if p.Addr().BitLen()-p.Bits() < 2 {
			continue
		}
		gateway, _ := netip.ParseAddr(ip.Gateway)
		switch p.Addr() {
		case gateway:
			return fmt.Errorf("%s is the gateway's address", p)
		case p.Masked().Addr():
			return fmt.Errorf("%s is the network's address", p)
		}
		if next := p.Addr().Next(); p.Addr().Is4() && !p.Contains(next) {
			return fmt.Errorf("%s is the network's address for broadcasts", p)
		}
	}
	return nil
}

func checkOneDelFreesAll(ctx context.Context, l *lab) error {
	if err := l.isIPAM(); err != nil {
		return err
	}
	before, err := l.baseline(ctx)
	if err != nil {
		return err
	}
	first, out, err := l.take(ctx, nil)
	if err != nil {
		return err
	}
	if err := out.ok(nil); err != nil {
		return err
	}
	// Whether it is refused does not matter here.
	if _, err := l.call(ctx, "ADD", first.c, with{what: "second ADD"}); err != nil {
		return err
	}
	return errors.Join(l.giveBack(ctx, first), l.clean(ctx, before))
}

func checkSameTuple(ctx context.Context, l *lab) error {
	if err := l.allocates(); err != nil {
		return err
	}
	first, out, err := l.take(ctx, nil)
	if err != nil {
		return err
	}
	if err := out.ok(nil); err != nil {
		return err
	}
	second, _, err := l.takeFor(ctx, first.c, with{what: "second ADD"})
	if err != nil {
		return err
	}
	return errors.Join(first.sameAs(second), l.askAgain(ctx, first))
}

// askAgain requests another address for an attachment that has one.
func (l *lab) askAgain(ctx context.Context, first lease) error {
	ways, err := l.requests()
	if err != nil {
		return nil //nolint:nilerr // it cannot be asked
	}
	p, err := netip.ParsePrefix(first.result.IPs[0].Address)
	if err != nil {
		return err
	}
	for _, way := range ways {
		next := netip.PrefixFrom(p.Addr().Next(), p.Bits())
		got, out, err := l.request(ctx, first.c, way, next)
		if err != nil {
			return err
		}
		if err := first.sameAs(got); err != nil {
			return fmt.Errorf("second %s: %w", out.what, err)
		}
		first.c.keys = nil
	}
	return nil
}

func (g lease) sameAs(second lease) error {
	if second.result != nil && !slices.Equal(g.result.addresses(), second.result.addresses()) {
		return fmt.Errorf("one attachment got %v and then %v", g.result.addresses(), second.result.addresses())
	}
	return nil
}

func checkRotation(ctx context.Context, l *lab) error {
	if err := l.allocates(); err != nil {
		return err
	}
	first, out, err := l.take(ctx, nil)
	if err != nil {
		return err
	}
	if err := errors.Join(out.ok(nil), l.giveBack(ctx, first)); err != nil {
		return err
	}
	second, out, err := l.take(ctx, nil)
	if err != nil {
		return err
	}
	if err := out.ok(nil); err != nil {
		return err
	}
	if slices.Equal(first.result.addresses(), second.result.addresses()) {
		return fmt.Errorf("%v was given again at once: who still sends to its last owner reaches another", first.result.addresses())
	}
	return nil
}
