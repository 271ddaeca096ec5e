package cnisuite

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/nodekit-project/nodekit/conformance"
)

// addRules are about ADD alone.
func addRules() []conformance.Rule[Target] {
	const must = conformance.Must
	const exists = "If an interface of the requested name already exists in the container, the CNI plugin MUST return with an error"
	return []conformance.Rule[Target]{
		checked(rule("CNI-ADD-003", must, "the result has the version of the request, and its shape", "ADD Success",
			"cniVersion: The same version supplied on input"), checkResultVersions),
		checked(rule("CNI-ADD-010", must, "a second ADD of an attachment fails and leaves the first as it is", "ADD", exists), checkAddTwice),
		checked(rule("CNI-ADD-011", conformance.Advisory, "an ADD that is refused gives no address back that is in use", "ADD", exists), checkRefusedReleases),
		checked(rule("CNI-ADD-014", must, "a chained plugin without prevResult answers with a result or an error", "Errors",
			"A plugin must exit with a return code of 0 on success, and non-zero on failure. If the plugin encounters an error, it should output an \"error\" result structure"), checkNoPrevOnAdd),
		checked(rule("CNI-ADD-015", must, "ADD without a network namespace fails", "Parameters",
			"CNI_NETNS: A reference to the container's \"isolation domain\". If using network namespaces, then a path to the network namespace"), checkNoNetNS),
		checked(rule("CNI-ADD-016", conformance.Advisory, "ADD without a network namespace, or into the host's, changes nothing on the host", "ADD",
			"create the interface defined by CNI_IFNAME inside the container at CNI_NETNS"), checkNoNetNSChanges),
		checked(rule("CNI-ADD-017", must, "a container has several interfaces of one network", "ADD",
			"a given container ID may be added to a specific network more than once only if each addition is done with a different interface name"), checkTwoInterfaces),
		checked(rule("CNI-ADD-018", must, "ADD works again after DEL", "ADD",
			"A runtime should not call ADD twice (without an intervening DEL) for the same (CNI_CONTAINERID, CNI_IFNAME) tuple"), again(3)),
		soak(checked(rule("CNI-ADD-024", must, "ADD works again after many DELs", "ADD",
			"A runtime should not call ADD twice (without an intervening DEL) for the same (CNI_CONTAINERID, CNI_IFNAME) tuple"), again(20))),
	}
}

func soak(r conformance.Rule[Target]) conformance.Rule[Target] {
	r.Tier = conformance.Soak
	return r
}

// enters returns NotApplicable for plugins that need not touch the container.
func (l *lab) enters() error {
	switch l.target.Kind {
	case IPAM:
		return conformance.NotApplicable("an IPAM plugin makes no interface")
	case Chained:
		return conformance.NotApplicable("a chained plugin makes no interface of the name")
	}
	if l.target.loopback() {
		return conformance.NotApplicable("the interface lo is there before the plugin")
	}
	return nil
}

// describes returns NotApplicable if results have no list of interfaces.
func (l *lab) describes() error {
	if l.target.Kind == IPAM {
		return conformance.NotApplicable("an IPAM plugin makes no interface")
	}
	if !l.speaks("0.3.0") {
		return conformance.NotApplicable("the plugin speaks %s at most, whose results list no interfaces", l.version)
	}
	return nil
}

// checkAddTwice checks that the second ADD neither serves nor harms the first
// attachment.
func checkAddTwice(ctx context.Context, l *lab) error {
	if err := l.enters(); err != nil {
		return err
	}
	c, _, err := l.joined(ctx)
	if err != nil {
		return err
	}
	before, err := c.look()
	if err != nil {
		return err
	}
	if before == nil {
		return conformance.NotApplicable("ADD makes no interface %q in the kernel", c.ifName)
	}
	out, err := l.call(ctx, "ADD", c, with{what: "second ADD of the same attachment"})
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
	if after == nil {
		return fmt.Errorf("the second ADD took interface %q away", c.ifName)
	}
	for address := range before.addresses {
		if !after.addresses[address] {
			return fmt.Errorf("the second ADD took address %s away", address)
		}
	}
	if after.mac != before.mac || before.up && !after.up {
		return fmt.Errorf("the second ADD changed the interface: %+v, now %+v", *before, *after)
	}
	if err := l.del(ctx, c, "DEL after two ADDs"); err != nil {
		return err
	}
	_, err = l.add(ctx, c)
	return err
}

