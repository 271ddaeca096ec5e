package cnisuite

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/conformance"
	"github.com/nodekit-project/nodekit/internal/leak"
)

// effort is the sentence on DEL with less than it should have.
const effort = "plugins should always complete a DEL action without error to the fullest extent possible, even if some resources or state are missing"

// delRules are about DEL alone.
func delRules() []conformance.Rule[Target] {
	const must, should, advisory = conformance.Must, conformance.Should, conformance.Advisory
	const undo = "delete the interface defined by CNI_IFNAME inside the container at CNI_NETNS, or undo any modifications applied in the plugin's ADD functionality"
	return []conformance.Rule[Target]{
		checked(rule("CNI-DEL-005", must, "DEL leaves the container's network as it was", "DEL", undo), checkDelInside),
		checked(rule("CNI-DEL-006", should, "DEL, CHECK, STATUS and GC output nothing when they succeed (de facto)", "Section 5, Result Types",
			"For certain operations, plugins must output result information. [GC:] No output on success"), checkSilent),
		checked(rule("CNI-DEL-007", should, "DEL without prevResult succeeds and leaves nothing", "DEL",
			"Plugins should still return without error if prevResult is empty for a DEL command, however."),
			deletes(with{what: "DEL without prevResult", keys: map[string]any{"prevResult": nil}})),
		checked(rule("CNI-DEL-008", must, "DEL of an interface that somebody deleted succeeds", "DEL",
			"Plugins MUST accept multiple DEL calls for the same (CNI_CONTAINERID, CNI_IFNAME) pair, and return success if the interface in question, or any modifications added, are missing."), succeeds("DEL of a deleted interface", delNoLink)),
		checked(rule("CNI-DEL-017", should, "DEL of an interface that somebody deleted leaves nothing", "DEL",
			"the bridge plugin should delegate the DEL action to the IPAM plugin and clean up its own resources even if the container network namespace and/or container network interface no longer exist"), leavesNothing("DEL of a deleted interface", delNoLink)),
		checked(rule("CNI-DEL-009", should, "DEL with a prevResult that is of no use succeeds and leaves nothing", "DEL", effort), checkDelOddPrev),
		checked(rule("CNI-DEL-010", must, "DEL leaves other attachments alone", "Section 3, Execution of Network Configurations",
			"An attachment may be uniquely identified by the (CNI_CONTAINERID, CNI_IFNAME) tuple."), checkDelOthers),
		checked(rule("CNI-DEL-011", must, "DEL leaves the container's attachment to another network alone", "Section 3, Execution of Network Configurations",
			"An attachment may be uniquely identified by the (CNI_CONTAINERID, CNI_IFNAME) tuple."), checkDelOtherNetwork),
		checked(rule("CNI-DEL-012", advisory, "DEL leaves an interface alone that is another container's", "DEL", undo), checkDelForeign),
		checked(rule("CNI-DEL-013", should, "DEL without runtimeConfig leaves nothing", "DEL", effort), checkDelNoRuntimeConfig),
		checked(rule("CNI-DEL-014", must, "DEL after an ADD that failed leaves nothing", "Section 3, Lifecycle & Ordering",
			"The container runtime must ensure that add is eventually followed by a corresponding delete. [...] A delete must still be executed even if the add fails."), checkDelAfterFailure),
		checked(rule("CNI-DEL-015", advisory, "DEL succeeds and leaves nothing without the tools of PATH", "DEL", effort),
			deletes(with{what: "DEL without the tools of PATH", env: map[string]string{"PATH": "/nonexistent"}})),
		checked(rule("CNI-ADD-026", advisory, "an ADD that fails leaves nothing, before the DEL too", "Errors",
			"A plugin must exit with a return code of 0 on success, and non-zero on failure."), checkRollback),
	}
}

