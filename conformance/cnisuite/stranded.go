package cnisuite

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/nodekit-project/nodekit/conformance"
	"github.com/nodekit-project/nodekit/internal/leak"
	"github.com/nodekit-project/nodekit/internal/netns"
)

// The keys of a GC's list. Runtimes send both: the older one comes from a draft of
// 1.1.0.
const (
	validKey    = "cni.dev/valid-attachments"
	oldValidKey = "cni.dev/attachments"
)

// attachments returns the keys of a GC that names the containers.
func attachments(all ...*container) map[string]any {
	list := []map[string]string{}
	for _, c := range all {
		list = append(list, map[string]string{"containerID": c.id, "ifname": c.ifName})
	}
	return map[string]any{validKey: list, oldValidKey: list}
}

// collect runs a GC that must succeed and for which the containers are valid.
func (l *lab) collect(ctx context.Context, all ...*container) error {
	out, err := l.call(ctx, "GC", nil, with{keys: attachments(all...)})
	if err != nil {
		return err
	}
	return out.ok(nil)
}

// lists reports whether the plugin supports exactly that version.
func (l *lab) lists(version string) bool { return slices.Contains(l.versions, version) }

// stranded is an attachment that nobody will DEL, next to a valid one.
type stranded struct {
	valid  *container // or nil
	before *leak.Snapshot
	left   []leak.Leak
}

// nothingSeen is why a rule cannot see what GC does: for example for a plugin without
// state, or whose state is a daemon's.
type nothingSeen struct{ error }

func (n *nothingSeen) Unwrap() error { return n.error }

// strand attaches a container that stays, and another one whose interface then
// disappears without a DEL.
func (l *lab) strand(ctx context.Context, next func() (*container, error)) (*stranded, error) {
	s := &stranded{}
	if err := l.hasGC(); err != nil {
		return s, err
	}
	var err error
	if s.valid, err = l.newContainer(); err != nil {
		return s, err
	}
	if _, err := l.add(ctx, s.valid); err != nil {
		return s, err
	}
	return s, s.lose(ctx, l, next)
}

// strandAlone does the same without a container that stays.
func (l *lab) strandAlone(ctx context.Context) (*stranded, error) {
	s := &stranded{}
	return s, s.lose(ctx, l, l.newContainer)
}

func (s *stranded) lose(ctx context.Context, l *lab, next func() (*container, error)) error {
	var err error
	if s.before, err = l.snapshot(); err != nil {
		return err
	}
	c, err := next()
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

// remains returns what the host has in addition, after the kernel has removed the
// links that go with a namespace.
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