func checkRefusedReleases(ctx context.Context, l *lab) error {
	if err := cmp.Or(l.enters(), l.spied()); err != nil {
		return err
	}
	c, _, err := l.joined(ctx)
	if err != nil {
		return err
	}
	if _, err := l.call(ctx, "ADD", c, with{what: "second ADD of the same attachment"}); err != nil {
		return err
	}
	if found, err := c.look(); err != nil || found == nil {
		return err // another rule is about that
	}
	calls, err := l.ipam.calls(c)
	if err != nil {
		return err
	}
	if last := len(calls) - 1; last >= 0 && calls[last].command == "DEL" {
		return fmt.Errorf("the second ADD gave the first one's address back (the delegate was called for %v) and left the interface that has it", commands(calls))
	}
	return nil
}

// checkNoPrevOnAdd accepts either outcome: some chained plugins need no prevResult.
func checkNoPrevOnAdd(ctx context.Context, l *lab) error {
	if l.target.Kind != Chained {
		return conformance.NotApplicable("only a chained plugin needs a prevResult")
	}
	c, err := l.newContainer()
	if err != nil {
		return err
	}
	out, err := l.call(ctx, "ADD", c, with{what: "ADD without prevResult", keys: map[string]any{"prevResult": nil}})
	if err != nil {
		return err
	}
	if out.rc == 0 {
		var r result
		return out.ok(&r)
	}
	if died(out) {
		return fmt.Errorf("%s: the plugin died: %s", out.what, out)
	}
	return out.ended()
}

// noNetNS are values of CNI_NETNS that do not lead to a network namespace.
func (l *lab) noNetNS() []with {
	at := func(what, path string) with { return with{what: what, env: map[string]string{"CNI_NETNS": path}} }
	return []with{
		at("ADD with a CNI_NETNS that does not exist", l.dir+"/no-such-namespace"),
		at("ADD with a CNI_NETNS that is no network namespace", l.ipam.dirs()[0]+"/"+spyName),
	}
}

func checkNoNetNS(ctx context.Context, l *lab) error {
	if err := l.enters(); err != nil {
		return err
	}
	for _, w := range l.noNetNS() {
		c, err := l.newContainer()
		if err != nil {
			return err
		}
		out, err := l.call(ctx, "ADD", c, w)
		if err != nil {
			return err
		}
		if err := out.failed(); err != nil {
			return err
		}
	}
	return nil
}

// checkNoNetNSChanges allows what networks share: like a bridge, it stays after the
// first attachment is gone.
func checkNoNetNSChanges(ctx context.Context, l *lab) error {
	if err := l.enters(); err != nil {
		return err
	}
	before, err := l.baseline(ctx)
	if err != nil {
		return err
	}
	cases := append(l.noNetNS(), with{what: "ADD with a CNI_NETNS that is the host's", env: map[string]string{"CNI_NETNS": l.host}})
	for _, w := range cases {
		c, err := l.newContainer()
		if err != nil {
			return err
		}
		out, err := l.call(ctx, "ADD", c, w)
		if err != nil {
			return err
		}
		if err := out.failed(); err != nil {
			return err
		}
		if err := errors.Join(l.clean(ctx, before), l.released(c)); err != nil {
			return fmt.Errorf("after an %s: %w", w.what, err)
		}
	}
	return nil
}

func checkTwoInterfaces(ctx context.Context, l *lab) error {
	if l.target.Kind == IPAM {
		return conformance.NotApplicable("an IPAM plugin makes no interface")
	}
	if l.target.loopback() {
		return conformance.NotApplicable("a container has one interface lo")
	}
	first, _, err := l.joined(ctx)
	if err != nil {
		return err
	}
	second, err := l.beside(first)
	if err != nil {
		return err
	}
	if _, err := l.addWith(ctx, second, with{what: "ADD of a second interface of the container"}); err != nil {
		return err
	}
	one, err := first.look()
	if err != nil {
		return err
	}
	other, err := second.look()
	if err != nil {
		return err
	}
	if one == nil || other == nil {
		return conformance.NotApplicable("ADD makes no interface %q in the kernel", first.ifName)
	}
	if err := l.del(ctx, second, "DEL of the second interface"); err != nil {
		return err
	}
	if err := second.empty(); err != nil {
		return err
	}
	still, err := first.look()
	if err != nil {
		return err
	}
	if still == nil || still.mac != one.mac {
		return fmt.Errorf("DEL of interface %q took %q away", second.ifName, first.ifName)
	}
	return nil
}

func again(times int) func(context.Context, *lab) error {
	return func(ctx context.Context, l *lab) error {
		c, err := l.newContainer()
		if err != nil {
			return err
		}
		for n := range times {
			if err := l.life(ctx, c); err != nil {
				return fmt.Errorf("ADD and DEL number %d of the same attachment: %w", n+1, err)
			}
			c.result = nil
		}
		return nil
	}
}

// canonical returns an address in the kernel's notation, or "".
func canonical(cidr string) string {
	ip, network, err := net.ParseCIDR(cidr)
	if err != nil {
		return ""
	}
	return (&net.IPNet{IP: ip, Mask: network.Mask}).String()
}