// checkDelInside ignores sysctls: the container goes as a whole. What was there
// before the ADD, such as the interface that an earlier plugin created with its end
// on the host, must be there again unchanged.
func checkDelInside(ctx context.Context, l *lab) error {
	c, err := l.newContainer()
	if err != nil {
		return err
	}
	outside, inside, err := l.around(c)
	if err != nil {
		return err
	}
	given, err := l.given(c)
	if err != nil {
		return err
	}
	if err := l.life(ctx, c); err != nil {
		return err
	}
	var gone []leak.Leak
	if err := l.settled(ctx, func() ([]leak.Leak, error) {
		_, now, err := l.around(c)
		if err != nil {
			return nil, err
		}
		gone = slices.DeleteFunc(now.Diff(inside), l.mayStay)
		return slices.DeleteFunc(inside.Diff(now), func(found leak.Leak) bool { return strings.HasPrefix(found.Name, "lo ") }), nil
	}); err != nil {
		return err
	}
	if len(gone) > 0 {
		return fmt.Errorf("after ADD and DEL the container lacks %s", list(gone))
	}
	if err := l.endKept(c, outside); err != nil {
		return err
	}
	left, err := l.given(c)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(given)) {
		now, there := left[name]
		if !there {
			return fmt.Errorf("after ADD and DEL there is no interface %q any more, which was there before", name)
		}
		if err := given[name].other(now); err != nil {
			return fmt.Errorf("after ADD and DEL the interface %q is not as it was before: %w", name, err)
		}
	}
	return nil
}

// endKept compares what is attached to the other end of the interface that a chained
// plugin got.
func (l *lab) endKept(c *container, before *leak.Snapshot) error {
	now, _, err := l.around(c)
	if err != nil {
		return err
	}
	elsewhere := func(found leak.Leak) bool {
		return c.hostEnd == "" || !slices.Contains(hungKinds(), found.Kind) || !strings.HasPrefix(found.Name, c.hostEnd+" ")
	}
	more, less := slices.DeleteFunc(before.Diff(now), elsewhere), slices.DeleteFunc(now.Diff(before), elsewhere)
	if len(more)+len(less) > 0 {
		return fmt.Errorf("after ADD and DEL the host's end of the interface is not as it was before: new %s, gone %s", list(more), list(less))
	}
	return nil
}

// given returns the settings of the interfaces that an earlier plugin would have
// created for a chained one: in the container, and the other end on the host.
// Loopback goes with the namespace, up or down.
func (l *lab) given(c *container) (map[string]settings, error) {
	given := map[string]settings{}
	for ns, name := range map[string]string{c.ns: c.ifName, l.host: c.hostEnd} {
		all, err := settingsIn(ns)
		if err != nil {
			return nil, err
		}
		if s, there := all[name]; there && l.target.Kind == Chained {
			given[name] = s
		}
	}
	return given, nil
}

// checkSilent is about all commands without a result. A command that fails is left to
// another rule.
func checkSilent(ctx context.Context, l *lab) error {
	c, _, err := l.joined(ctx)
	if err != nil {
		return err
	}
	for _, command := range []string{"CHECK", "STATUS", "GC", "DEL"} {
		about, keys := c, map[string]any(nil)
		switch {
		case !slices.Contains(l.commands(), command):
			continue
		case command == "GC":
			about, keys = nil, attachments(c)
		case command == "STATUS":
			about = nil
		}
		out, err := l.call(ctx, command, about, with{keys: keys})
		if err != nil {
			return err
		}
		if out.rc == 0 && len(bytes.TrimSpace(out.stdout)) > 0 {
			return fmt.Errorf("%s succeeded and wrote to stdout, which must stay empty: %s", command, out)
		}
	}
	return nil
}

// deletes expects that such a DEL does its complete work.
func deletes(w with) func(context.Context, *lab) error {
	return func(ctx context.Context, l *lab) error {
		before, err := l.baseline(ctx)
		if err != nil {
			return err
		}
		c, _, err := l.joined(ctx)
		if err != nil {
			return err
		}
		return l.deletes(ctx, c, before, w)
	}
}

func (l *lab) deletes(ctx context.Context, c *container, before *leak.Snapshot, w with) error {
	if err := l.delWith(ctx, c, w); err != nil {
		return err
	}
	if err := errors.Join(l.released(c), c.empty(), l.clean(ctx, before)); err != nil {
		return fmt.Errorf("after a %s: %w", w.what, err)
	}
	return nil
}

// deletion is the fault of a DEL: that it failed, or that it left something.
type deletion struct {
	failed, left error
}

// deletion runs a DEL and, if it succeeds, calls look for what it left. An error is a
// fault of the suite.
func (l *lab) deletion(ctx context.Context, c *container, w with, look func() error) (d deletion, err error) {
	out, err := l.call(ctx, "DEL", c, w)
	if err != nil {
		return d, err
	}
	if d.failed = out.ok(nil); d.failed != nil {
		return d, nil
	}
	if err := look(); err != nil {
		d.left = fmt.Errorf("after a %s: %w", w.what, err)
	}
	return d, ctx.Err()
}

// succeeds judges a DEL only by its answer.
func succeeds(name string, carryOut func(context.Context, *lab) (deletion, error)) func(context.Context, *lab) error {
	return func(ctx context.Context, l *lab) error {
		d, err := found(ctx, l, name, carryOut)
		return cmp.Or(err, d.failed)
	}
}

