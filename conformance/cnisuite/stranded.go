package cnisuite

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/nodekit-project/nodekit/conformance"
	"github.com/nodekit-project/nodekit/internal/leak"
	"github.com/nodekit-project/nodekit/internal/netns"
)

// The keys of a GC's list. Runtimes send both: the older one is that of a draft
// of 1.1.0.
const (
	validKey    = "cni.dev/valid-attachments"
	oldValidKey = "cni.dev/attachments"
)

// attachments are the keys of a GC that names the containers.
func attachments(all ...*container) map[string]any {
	list := []map[string]string{}
	for _, c := range all {
		list = append(list, map[string]string{"containerID": c.id, "ifname": c.ifName})
	}
	return map[string]any{validKey: list, oldValidKey: list}
}

// collect runs a GC that must succeed; the containers are those that are valid.
func (l *lab) collect(ctx context.Context, all ...*container) error {
	out, err := l.call(ctx, "GC", nil, with{keys: attachments(all...)})
	if err != nil {
		return err
	}
	return out.silent()
}

// lists says whether the plugin speaks exactly that version.
func (l *lab) lists(version string) bool { return slices.Contains(l.versions, version) }

// stranded is an attachment that nobody will DEL, next to a valid one.
type stranded struct {
	valid  *container // or nil
	before *leak.Snapshot
	left   []leak.Leak
}

// nothingSeen is why a rule cannot tell what GC does: as for a plugin without
// state, or one whose state is a daemon's.
type nothingSeen struct{ error }

func (n *nothingSeen) Unwrap() error { return n.error }

// strand attaches a container that stays, and another one, whose interface then
// disappears without a DEL.
func (l *lab) strand(ctx context.Context, next func(context.Context) (*container, error)) (*stranded, error) {
	s := &stranded{}
	if err := l.hasGC(); err != nil {
		return s, err
	}
	var err error
	if s.valid, err = l.newContainer(ctx); err != nil {
		return s, err
	}
	if _, err := l.add(ctx, s.valid); err != nil {
		return s, err
	}
	return s, s.lose(ctx, l, next)
}

// strandAlone does it without one that stays.
func (l *lab) strandAlone(ctx context.Context) (*stranded, error) {
	s := &stranded{}
	return s, s.lose(ctx, l, l.newContainer)
}

func (s *stranded) lose(ctx context.Context, l *lab, next func(context.Context) (*container, error)) error {
	var err error
	if s.before, err = l.snapshot(); err != nil {
		return err
	}
	c, err := next(ctx)
	if err != nil {
		return err
	}
	if _, err := l.add(ctx, c); err != nil {
		return err
	}
	if s.valid != nil && s.valid.ns == c.ns {
		err = c.gone()
	} else {
		err = netns.Remove(c.ns)
	}
	if err != nil {
		return err
	}
	if s.left, err = l.remains(ctx, s.before); err != nil {
		return err
	}
	if len(s.left) == 0 {
		return &nothingSeen{conformance.NotApplicable("nothing of an attachment whose interface has gone can be seen: declare dirs if the plugin keeps state")}
	}
	return nil
}

// gone removes the container's interface, if there is one.
func (c *container) gone() error {
	seen, err := c.look()
	if err != nil || seen == nil {
		return err
	}
	return c.change(netlink.LinkDel)
}

