package cnisuite

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/conformance"
)

// missing is the sentence behind the rules on what CHECK finds.
const missing = "The plugin should return an error if a resource included in the CNI Result type (interface, address or route) was created by the plugin, and is listed in prevResult, but is missing or in an invalid state."

// untracked is the sentence on what a result does not contain.
const untracked = "The plugin should return an error if other resources not tracked in the Result type such as the following are missing or are in an invalid state: Firewall rules, Traffic shaping controls, IP reservations, External dependencies such as a daemon required for connectivity, etc."

// checkRules are about CHECK; checkFaultRules are about what it must find.
func checkRules() []conformance.Rule[Target] {
	const must, should, advisory = conformance.Must, conformance.Should, conformance.Advisory
	return []conformance.Rule[Target]{
		checked(rule("CNI-CHECK-001", must, "CHECK succeeds right after ADD", "CHECK",
			"The plugin must handle CHECK being called immediately after an ADD, and therefore should allow a reasonable convergence delay for any asynchronous resources."), checkAfterAdd),
		checked(rule("CNI-CHECK-002", must, "CHECK without prevResult is an error, or else CHECK is seen to consult it", "CHECK",
			"The plugin must consult the prevResult to determine the expected interfaces and addresses."), checkNoPrevResult),
		checked(rule("CNI-CHECK-012", should, "CHECK passes on what the delegate's CHECK finds", "CHECK",
			"The plugin should call CHECK on any delegated (e.g. IPAM) plugins and pass any errors on to its caller."), checkDelegateFinds),
		checked(rule("CNI-CHECK-013", must, "CHECK executes the delegate, with the environment and configuration that it got", "Delegated plugin execution procedure",
			"If a plugin is executed with CNI_COMMAND=CHECK, DEL, or GC, it must also execute any delegated plugins."), checkDelegateInput("CHECK")),
		checked(rule("CNI-CHECK-014", must, "CHECK bears what a later plugin of the chain changed", "CHECK",
			"The plugin must allow for a later chained plugin to have modified networking resources, e.g. routes, on ADD."), checkLaterChanges),
		checked(rule("CNI-CHECK-015", must, "CHECK of a version that has no CHECK is an error of code 1", "Error",
			"1: Incompatible CNI version"), checkOldCheck),
		checked(rule("CNI-CHECK-016", advisory, "CHECK changes nothing", "CHECK",
			"CHECK is a way for a runtime to probe the status of an existing container."), checkLooks),
		checked(rule("CNI-CHECK-017", advisory, "CHECK is not alarmed by somebody who listens on the host's interfaces", "CHECK",
			"A runtime may assume that a failed CHECK means the container is permanently in a misconfigured state."), checkListener),
		checked(rule("CNI-CHECK-018", must, "CHECK works for a configuration without IPAM, if ADD does", "CHECK",
			"A runtime may execute CHECK from immediately after a successful ADD, up until the container is DELeted from the network."), checkWithoutIPAM),
	}
}

// hasCheck returns NotApplicable for plugins of older versions.
func (l *lab) hasCheck() error {
	if !l.speaks("0.4.0") {
		return conformance.NotApplicable("the plugin speaks %s at most, which has no CHECK", l.version)
	}
	return nil
}

// attached creates a container and runs its ADD.
func (l *lab) attached(ctx context.Context) (*container, *result, error) {
	if err := l.hasCheck(); err != nil {
		return nil, nil, err
	}
	return l.joined(ctx)
}

// check runs a CHECK that must succeed.
func (l *lab) check(ctx context.Context, c *container, w with) error {
	if w.what == "" {
		w.what = "CHECK"
	}
	out, err := l.call(ctx, "CHECK", c, w)
	if err != nil {
		return err
	}
	return out.ok(nil)
}

func checkAfterAdd(ctx context.Context, l *lab) error {
	c, _, err := l.attached(ctx)
	if err != nil {
		return err
	}
	if err := l.check(ctx, c, with{what: "CHECK right after ADD"}); err != nil {
		return err
	}
	if err := l.check(ctx, c, with{what: "second CHECK"}); err != nil {
		return err
	}
	for _, v := range l.versions {
		if v == l.version || !cni.AtLeast(v, "0.4.0") {
			continue
		}
		if err := l.checkIn(ctx, v); err != nil {
			return err
		}
	}
	return nil
}