// leavesNothing judges it also by what it left.
func leavesNothing(name string, carryOut func(context.Context, *lab) (deletion, error)) func(context.Context, *lab) error {
	return func(ctx context.Context, l *lab) error {
		d, err := found(ctx, l, name, carryOut)
		return cmp.Or(err, d.failed, d.left)
	}
}

func delNoLink(ctx context.Context, l *lab) (d deletion, err error) {
	before, err := l.baseline(ctx)
	if err != nil {
		return d, err
	}
	c, err := l.unlinked(ctx)
	if err != nil {
		return d, err
	}
	return l.deletion(ctx, c, with{what: "DEL of an interface that somebody deleted"}, func() error {
		return errors.Join(l.released(c), c.empty(), l.clean(ctx, before))
	})
}

// unlinked is a container whose interface somebody deleted after ADD.
func (l *lab) unlinked(ctx context.Context) (*container, error) {
	c, _, err := l.joined(ctx)
	if err != nil {
		return nil, err
	}
	seen, err := c.look()
	if err != nil {
		return nil, err
	}
	if seen == nil {
		return nil, conformance.NotApplicable("ADD makes no interface %q in the kernel", c.ifName)
	}
	if l.target.loopback() {
		return nil, conformance.NotApplicable("nobody can delete lo")
	}
	return c, c.change(netlink.LinkDel)
}

func checkDelOddPrev(ctx context.Context, l *lab) error {
	before, err := l.baseline(ctx)
	if err != nil {
		return err
	}
	for _, odd := range []struct{ what, prev string }{
		{"an empty prevResult", `{}`},
		{"a prevResult of an older version", `{"cniVersion":"0.2.0","ip4":{"ip":"10.124.0.2/24"}}`},
		{"a prevResult that is no object", `"no result"`},
		{"a prevResult whose addresses are no such", `{"cniVersion":"1.1.0","interfaces":[{"name":"eth0"}],"ips":[{"address":"nowhere","interface":7}]}`},
		{"a prevResult of a version that nobody speaks", `{"cniVersion":"99.0.0"}`},
	} {
		c, _, err := l.joined(ctx)
		if err != nil {
			return err
		}
		w := with{what: "DEL with " + odd.what, keys: map[string]any{"prevResult": json.RawMessage(odd.prev)}}
		if err := l.deletes(ctx, c, before, w); err != nil {
			return err
		}
	}
	return nil
}

func checkDelOthers(ctx context.Context, l *lab) error {
	other, _, err := l.joined(ctx)
	if err != nil {
		return err
	}
	kept, err := l.holdings(ctx, other, with{})
	if err != nil {
		return err
	}
	c, _, err := l.joined(ctx)
	if err != nil {
		return err
	}
	if err := l.del(ctx, c, "DEL"); err != nil {
		return err
	}
	if err := kept.kept(ctx, l); err != nil {
		return fmt.Errorf("after the DEL of another container: %w", err)
	}
	return nil
}

// checkDelOtherNetwork begins with an attachment that is removed again: two networks
// with one configuration may allocate alike, and must not assign the same address
// here.
func checkDelOtherNetwork(ctx context.Context, l *lab) error {
	ahead, _, err := l.joined(ctx)
	if err != nil {
		return err
	}
	first, one, err := l.joined(ctx)
	if err != nil {
		return err
	}
	if err := l.del(ctx, ahead, "DEL"); err != nil {
		return err
	}
	if err := ahead.empty(); err != nil { // otherwise its interface could go in between
		return err
	}
	kept, err := l.holdings(ctx, first, with{})
	if err != nil {
		return err
	}
	second, err := l.beside(first)
	if err != nil {
		return err
	}
	second.keys = map[string]any{"name": l.network("two")}
	out, err := l.call(ctx, "ADD", second, with{what: "ADD to a second network"})
	if err != nil {
		return err
	}
	if out.failed() == nil {
		return conformance.NotApplicable("the plugin cannot serve two networks with this configuration: %s", shorten(out.stdout))
	}
	second.result = out.stdout
	var two result
	if err := out.ok(&two); err != nil {
		return err
	}
	for _, ip := range one.IPs {
		if l.target.Kind != Chained && two.has(ip.Address) {
			return conformance.NotApplicable("two networks with this configuration give the same addresses")
		}
	}
	if err := l.delWith(ctx, second, with{what: "DEL from a second network"}); err != nil {
		return err
	}
	if err := kept.kept(ctx, l); err != nil {
		return fmt.Errorf("after the DEL of the container's attachment to another network: %w", err)
	}
	return nil
}

