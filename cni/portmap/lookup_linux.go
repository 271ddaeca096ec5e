package portmap

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/internal/nft"
)

// view is the table as one connection sees it.
type view struct {
	plugin *plugin
	conn   *nft.Conn
	rules  *nft.Ruleset
	owner  string // of the request's attachment
}

// maxAsked is how many elements are looked up by key; for more, listing is cheaper.
const maxAsked = 48

// find returns, for each element, what the table has under its key, or nil.
func (v *view) find(wanted []nft.Element) ([]*nft.Element, error) {
	if len(wanted) > maxAsked {
		return v.findInList(wanted)
	}
	keys, places := map[string][][]byte{}, map[string][]int{}
	for i, w := range wanted {
		keys[w.Set], places[w.Set] = append(keys[w.Set], w.Key), append(places[w.Set], i)
	}
	out := make([]*nft.Element, len(wanted))
	for set, list := range keys {
		found, err := v.conn.Get(v.rules, set, list...)
		if err != nil {
			return nil, err
		}
		for i, e := range found {
			out[places[set][i]] = e
		}
	}
	return out, nil
}

func (v *view) findInList(wanted []nft.Element) ([]*nft.Element, error) {
	all, err := v.conn.List(v.rules)
	if err != nil {
		return nil, err
	}
	place := func(e nft.Element) string { return e.Set + "\x00" + string(e.Key) }
	byPlace := make(map[string]*nft.Element, len(all))
	for i := range all {
		byPlace[place(all[i])] = &all[i]
	}
	out := make([]*nft.Element, len(wanted))
	for i, w := range wanted {
		out[i] = byPlace[place(w)]
	}
	return out, nil
}

// list returns the elements of the named sets.
func (v *view) list(sets ...string) ([]nft.Element, error) {
	some := &nft.Ruleset{Table: v.rules.Table}
	for _, s := range v.rules.Sets {
		for _, name := range sets {
			if s.Name == name {
				some.Sets = append(some.Sets, s)
			}
		}
	}
	return v.conn.List(some)
}

// install plans the elements that are missing. It replaces what another attachment
// left for the container's own address, but not a host port that another has. The
// rules are created first, and again if somebody removed one.
func (v *view) install(wanted []nft.Element) (change nft.Change, err error) {
	if err := v.conn.Ensure(v.rules); err != nil {
		return change, err
	}
	if err := v.refuseTaken(wanted); err != nil {
		return change, err
	}
	found, err := v.find(wanted)
	if err != nil {
		return change, err
	}
	for i, w := range wanted {
		h := found[i]
		switch {
		case h != nil && same(w, *h):
			continue
		case h != nil && shared(w, *h):
			continue
		case h != nil && isPort(w) && h.Owner != w.Owner:
			return nft.Change{}, taken(w, *h)
		case h != nil:
			change.Remove = append(change.Remove, *h)
		}
		change.Add = append(change.Add, w)
	}
	if err := v.summarize(wanted, &change); err != nil {
		return change, err
	}
	return change, v.forgetInterfaces(&change)
}

// forgetInterfaces removes interfaces that no longer exist when a new one is added:
// networks may have one for each container.
func (v *view) forgetInterfaces(change *nft.Change) error {
	if !slices.ContainsFunc(change.Add, func(e nft.Element) bool { return e.Set == back }) {
		return nil
	}
	gone, err := v.goneInterfaces()
	change.Remove = append(change.Remove, gone...)
	return err
}

func (v *view) goneInterfaces() (out []nft.Element, err error) {
	all, err := v.list(back, localnet)
	for _, e := range all {
		if isGone(ifaceOf(e)) {
			out = append(out, e)
		}
	}
	return out, err
}

// refuseTaken compares ports of every address with ports of a single address: they
// are in different maps, so the kernel would accept both.
func (v *view) refuseTaken(wanted []nft.Element) error {
	var single, every []nft.Element // what would conflict in the other map
	sets := map[string]bool{}
	for _, w := range wanted {
		for _, f := range families() {
			switch w.Set {
			case f.one:
				every = append(every, nft.Element{Set: f.any, Key: append(nft.Word(protocolOf(w)), portWord(hostPort(w))...), Value: w.Value})
			case f.any:
				single = append(single, w)
				sets[f.one] = true
			}
		}
	}
	found, err := v.find(every)
	if err != nil {
		return err
	}
	for i, h := range found {
		if h != nil && !sameContainer(h.Owner, v.owner) {
			return taken(every[i], *h)
		}
	}
	for set := range sets {
		have, err := v.list(set)
		if err != nil {
			return err
		}
		ports := map[[3]byte]nft.Element{}
		for _, h := range have {
			if !sameContainer(h.Owner, v.owner) { // another attachment of the same container may have the port, at another address
				ports[slotOf(h)] = h
			}
		}
		for _, w := range single {
			if h, ok := ports[slotOf(w)]; ok && len(h.Value) == len(w.Value) {
				return taken(w, h)
			}
		}
	}
	return nil
}

// sameContainer reports whether the owners are attachments of one container. Runtimes
// pass a container's mappings to each of its networks.
func sameContainer(a, b string) bool { return a == b || containerOf(a) == containerOf(b) }

// containerOf parses an owner from nft.Owner: it returns the container id or, for a
// long owner, a digest of id and interface.
func containerOf(owner string) string {
	_, attachment, _ := strings.Cut(owner, "/")
	id, _, _ := strings.Cut(attachment, "/")
	return id
}

// shared reports whether the element's host port already belongs to the same
// container by another of its networks. The first attachment that asked for it has it
// until its DEL.
func shared(w, h nft.Element) bool {
	return (isPort(w) || w.Set == quiet4) && h.Owner != w.Owner && sameContainer(h.Owner, w.Owner)
}

// slotOf returns protocol and port.
func slotOf(e nft.Element) [3]byte {
	n := hostPort(e)
	return [3]byte{protocolOf(e), byte(n >> 8), byte(n)}
}

func taken(w, h nft.Element) error {
	return cni.Errorf(cni.CodeExists, "host port %s is forwarded to %q already", portName(w), h.Owner)
}

// portName formats host port and protocol for people.
func portName(e nft.Element) string {
	name := map[byte]string{protoTCP: "tcp", protoUDP: "udp", protoSCTP: "sctp"}[protocolOf(e)]
	return fmt.Sprintf("%d/%s", hostPort(e), name)
}

// same reports whether the table has the element exactly as wanted.
func same(w, h nft.Element) bool {
	return h.Owner == w.Owner && bytes.Equal(h.Key, w.Key) && bytes.Equal(h.Value, w.Value)
}

// describe names an element in an error.
func describe(e nft.Element) string {
	switch {
	case isPort(e):
		return fmt.Sprintf("the forwarding of host port %s to %s", portName(e), targetOf(e))
	case e.Set == quiet4:
		return "the exception of 127.0.0.1 from host port " + portName(e)
	case e.Set == localnet:
		return "the guard of interface " + ifaceOf(e)
	case e.Set == back:
		return "the masquerading of what goes back by interface " + ifaceOf(e)
	case e.Set == families()[0].self || e.Set == families()[1].self:
		return "the masquerading of the container's connections to itself"
	}
	slot := nft.Element{Key: e.Key[:8]} // as in the port maps
	return "the masquerading of container port " + portName(slot)
}
