package cnisuite

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/nodekit-project/nodekit/conformance"
)

// crowdTime replaces answerTime if many calls wait for each other.
const crowdTime = time.Minute

// concurrentRules are about concurrent calls.
func concurrentRules() []conformance.Rule[Target] {
	const section = "Section 3, Lifecycle & Ordering"
	const sentence = "Plugins must handle being executed concurrently across different containers. If necessary, they must implement locking on shared resources (e.g. IPAM databases)."
	add := checked(rule("CNI-ADD-027", conformance.Must, "40 ADDs at the same time, and then 40 DELs, all succeed", section, sentence), together(40, 8))
	add.Tier = conformance.Crash
	more := soak(checked(rule("CNI-ADD-028", conformance.Must, "200 ADDs at the same time, and then 200 DELs, all succeed", section, sentence), together(8, 200)))
	del := checked(rule("CNI-DEL-016", conformance.Should, "20 DELs of one attachment at the same time all succeed (de facto)", section,
		"delete may be followed by additional deletes."), checkDelTogether)
	del.Tier = conformance.Crash
	return []conformance.Rule[Target]{add, more, del}
}

// at runs n calls concurrently and joins their errors, the first few of them.
func at(n int, do func(i int) error) error {
	errs := make([]error, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { errs[i] = do(i) })
	}
	all.Wait()
	var failed []error
	for _, err := range errs {
		if err != nil {
			failed = append(failed, err)
		}
	}
	if len(failed) == 0 {
		return nil
	}
	const most = 3
	return fmt.Errorf("%d of %d failed: %w", len(failed), n, errors.Join(failed[:min(most, len(failed))]...))
}

// together starts on a host where the plugin has not run: one of the first ADDs
// creates what networks share. The second crowd must leave nothing besides that.
func together(first, second int) func(context.Context, *lab) error {
	return func(ctx context.Context, l *lab) error {
		if err := l.crowd(ctx, first); err != nil {
			return err
		}
		before, err := l.snapshot()
		if err != nil {
			return err
		}
		return errors.Join(l.crowd(ctx, second), l.clean(ctx, before))
	}
}

// crowd runs n ADDs concurrently, and then n DELs.
func (l *lab) crowd(ctx context.Context, n int) error {
	l.handOver = 10 * time.Second
	all, results := make([]*container, n), make([]*result, n)
	for i := range all {
		var err error
		if all[i], err = l.newContainer(); err != nil {
			return err
		}
	}
	if err := at(n, func(i int) (err error) {
		results[i], err = l.patientAdd(ctx, all[i])
		return err
	}); err != nil {
		return fmt.Errorf("ADDs at the same time: %w", err)
	}
	if err := l.distinct(all, results); err != nil {
		return err
	}
	if err := at(n, func(i int) error {
		return l.delWith(ctx, all[i], with{what: "DEL beside others", within: crowdTime})
	}); err != nil {
		return fmt.Errorf("DELs at the same time: %w", err)
	}
	for _, c := range all {
		if err := errors.Join(l.released(c), c.empty()); err != nil {
			return err
		}
	}
	return nil
}

// patientAdd retries if the plugin asks for it.
func (l *lab) patientAdd(ctx context.Context, c *container) (*result, error) {
	const tries = 20
	for try := 1; ; try++ {
		out, err := l.call(ctx, "ADD", c, with{within: crowdTime})
		if err != nil {
			return nil, err
		}
		var e errorObject
		if out.rc != 0 && try < tries && json.Unmarshal(out.stdout, &e) == nil && e.Code == 11 {
			time.Sleep(time.Duration(try) * 10 * time.Millisecond)
			continue
		}
		var r result
		if err := out.ok(&r); err != nil {
			return nil, err
		}
		c.result = out.stdout
		return &r, nil
	}
}

// distinct expects that no two containers share an address, or a hardware address if
// both are on one link of the host. A chained plugin repeats those that the suite
// assigned.
func (l *lab) distinct(all []*container, results []*result) error {
	if l.target.Kind == Chained {
		return nil
	}
	owner := map[string]int{}
	for i, r := range results {
		mine, err := l.identities(all[i], r)
		if err != nil {
			return err
		}
		for _, identity := range mine {
			if other, taken := owner[identity]; taken && other != i {
				return fmt.Errorf("two containers got %s", identity)
			}
			owner[identity] = i
		}
	}
	return nil
}

// identities returns what no other container may have.
func (l *lab) identities(c *container, r *result) ([]string, error) {
	var own []string
	seen, err := c.look()
	if err != nil {
		return nil, err
	}
	indexed := slices.ContainsFunc(r.IPs, func(ip ipEntry) bool { return ip.Interface != nil })
	for _, ip := range r.IPs {
		inside := !indexed || seen != nil && seen.addresses[canonical(ip.Address)] // otherwise it belongs to something outside
		if ip.Interface != nil {
			inside = *ip.Interface >= 0 && *ip.Interface < len(r.Interfaces) && r.Interfaces[*ip.Interface].Sandbox != ""
		}
		if (inside || l.target.Kind == IPAM) && l.handedOut(ip.Address) {
			own = append(own, "the address "+ip.Address)
		}
	}
	segment, mac, err := l.segment(c)
	if segment != 0 {
		own = append(own, fmt.Sprintf("the hardware address %s on interface %d of the host", mac, segment))
	}
	return own, err
}

// handedOut reports whether no two attachments may have the address.
func (l *lab) handedOut(cidr string) bool {
	ip, _, err := net.ParseCIDR(cidr)
	return !l.target.Static && (err != nil || !ip.IsLoopback())
}

// segment returns the index of the host's interface on which others can see the
// container's hardware address: a bridge, or the parent of a macvlan. 0 means none,
// for example if the container is alone on its link.
func (l *lab) segment(c *container) (index int, mac string, err error) {
	links, err := linksIn(c.ns)
	if err != nil || links[c.ifName] == nil {
		return 0, "", err
	}
	link := links[c.ifName]
	mac = link.Attrs().HardwareAddr.String()
	switch link.Type() {
	case "macvlan", "macvtap":
		return link.Attrs().ParentIndex, mac, nil
	case "veth":
		host, err := linksIn(l.host)
		for _, end := range host {
			if end.Attrs().Index == link.Attrs().ParentIndex {
				return end.Attrs().MasterIndex, mac, err
			}
		}
		return 0, "", err
	}
	return 0, "", nil
}

// checkDelTogether calls DEL as an impatient kubelet does.
func checkDelTogether(ctx context.Context, l *lab) error {
	before, err := l.baseline(ctx)
	if err != nil {
		return err
	}
	c, _, err := l.joined(ctx)
	if err != nil {
		return err
	}
	l.handOver = 10 * time.Second
	if err := at(20, func(int) error {
		mine := *c // calls record in it what they did
		out, err := l.call(ctx, "DEL", &mine, with{what: "DEL beside others of the attachment", within: crowdTime})
		if err != nil {
			return err
		}
		return out.ok(nil)
	}); err != nil {
		return err
	}
	c.owed = false
	return errors.Join(l.released(c), c.empty(), l.clean(ctx, before))
}