// checkIn runs ADD and CHECK in requests of another version. An ADD that fails is
// left to another rule.
func (l *lab) checkIn(ctx context.Context, version string) error {
	c, err := l.newContainerOf(version)
	if err != nil {
		return err
	}
	keys := map[string]any{"cniVersion": version}
	out, err := l.call(ctx, "ADD", c, with{what: "ADD of cniVersion " + version, keys: keys})
	if err != nil || out.ok(new(any)) != nil {
		return err
	}
	c.result = out.stdout
	return l.check(ctx, c, with{what: "CHECK of cniVersion " + version + " right after ADD", keys: keys})
}

// checkNoPrevResult does not insist on an error: the specification does not say how
// to answer a runtime that omits prevResult, and a plugin may know the state by
// itself.
func checkNoPrevResult(ctx context.Context, l *lab) error {
	c, _, err := l.attached(ctx)
	if err != nil {
		return err
	}
	out, err := l.call(ctx, "CHECK", c, with{what: "CHECK without prevResult", keys: map[string]any{"prevResult": nil}})
	if err != nil || out.rc != 0 {
		return err
	}
	untrue := l.untrue(c)
	out, err = l.call(ctx, "CHECK", c, with{what: "CHECK", keys: map[string]any{"prevResult": untrue}})
	if err != nil {
		return err
	}
	if out.rc == 0 {
		return fmt.Errorf("CHECK succeeds without prevResult, and with one that is untrue: %s", untrue)
	}
	return out.ended()
}

// untrue is a result with addresses that neither the container nor its interface has.
func (l *lab) untrue(c *container) json.RawMessage {
	if l.target.Kind == IPAM {
		return fmt.Appendf(nil, `{"cniVersion":%q,"ips":[{"address":"192.0.2.77/24"}]}`, l.version)
	}
	const text = `{"cniVersion":%q,"interfaces":[{"name":%q,"mac":"02:00:00:00:43:21","sandbox":%q}],"ips":[{"address":"192.0.2.77/24","interface":0}]}`
	return fmt.Appendf(nil, text, l.version, c.ifName, c.ns)
}

func checkDelegateFinds(ctx context.Context, l *lab) error {
	if err := cmp.Or(l.hasCheck(), l.spied()); err != nil {
		return err
	}
	c, _, err := l.attached(ctx)
	if err != nil {
		return err
	}
	if err := l.ipam.answer(c, "CHECK", failing(111, "the suite's reservation is gone")); err != nil {
		return err
	}
	out, err := l.call(ctx, "CHECK", c, with{what: "CHECK whose delegate finds the reservation gone"})
	if err != nil {
		return err
	}
	return out.failed()
}

// checkLaterChanges adds a route. It also changes the hardware address of an
// interface that the plugin itself created, as in the specification's own example,
// unless the target specifies one.
func checkLaterChanges(ctx context.Context, l *lab) error {
	if l.target.Kind == IPAM {
		return conformance.NotApplicable("an IPAM plugin makes no interface")
	}
	c, r, err := l.attached(ctx)
	if err != nil {
		return err
	}
	if found, err := c.look(); err != nil {
		return err
	} else if found == nil || !found.up {
		return conformance.NotApplicable("there is no interface up in the container after ADD")
	}
	err = c.change(func(link netlink.Link) error {
		return netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Scope: linkScope, Dst: &net.IPNet{IP: net.IPv4(10, 125, 0, 0).To4(), Mask: net.CIDRMask(16, 32)}})
	})
	if err != nil {
		return err
	}
	if err := l.check(ctx, c, with{what: "CHECK after another plugin added a route"}); err != nil {
		return err
	}
	if err := l.checkMoreInResult(ctx, c); err != nil {
		return err
	}
	at := r.inside(c.ifName, c.ns)
	fixed := l.target.configures(func(key string, _ any) bool { return strings.EqualFold(key, "mac") })
	if l.target.Kind == Chained || at < 0 || r.Interfaces[at].Mac == "" || fixed || l.target.loopback() {
		return nil
	}
	return l.checkOtherMAC(ctx, c, r.Interfaces[at].Mac)
}