// checkDelForeign gives a DEL the namespace of a container that the plugin does not
// know, as happens if the path of a namespace names a process.
func checkDelForeign(ctx context.Context, l *lab) error {
	if err := l.enters(); err != nil {
		return err
	}
	c, _, err := l.joined(ctx)
	if err != nil {
		return err
	}
	foreign, err := l.newContainer()
	if err != nil {
		return err
	}
	if err := foreign.occupy(); err != nil {
		return err
	}
	w := with{what: "DEL with a CNI_NETNS that is another container's by now", env: map[string]string{"CNI_NETNS": foreign.ns}}
	if err := l.delWith(ctx, c, w); err != nil {
		return err
	}
	seen, err := foreign.look()
	if err != nil {
		return err
	}
	if seen == nil {
		return fmt.Errorf("a %s deleted that container's %q", w.what, foreign.ifName)
	}
	return nil
}

func checkDelNoRuntimeConfig(ctx context.Context, l *lab) error {
	if l.target.RuntimeConfig == "" {
		return conformance.NotApplicable("the profile has no runtimeConfig")
	}
	return deletes(with{what: "DEL without runtimeConfig", keys: map[string]any{"runtimeConfig": nil}})(ctx, l)
}

// misfortune is a way to make an ADD fail half-way.
type misfortune struct {
	what string
	ipam reply
}

// misfortunes are those of the delegate: a failure of its own, and results that only
// the kernel refuses. A plugin may also accept them.
func (l *lab) misfortunes() []misfortune {
	route := strings.TrimSuffix(ipamResult(l.version, "10.123.210.2/16", "10.123.0.1"), "}") + `,"routes":[{"dst":"10.205.0.0/16","gw":"203.0.113.1"}]}`
	return []misfortune{
		{"ADD whose delegate fails", failing(111, "the suite has no address")},
		{"ADD with an address that the kernel refuses", reply{stdout: strings.Replace(ipamResult(l.version, "ff02::77/64", ""), `"version":"4"`, `"version":"6"`, 1)}},
		{"ADD with a route that the kernel refuses", reply{stdout: route}},
	}
}

// unfortunate runs the ADDs that fail, and then looks.
func (l *lab) unfortunate(ctx context.Context, look func(*container, *leak.Snapshot) error) error {
	if err := l.asksSpy(); err != nil {
		return err
	}
	before, err := l.baseline(ctx)
	if err != nil {
		return err
	}
	cases := l.misfortunes()
	if !cni.AtLeast(l.version, "0.3.0") {
		cases = cases[:1] // their results have another shape
	}
	for _, m := range cases {
		c, err := l.newContainer()
		if err != nil {
			return err
		}
		if err := l.ipam.answer(c, "ADD", m.ipam); err != nil {
			return err
		}
		out, err := l.call(ctx, "ADD", c, with{what: m.what})
		if err != nil {
			return err
		}
		if out.rc == 0 {
			c.result = out.stdout
			if err := l.del(ctx, c, "DEL"); err != nil {
				return err
			}
			continue
		}
		if err := look(c, before); err != nil {
			return fmt.Errorf("after an %s (%s): %w", m.what, shorten(out.stdout), err)
		}
		if err := l.del(ctx, c, "DEL after an "+m.what); err != nil {
			return err
		}
	}
	return nil
}

func checkDelAfterFailure(ctx context.Context, l *lab) error {
	return l.unfortunate(ctx, func(c *container, before *leak.Snapshot) error {
		if err := l.del(ctx, c, "DEL"); err != nil {
			return err
		}
		return errors.Join(l.released(c), c.empty(), l.cleanButVariables(ctx, before))
	})
}

func checkRollback(ctx context.Context, l *lab) error {
	return l.unfortunate(ctx, func(c *container, before *leak.Snapshot) error {
		return errors.Join(l.released(c), c.empty(), l.cleanButVariables(ctx, before))
	})
}

// cleanButVariables ignores that the first ADD of a family enables forwarding on the
// host.
func (l *lab) cleanButVariables(ctx context.Context, before *leak.Snapshot) error {
	return l.settled(ctx, func() ([]leak.Leak, error) {
		now, err := l.snapshot()
		if err != nil {
			return nil, err
		}
		return slices.DeleteFunc(before.Diff(now), func(found leak.Leak) bool { return found.Kind == leak.Sysctl }), nil
	})
}
