package cnisuite

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/nodekit-project/nodekit/conformance"
	"github.com/nodekit-project/nodekit/internal/leak"
)

// prevRules are about the result of the plugins before.
func prevRules() []conformance.Rule[Target] {
	return []conformance.Rule[Target]{
		checked(rule("CNI-ADD-012", conformance.Must, "the result has what prevResult had", "ADD",
			"If the plugin was supplied a prevResult as part of its input configuration, it MUST handle prevResult by either passing it through, or modifying it appropriately."), checkPrevKept),
		checked(rule("CNI-ADD-013", conformance.Must, "a plugin that changes nothing outputs prevResult", "ADD Success",
			"If a plugin makes no changes that would be reflected in the Success result type, then it must output a result equivalent to the provided prevResult."), checkPrevEqual),
	}
}

// previous is a prevResult with something of everything: of the interface that
// the chained plugin adjusts, or of another one in the container.
func (l *lab) previous(c *container) (json.RawMessage, error) {
	prev := c.prev
	if prev == nil {
		other := &container{number: c.number, id: c.id, ns: c.ns, ifName: "prev0"}
		if err := errors.Join(other.occupy(), other.raise()); err != nil {
			return nil, err
		}
		var err error
		if prev, err = l.prevResult(other, l.version); err != nil {
			return nil, err
		}
	}
	const dns = `,"dns":{"nameservers":["192.0.2.53"],"domain":"suite.example","search":["suite.example"],"options":["ndots:2"]}}`
	return append(bytes.TrimSuffix(prev, []byte("}")), dns...), nil
}

// checkPrevKept passes a plugin over that makes interfaces and refuses to be in a
// chain: there is no harm in that.
func checkPrevKept(ctx context.Context, l *lab) error {
	if err := l.describes(); err != nil {
		return err
	}
	c, err := l.newContainer()
	if err != nil {
		return err
	}
	prev, err := l.previous(c)
	if err != nil {
		return err
	}
	out, err := l.call(ctx, "ADD", c, with{what: "ADD with a prevResult", keys: map[string]any{"prevResult": prev}})
	if err != nil {
		return err
	}
	if out.failed() == nil && l.target.Kind != Chained {
		return conformance.NotApplicable("the plugin refuses to be in a chain: %s", shorten(out.stdout))
	}
	var old, now result
	if err := errors.Join(json.Unmarshal(prev, &old), out.ok(&now)); err != nil {
		return err
	}
	return l.stillTold(old, now, out)
}

// stillTold expects of what prevResult had that the result has it, too, if the
// kernel still has: what the plugin took away is modified appropriately. The
// kernel does not know of dns.
func (l *lab) stillTold(old, now result, out *answer) error {
	for at, i := range old.Interfaces {
		nics, err := nicsIn(l.place(i.Sandbox))
		if err != nil {
			return err
		}
		seen := nics[i.Name]
		if seen == nil {
			continue
		}
		if now.inside(i.Name, i.Sandbox) < 0 {
			return fmt.Errorf("prevResult has interface %q (sandbox %q), which is there, and the result lacks it: %s", i.Name, i.Sandbox, out.stdout)
		}
		for _, ip := range old.IPs {
			if *ip.Interface == at && seen.addresses[canonical(ip.Address)] && !now.has(ip.Address) {
				return fmt.Errorf("prevResult has the address %s, which is there, and the result lacks it: %s", ip.Address, out.stdout)
			}
		}
	}
	return nil
}

// has says whether one of the result's addresses is that, with any length of its
// prefix where none is asked for.
func (r *result) has(address string) bool {
	bare, _, prefixed := strings.Cut(address, "/")
	for _, ip := range r.IPs {
		if prefixed && canonical(ip.Address) == canonical(address) {
			return true
		}
		if told, _, err := net.ParseCIDR(ip.Address); err == nil && !prefixed && told.Equal(net.ParseIP(bare)) {
			return true
		}
	}
	return false
}

func checkPrevEqual(ctx context.Context, l *lab) error {
	if l.target.Kind != Chained {
		return conformance.NotApplicable("the plugin is not a chained one")
	}
	if err := l.describes(); err != nil {
		return err
	}
	c, err := l.newContainer()
	if err != nil {
		return err
	}
	prev, err := l.previous(c)
	if err != nil {
		return err
	}
	before, err := l.reflected(c)
	if err != nil {
		return err
	}
	out, err := l.call(ctx, "ADD", c, with{what: "ADD with a prevResult", keys: map[string]any{"prevResult": prev}})
	if err != nil {
		return err
	}
	var old, now any
	if err := errors.Join(json.Unmarshal(prev, &old), out.ok(&now)); err != nil {
		return err
	}
	after, err := l.reflected(c)
	if err != nil {
		return err
	}
	if !slices.Equal(before, after) {
		return conformance.NotApplicable("the plugin changes interfaces, addresses or routes")
	}
	if where := lacks(old, now); where != "" {
		return fmt.Errorf("ADD changed nothing, and the result differs from prevResult at %s: %s, prevResult was %s", where, out.stdout, prev)
	}
	return nil
}

// reflected is what a result would tell of: the interfaces, addresses and routes
// of container and host.
func (l *lab) reflected(c *container) ([]string, error) {
	var all []string
	for _, ns := range []string{c.ns, l.host} {
		s, err := takeIn(ns, leak.Scope{Kinds: []leak.Kind{leak.Address, leak.Route}})
		if err != nil {
			return nil, err
		}
		all = slices.Concat(all, s.Names(leak.Address), s.Names(leak.Route))
		links, err := linksIn(ns)
		if err != nil {
			return nil, err
		}
		for name, link := range links {
			all = append(all, fmt.Sprint(name, link.Type(), link.Attrs().HardwareAddr, link.Attrs().MTU))
		}
	}
	all = slices.DeleteFunc(all, func(name string) bool { return strings.Contains(name, " fe80:") })
	slices.Sort(all)
	return all, nil
}

// lacks returns the first place where have has not what want has. More than that
// is no lack, nor is the case of letters.
func lacks(want, have any) string {
	switch want := want.(type) {
	case map[string]any:
		there, _ := have.(map[string]any)
		for key, value := range want {
			if where := lacks(value, there[key]); where != "" {
				return key + " " + where
			}
		}
		return ""
	case []any:
		there, _ := have.([]any)
		if len(there) < len(want) {
			return fmt.Sprintf("(%d elements instead of %d)", len(there), len(want))
		}
		for i, value := range want {
			if where := lacks(value, there[i]); where != "" {
				return fmt.Sprintf("%d %s", i, where)
			}
		}
		return ""
	}
	if strings.EqualFold(fmt.Sprint(want), fmt.Sprint(have)) {
		return ""
	}
	return fmt.Sprintf("(%v instead of %v)", have, want)
}