// checkMoreInResult creates another interface, as a later plugin of the chain does,
// whose final result contains it, with an address and dns.
func (l *lab) checkMoreInResult(ctx context.Context, c *container) error {
	later := &container{number: c.number, id: c.id, ns: c.ns, ifName: "later0"}
	if err := later.occupy(); err != nil {
		return err
	}
	var final map[string]any
	if err := json.Unmarshal(c.result, &final); err != nil {
		return err
	}
	nics, _ := final["interfaces"].([]any)
	ips, _ := final["ips"].([]any)
	address := map[string]any{"address": later.address().String(), "interface": len(nics)}
	if !cni.AtLeast(l.version, "1.0.0") {
		address["version"] = "4"
	}
	final["interfaces"] = append(nics, iface{Name: later.ifName, Sandbox: c.ns})
	final["ips"], final["dns"] = append(ips, address), map[string]any{"domain": "suite.example"}
	return l.check(ctx, c, with{
		what: "CHECK with the final result of a chain whose later plugin made another interface, with an address, and set dns",
		keys: map[string]any{"prevResult": final},
	})
}

// checkOtherMAC changes the hardware address both in the kernel and in the final
// result.
func (l *lab) checkOtherMAC(ctx context.Context, c *container, old string) error {
	const other = "02:00:00:00:12:34"
	err := c.change(func(link netlink.Link) error {
		mac, err := net.ParseMAC(other)
		return errors.Join(err, netlink.LinkSetHardwareAddr(link, mac))
	})
	if err != nil {
		l.log.Debug("the interface's address cannot be changed", "err", err)
		return nil
	}
	final := strings.ReplaceAll(string(c.result), old, other)
	return l.check(ctx, c, with{
		what: "CHECK after another plugin changed the interface's address, with that one in prevResult",
		keys: map[string]any{"prevResult": json.RawMessage(final)},
	})
}

func checkOldCheck(ctx context.Context, l *lab) error {
	c, _, err := l.attached(ctx)
	if err != nil {
		return err
	}
	asked := false
	for _, v := range []string{"0.3.0", "0.3.1"} {
		if !slices.Contains(l.versions, v) {
			continue
		}
		asked = true
		prev, err := l.oldResult(c, v)
		if err != nil {
			return err
		}
		w := with{what: "CHECK of cniVersion " + v, keys: map[string]any{"cniVersion": v, "prevResult": prev}}
		if err := l.refusal(ctx, "CHECK", c, w, 1); err != nil {
			return err
		}
	}
	if !asked {
		return conformance.NotApplicable("the plugin speaks no version that has results and no CHECK")
	}
	return nil
}

// oldResult is a result without anything that versions encode differently.
func (l *lab) oldResult(c *container, version string) (json.RawMessage, error) {
	return json.Marshal(map[string]any{
		"cniVersion": version, "interfaces": []iface{{Name: c.ifName, Sandbox: c.ns}},
	})
}

func checkLooks(ctx context.Context, l *lab) error {
	c, _, err := l.attached(ctx)
	if err != nil {
		return err
	}
	same, err := l.unchanged(c)
	if err != nil {
		return err
	}
	if err := l.check(ctx, c, with{}); err != nil {
		return err
	}
	if err := same(); err != nil {
		return fmt.Errorf("CHECK: %w", err)
	}
	return nil
}

// checkWithoutIPAM removes the delegate from the configuration.
func checkWithoutIPAM(ctx context.Context, l *lab) error {
	if l.target.Kind == IPAM || l.target.Kind == Meta {
		return conformance.NotApplicable("the rule is about plugins that can do without an IPAM plugin")
	}
	if err := l.hasCheck(); err != nil {
		return err
	}
	c, err := l.newContainer()
	if err != nil {
		return err
	}
	without := with{keys: map[string]any{"ipam": nil}}
	out, err := l.call(ctx, "ADD", c, without)
	if err != nil {
		return err
	}
	if out.rc != 0 {
		return conformance.NotApplicable("the plugin demands an IPAM plugin: %s", shorten(out.stdout))
	}
	c.result = out.stdout
	without.what = "CHECK of a configuration without ipam"
	return l.check(ctx, c, without)
}
