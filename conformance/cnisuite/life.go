package cnisuite

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"syscall"

	"github.com/nodekit-project/nodekit/conformance"
	"github.com/nodekit-project/nodekit/internal/leak"
	"github.com/nodekit-project/nodekit/internal/netns"
)

// lifeRules are about an attachment's life.
func lifeRules() []conformance.Rule[Target] {
	const must = conformance.Must
	add := rule("CNI-ADD-001", must, "ADD makes the interface that its result describes",
		"ADD", "create the interface defined by CNI_IFNAME inside the container at CNI_NETNS; it must output a result structure on standard out")
	add.Check = inLab(checkAdd)
	exists := rule("CNI-ADD-002", must, "ADD refuses an interface name that is taken and leaves that interface alone",
		"ADD", "If an interface of the requested name already exists in the container, the CNI plugin MUST return with an error")
	exists.Check = inLab(checkExisting)
	twice := rule("CNI-DEL-001", must, "DEL succeeds again and again, and without an ADD",
		"DEL", "Plugins MUST accept multiple DEL calls for the same (CNI_CONTAINERID, CNI_IFNAME) pair, and return success if the interface in question, or any modifications added, are missing")
	twice.Check = inLab(checkDelTwice)
	gone := rule("CNI-DEL-002", must, "DEL without the network namespace succeeds",
		"DEL", "Plugins MUST accept multiple DEL calls for the same (CNI_CONTAINERID, CNI_IFNAME) pair, and return success if the interface in question, or any modifications added, are missing. [...] Optional environment parameters: CNI_NETNS")
	gone.Check = inLab(succeeds("DEL without the network namespace", delNetNSGone))
	frees := rule("CNI-DEL-018", conformance.Should, "DEL without the network namespace frees everything",
		"DEL", effort+" [...] the bridge plugin should delegate the DEL action to the IPAM plugin and clean up its own resources even if the container network namespace and/or container network interface no longer exist")
	frees.Check = inLab(leavesNothing("DEL without the network namespace", delNetNSGone))
	leaks := rule("CNI-DEL-003", must, "ADD and DEL leave the machine as it was",
		"DEL", "delete the interface defined by CNI_IFNAME inside the container at CNI_NETNS, or undo any modifications applied in the plugin's ADD functionality")
	leaks.Check = inLab(checkLeak)
	crash := rule("CNI-DEL-004", must, "DEL after a kill -9 in the middle of ADD leaves the machine as it was",
		"Section 3, Lifecycle & Ordering", "A delete must still be executed even if the add fails")
	crash.Tier, crash.Check = conformance.Crash, inLab(checkKilled)
	return []conformance.Rule[Target]{add, exists, twice, gone, frees, leaks, crash}
}

func checkAdd(ctx context.Context, l *lab) error {
	if l.target.Kind == IPAM {
		return conformance.NotApplicable("an IPAM plugin makes no interface")
	}
	a, err := l.sighted(ctx)
	if err != nil {
		return err
	}
	r := a.result
	if r.CNIVersion != l.version {
		return fmt.Errorf("the result's cniVersion is %q, that of the request was %q", r.CNIVersion, l.version)
	}
	if !l.speaks("0.3.0") { // whose results have addresses alone
		if a.nics[a.ns][a.ifName] == nil {
			return fmt.Errorf("ADD succeeded, and there is no interface %q in the container", a.ifName)
		}
		return nil
	}
	mine := r.inside(a.ifName, a.ns)
	if mine < 0 {
		return fmt.Errorf("the result lists no interface %q whose sandbox is CNI_NETNS (%s): %+v", a.ifName, a.ns, r.Interfaces)
	}
	seen := a.nics[a.ns][a.ifName]
	if seen == nil {
		if r.Interfaces[mine].elsewhere() {
			return nil
		}
		return fmt.Errorf("the result lists interface %q, and there is none in the container", a.ifName)
	}
	if mac := r.Interfaces[mine].Mac; !sameMAC(mac, seen.mac) {
		return fmt.Errorf("the result says that %q has the address %s, the kernel says %s", a.ifName, mac, seen.mac)
	}
	for _, ip := range r.IPs {
		switch {
		case ip.Interface == nil:
		case *ip.Interface < 0 || *ip.Interface >= len(r.Interfaces):
			return fmt.Errorf("the result's address %s is on interface %d of %d", ip.Address, *ip.Interface, len(r.Interfaces))
		case *ip.Interface == mine && !seen.addresses[ip.Address]:
			return fmt.Errorf("the result says that %q has %s, the kernel knows %v", a.ifName, ip.Address, slices.Sorted(maps.Keys(seen.addresses)))
		}
	}
	return nil
}

func checkExisting(ctx context.Context, l *lab) error {
	if err := l.enters(); err != nil {
		return err
	}
	c, err := l.newContainer()
	if err != nil {
		return err
	}
	if err := c.occupy(); err != nil {
		return err
	}
	before, err := c.look()
	if err != nil {
		return err
	}
	out, err := l.call(ctx, "ADD", c, with{what: "ADD for an interface that exists"})
	if err != nil {
		return err
	}
	if err := out.failed(); err != nil {
		return err
	}
	after, err := c.look()
	if err != nil {
		return err
	}
	if after == nil || after.mac != before.mac {
		return fmt.Errorf("the failed ADD changed the interface that was there before: %v, now %v", before, after)
	}
	return nil
}

