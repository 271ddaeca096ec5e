package cnisuite

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nodekit-project/nodekit/internal/leak"
)

// holdings are the resources of an attachment at some time, and everything that
// existed before it. Whatever is done later about other attachments, these must stay.
type holdings struct {
	c        *container
	w        with           // of its CHECK
	well     bool           // CHECK succeeds
	host     *leak.Snapshot // with the plugin's files
	inside   *leak.Snapshot
	nic      *nic
	recorded bool // a file contains the container's id
	released int  // calls of the delegate for DEL
}

// holdings records what an attachment has now.
func (l *lab) holdings(ctx context.Context, c *container, w with) (*holdings, error) {
	h := &holdings{c: c, w: with{what: "CHECK of a valid attachment", keys: w.keys}}
	var err error
	if h.host, h.inside, err = l.around(c); err != nil {
		return nil, err
	}
	if h.nic, err = c.lookIfThere(); err != nil {
		return nil, err
	}
	if h.recorded, err = l.recorded(c); err != nil {
		return nil, err
	}
	if h.released, err = l.releases(c); err != nil || !l.speaks("0.4.0") {
		return h, err
	}
	out, err := l.call(ctx, "CHECK", c, h.w)
	h.well = err == nil && out.rc == 0
	return h, err
}

// around takes a snapshot of the host, and one of the container unless its namespace
// is gone.
func (l *lab) around(c *container) (host, inside *leak.Snapshot, err error) {
	kinds := standingKinds()
	if host, err = takeIn(l.host, l.scopeOf(append(kinds, leak.File)...)); err != nil {
		return nil, nil, err
	}
	if !c.there() {
		return host, nil, nil
	}
	inside, err = takeIn(c.ns, leak.Scope{Kinds: kinds})
	return host, inside, err
}

// recorded reports whether one of the plugin's files contains the container's id.
// Which one may change: a plugin may rewrite its files.
func (l *lab) recorded(c *container) (bool, error) {
	files, err := l.filesWith(func(_ string, text []byte) bool { return bytes.Contains(text, []byte(c.id)) })
	return len(files) > 0, err
}

// releases returns how often the delegate was called for DEL of the attachment.
func (l *lab) releases(c *container) (int, error) {
	calls, err := l.ipam.calls(c)
	return len(slices.DeleteFunc(commands(calls), func(command string) bool { return command != "DEL" })), err
}

// kept reports what has gone since: interfaces with what is attached to them,
// addresses, routes, firewall rules, files that are named after the container or its address, its record in others,
// its reservation at the delegate, or what CHECK finds.
func (h *holdings) kept(ctx context.Context, l *lab) error {
	host, inside, err := l.around(h.c)
	if err != nil {
		return err
	}
	lost := slices.DeleteFunc(host.Diff(h.host), func(found leak.Leak) bool { return !h.concerns(found) || l.mayStay(found) })
	if h.inside != nil && inside != nil {
		lost = append(lost, slices.DeleteFunc(inside.Diff(h.inside), l.mayStay)...)
	}
	if len(lost) > 0 {
		return fmt.Errorf("a valid attachment lost %s", list(lost))
	}
	if err := errors.Join(h.nicKept(), h.recordKept(l)); err != nil {
		return err
	}
	if !h.well {
		return nil // another rule is about a CHECK that always fails
	}
	out, err := l.call(ctx, "CHECK", h.c, h.w)
	if err != nil {
		return err
	}
	return out.ok(nil)
}

func (h *holdings) nicKept() error {
	now, err := h.c.lookIfThere()
	if err != nil || h.nic == nil || now == nil {
		return err
	}
	return h.nic.same(now)
}

func (h *holdings) recordKept(l *lab) error {
	recorded, err := l.recorded(h.c)
	if err != nil {
		return err
	}
	if h.recorded && !recorded {
		return fmt.Errorf("no file holds the id of a valid attachment's container any more, %s", h.c.id)
	}
	released, err := l.releases(h.c)
	if err == nil && released > h.released {
		err = errors.New("the delegate was called for DEL of a valid attachment")
	}
	return err
}

// concerns excludes files that need not be about the attachment: a plugin may create
// and remove those at any time.
func (h *holdings) concerns(found leak.Leak) bool {
	if found.Kind == leak.File {
		return strings.Contains(found.Name, h.c.id) || h.owns(filepath.Base(found.Name))
	}
	return standing(found)
}

func standingKinds() []leak.Kind {
	return append(hungKinds(), leak.Link, leak.Address, leak.NFT, leak.Route, leak.Rule)
}

// hungKinds are what is attached to interfaces.
func hungKinds() []leak.Kind { return []leak.Kind{leak.Neighbour, leak.Forwarding, leak.Traffic} }

// standing excludes what comes and goes as the plugin works.
func standing(found leak.Leak) bool {
	return slices.Contains(standingKinds(), found.Kind)
}

// owns reports whether a file's name is one of the attachment's addresses.
func (h *holdings) owns(name string) bool {
	var r result
	if json.Unmarshal(h.c.result, &r) != nil {
		return false
	}
	for _, a := range r.addresses() {
		if name == a.String() {
			return true
		}
	}
	return false
}