// remains is what the host has more, once the kernel has taken away the links
// that go with a namespace.
func (l *lab) remains(ctx context.Context, before *leak.Snapshot) ([]leak.Leak, error) {
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	for {
		now, err := l.snapshot()
		if err != nil {
			return nil, err
		}
		left := slices.DeleteFunc(before.Diff(now), l.mayStay)
		if len(links(left)) == 0 {
			return left, nil
		}
		select {
		case <-ctx.Done():
			return left, nil
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func links(all []leak.Leak) []leak.Leak {
	return slices.DeleteFunc(slices.Clone(all), func(found leak.Leak) bool { return found.Kind != leak.Link })
}

// collected reports what a GC left of the stranded attachment.
func (s *stranded) collected(ctx context.Context, l *lab) error {
	err := l.clean(ctx, s.before)
	if err == nil || ctx.Err() != nil {
		return err
	}
	now, again := l.remains(ctx, s.before)
	if again != nil {
		return again
	}
	if reflect.DeepEqual(now, s.left) {
		return fmt.Errorf("not implemented: GC succeeded and removed nothing: %w", err)
	}
	return fmt.Errorf("GC removed a part only: %w", err)
}

// beside makes another attachment of the container, with an interface of another
// name.
func (l *lab) beside(of *container) (*container, error) {
	c := *of
	c.ifName, c.prev, c.result, c.owed = "net1", nil, nil, false
	l.made = append(l.made, &c)
	l.count++
	c.number = l.count
	if err := l.ipam.prepare(&c, l.version, l.count); err != nil || l.target.Kind != Chained {
		return &c, err
	}
	err := netns.Do(c.ns, func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = c.ifName
		pair := &netlink.Veth{LinkAttrs: attrs, PeerName: "suite-peer1"}
		return errors.Join(netlink.LinkAdd(pair), netlink.AddrAdd(pair, &netlink.Addr{IPNet: c.address()}))
	})
	if err != nil {
		return nil, err
	}
	c.prev, err = l.prevResult(&c, l.version)
	return &c, err
}

// keeping is an attachment of which everything must stay.
type keeping struct {
	c      *container
	w      with
	well   bool // CHECK succeeds
	host   *leak.Snapshot
	inside *leak.Snapshot
}

// keep attaches a container.
func (l *lab) keep(ctx context.Context, w with) (*keeping, error) {
	c, err := l.newContainer(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := l.addWith(ctx, c, w); err != nil {
		return nil, err
	}
	return l.holdings(ctx, c, w)
}

// holdings notes what an attachment has.
func (l *lab) holdings(ctx context.Context, c *container, w with) (*keeping, error) {
	k := &keeping{c: c, w: with{what: "CHECK", keys: w.keys}}
	var err error
	if k.host, err = l.snapshot(); err != nil {
		return nil, err
	}
	if k.inside, err = l.inside(c); err != nil {
		return nil, err
	}
	if !l.speaks("0.4.0") {
		return k, nil
	}
	out, err := l.call(ctx, "CHECK", c, k.w)
	k.well = err == nil && out.rc == 0
	return k, err
}

// kept reports what has gone: an interface, an address, a file that is named
// after the container, a reservation, or what CHECK finds.
func (k *keeping) kept(ctx context.Context, l *lab) error {
	host, err := l.snapshot()
	if err != nil {
		return err
	}
	inside, err := l.inside(k.c)
	if err != nil {
		return err
	}
	lost := slices.DeleteFunc(host.Diff(k.host), func(found leak.Leak) bool { return !k.concerns(found) })
	lost = append(lost, links(inside.Diff(k.inside))...)
	if len(lost) > 0 {
		return fmt.Errorf("a valid attachment lost %s", list(lost))
	}
	calls, err := l.ipam.calls(k.c)
	if err != nil {
		return err
	}
	if slices.Contains(commands(calls), "DEL") {
		return errors.New("the delegate was called for DEL of a valid attachment")
	}
	if !k.well {
		return nil
	}
	w := k.w
	w.what = "CHECK of a valid attachment"
	return l.check(ctx, k.c, w)
}

// concerns leaves out what others have on the same host.
func (k *keeping) concerns(found leak.Leak) bool {
	switch found.Kind {
	case leak.File:
		return strings.Contains(found.Name, k.c.id) || k.holds(found.Name)
	case leak.Link:
		return true
	}
	return false
}

// holds says whether the container's addresses are in a file's name.
func (k *keeping) holds(name string) bool {
	var r result
	if json.Unmarshal(k.c.result, &r) != nil {
		return false
	}
	for _, ip := range r.IPs {
		if address, _, _ := strings.Cut(ip.Address, "/"); strings.HasSuffix(name, string(os.PathSeparator)+address) {
			return true
		}
	}
	return false
}

// sameJSON compares documents by what they mean.
func sameJSON(sent, got []byte) error {
	var a, b map[string]any
	if err := errors.Join(decodeNumbers(sent, &a), decodeNumbers(got, &b)); err != nil {
		return fmt.Errorf("the delegate's configuration: %w: %s", err, shorten(got))
	}
	for key := range a {
		if !reflect.DeepEqual(a[key], b[key]) {
			return fmt.Errorf("the delegate got another %s: %v instead of %v", key, b[key], a[key])
		}
	}
	for key := range b {
		if _, ok := a[key]; !ok {
			return fmt.Errorf("the delegate got %s, which the plugin did not get", key)
		}
	}
	return nil
}

// sameEnv compares the variables that are CNI's.
func sameEnv(sent, got map[string]string) error {
	foreign := func(name, _ string) bool { return !strings.HasPrefix(name, "CNI_") }
	sent, got = maps.Clone(sent), maps.Clone(got)
	maps.DeleteFunc(sent, foreign)
	maps.DeleteFunc(got, foreign)
	if !maps.Equal(sent, got) {
		return fmt.Errorf("the delegate got the variables %v instead of %v", got, sent)
	}
	return nil
}