func checkDelTwice(ctx context.Context, l *lab) error {
	c, err := l.newContainer()
	if err != nil {
		return err
	}
	if err := l.del(ctx, c, "DEL without an ADD"); err != nil {
		return err
	}
	if _, err := l.add(ctx, c); err != nil {
		return err
	}
	for _, what := range []string{"DEL", "second DEL", "third DEL"} {
		if err := l.del(ctx, c, what); err != nil {
			return err
		}
	}
	return nil
}

// delNetNSGone removes the namespace first. Once, CNI_NETNS keeps its value, as with
// runtimes that do not check.
func delNetNSGone(ctx context.Context, l *lab) (d deletion, err error) {
	before, err := l.baseline(ctx)
	if err != nil {
		return d, err
	}
	for _, w := range []with{
		{what: "DEL with CNI_NETNS gone"},
		{what: "DEL with CNI_NETNS not given", unset: []string{"CNI_NETNS"}},
	} {
		c, _, err := l.joined(ctx)
		if err != nil {
			return d, err
		}
		if err := netns.Remove(c.ns); err != nil {
			return d, err
		}
		one, err := l.deletion(ctx, c, w, func() error { return errors.Join(l.released(c), l.clean(ctx, before)) })
		d.left = cmp.Or(d.left, one.left) // which says nothing of the other DEL's success
		if d.failed = one.failed; err != nil || d.failed != nil {
			return d, err
		}
	}
	return d, nil
}

// checkLeak also looks at firewall rules that are not the plugin's, which it could
// remove together with its own.
func checkLeak(ctx context.Context, l *lab) error {
	if err := netns.Do(l.host, addForeignRules); err != nil {
		return fmt.Errorf("adding firewall rules beside the plugin's: %w", err)
	}
	foreign, err := l.foreignRules()
	if err != nil {
		return err
	}
	before, err := l.baseline(ctx)
	if err != nil {
		return err
	}
	for range 3 {
		c, err := l.newContainer()
		if err != nil {
			return err
		}
		if err := l.life(ctx, c); err != nil {
			return err
		}
		if err := l.clean(ctx, before); err != nil {
			return err
		}
	}
	now, err := l.foreignRules()
	if err != nil {
		return err
	}
	if gone := now.Diff(foreign); len(gone) > 0 {
		return fmt.Errorf("firewall rules are gone that were there before the first ADD: %s", list(gone))
	}
	return nil
}

// foreignTable is the nftables table of addForeignRules.
const foreignTable = "suite-foreign"

func (l *lab) foreignRules() (*leak.Snapshot, error) {
	return takeIn(l.host, leak.Scope{Kinds: []leak.Kind{leak.NFT}, Prefixes: map[leak.Kind][]string{leak.NFT: {foreignTable + " "}}})
}

// checkKilled kills the plugin and what it started at random moments of ADD. The
// duration is known from ADDs that were not killed.
func checkKilled(ctx context.Context, l *lab) error {
	before, err := l.baseline(ctx)
	if err != nil {
		return err
	}
	const kills, rounds = 30, 60 // some come too late
	killed := 0
	for i := 0; killed < kills && i < rounds; i++ {
		c, err := l.newContainer()
		if err != nil {
			return err
		}
		config, err := l.document("ADD", c, nil)
		if err != nil {
			return err
		}
		after := l.moment("ADD")
		out, err := l.execKilled(ctx, l.env("ADD", c), config, after, syscall.SIGKILL, true)
		if err != nil {
			return err
		}
		if out.killed {
			killed++
		}
		l.log.Debug("ADD", "round", i, "killed", out.killed, "after", after)
		what := fmt.Sprintf("DEL after an ADD that was killed after %s", after)
		if err := l.del(ctx, c, what); err != nil {
			return err
		}
		if err := l.released(c); err != nil {
			return fmt.Errorf("after %s: %w", what, err)
		}
		if err := c.empty(); err != nil {
			return fmt.Errorf("after %s: %w", what, err)
		}
		if err := l.clean(ctx, before); err != nil {
			return fmt.Errorf("after %s: %w", what, err)
		}
	}
	return hit(killed, rounds)
}

// life runs one ADD and one DEL.
func (l *lab) life(ctx context.Context, c *container) error {
	if _, err := l.add(ctx, c); err != nil {
		return err
	}
	if err := l.del(ctx, c, "DEL"); err != nil {
		return err
	}
	if err := l.released(c); err != nil {
		return err
	}
	return c.empty()
}

// baseline is the state of the machine after the first attachment is gone: what
// networks share, such as a bridge, may stay.
func (l *lab) baseline(ctx context.Context) (*leak.Snapshot, error) {
	c, err := l.newContainer()
	if err != nil {
		return nil, err
	}
	if err := l.life(ctx, c); err != nil {
		return nil, err
	}
	return l.snapshot()
}

// add runs an ADD that must succeed.
func (l *lab) add(ctx context.Context, c *container) (*result, error) {
	return l.addWith(ctx, c, with{})
}

func (l *lab) addWith(ctx context.Context, c *container, w with) (*result, error) {
	out, err := l.call(ctx, "ADD", c, w)
	if err != nil {
		return nil, err
	}
	var r result
	if err := out.ok(&r); err != nil {
		return nil, err
	}
	c.result = json.RawMessage(out.stdout)
	return &r, nil
}

// del runs a DEL that must succeed.
func (l *lab) del(ctx context.Context, c *container, what string) error {
	return l.delWith(ctx, c, with{what: what})
}

func (l *lab) delWith(ctx context.Context, c *container, w with) error {
	out, err := l.call(ctx, "DEL", c, w)
	if err != nil {
		return err
	}
	return out.ok(nil)
}
