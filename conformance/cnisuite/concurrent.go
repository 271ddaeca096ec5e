package cnisuite

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/nodekit-project/nodekit/conformance"
)

// crowdTime replaces answerTime where many calls wait for each other.
const crowdTime = time.Minute

// concurrentRules are about calls at the same time.
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

// at runs n calls at the same time and joins their errors, the first few of them.
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

// together starts on a host where the plugin has not been: what networks share is
// made by one of the first ADDs. The second crowd must leave nothing beside that.
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

// crowd runs n ADDs at the same time, and then n DELs.
func (l *lab) crowd(ctx context.Context, n int) error {
	l.handOver = 10 * time.Second
	all, results := make([]*container, n), make([]*result, n)
	for i := range all {
		var err error
		if all[i], err = l.newContainer(ctx); err != nil {
			return err
		}
	}
	if err := at(n, func(i int) (err error) {
		results[i], err = l.patientAdd(ctx, all[i])
		return err
	}); err != nil {
		return fmt.Errorf("ADDs at the same time: %w", err)
	}
	if err := l.distinct(results); err != nil {
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

// patientAdd tries again when the plugin asks for it.
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

// distinct expects that no two results share an address on an interface; a
// chained plugin repeats those that the suite gave.
func (l *lab) distinct(results []*result) error {
	if l.target.Kind == Chained {
		return nil
	}
	owner := map[string]int{}
	for i, r := range results {
		for _, ip := range r.IPs {
			if l.target.Kind != IPAM && (ip.Interface == nil || *ip.Interface < 0 || *ip.Interface >= len(r.Interfaces) || r.Interfaces[*ip.Interface].Sandbox == "") {
				continue // of the host, or of something else outside
			}
			if bare, _, err := net.ParseCIDR(ip.Address); err == nil && bare.IsLoopback() {
				continue // everybody's
			}
			if other, taken := owner[ip.Address]; taken && other != i {
				return fmt.Errorf("two containers got the address %s", ip.Address)
			}
			owner[ip.Address] = i
		}
	}
	return nil
}

// checkDelTogether lets kubelet's impatience loose on the plugin.
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
		mine := *c // calls note in it what they did
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
