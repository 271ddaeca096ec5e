package cnisuite

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/nodekit-project/nodekit/internal/leak"
	"github.com/nodekit-project/nodekit/internal/netns"
)

// settleTime is how long the kernel may take to remove what a DEL released.
const settleTime = 3 * time.Second

// network are the kinds of a network namespace.
func network() []leak.Kind { return append(standingKinds(), leak.Sysctl) }

// scope is the host's side of the lab: its namespace, processes, mounts and the
// plugin's files.
func (l *lab) scope() leak.Scope {
	return l.scopeOf(append(network(), leak.Process, leak.File, leak.Mount, leak.Namespace)...)
}

func (l *lab) scopeOf(kinds ...leak.Kind) leak.Scope {
	dirs := append([]string{l.state()}, l.target.Dirs...)
	dirs = slices.DeleteFunc(dirs, func(dir string) bool { _, err := os.Stat(dir); return err != nil })
	return leak.Scope{
		Kinds:  kinds,
		Marker: l.dir, MarkedOnly: true, NetNS: l.spaces(), Dirs: dirs,
		Prefixes: map[leak.Kind][]string{leak.Mount: append([]string{l.dir}, l.target.Dirs...)},
	}
}

// spaces returns the lab's network namespaces as the kernel names them. A process in
// one of them is the plugin's, whatever else it has detached from: its parent, its
// session, its environment. A namespace that is no longer pinned is left out, because
// its number may be reused by now.
func (l *lab) spaces() []string {
	var names []string
	for _, path := range append([]string{l.host}, l.pinned()...) {
		if name, err := nameOf(path); err == nil {
			names = append(names, name)
		}
	}
	return names
}

// pinned returns the paths of the containers' namespaces.
func (l *lab) pinned() []string {
	var paths []string
	for _, c := range l.made {
		paths = append(paths, c.ns)
	}
	slices.Sort(paths)
	return slices.Compact(paths)
}

// snapshot is everything of the host that a rule may compare later.
func (l *lab) snapshot() (*leak.Snapshot, error) { return takeIn(l.host, l.scope()) }

// inside is everything of a container's network.
func (l *lab) inside(c *container) (*leak.Snapshot, error) {
	return takeIn(c.ns, leak.Scope{Kinds: network()})
}

func takeIn(ns string, scope leak.Scope) (s *leak.Snapshot, err error) {
	err = netns.Do(ns, func() error {
		s, err = leak.Take(scope)
		return err
	})
	return s, err
}

// clean reports what the host has in addition to the snapshot, except for what the
// target shares.
func (l *lab) clean(ctx context.Context, before *leak.Snapshot) error {
	return l.settled(ctx, func() ([]leak.Leak, error) {
		now, err := l.snapshot()
		if err != nil {
			return nil, err
		}
		return before.Diff(now), nil
	})
}

// settled looks until nothing is left or settleTime is over: the kernel removes some
// things asynchronously.
func (l *lab) settled(ctx context.Context, look func() ([]leak.Leak, error)) error {
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	for wait := 2 * time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		left, err := look()
		if err != nil {
			return err
		}
		if left = slices.DeleteFunc(left, l.mayStay); len(left) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("left behind: %s", list(left))
		case <-time.After(wait):
		}
	}
}

// list shortens the list for people: a leaked interface alone has dozens of sysctls.
func list(leaks []leak.Leak) string {
	const most = 12
	more := ""
	if len(leaks) > most {
		more = fmt.Sprintf(" and %d more", len(leaks)-most)
		leaks = leaks[:most]
	}
	return fmt.Sprint(leaks) + more
}

// mayStay excludes what the target shares, what its daemon and the kernel do by
// themselves, and pins of network namespaces outside the lab.
func (l *lab) mayStay(found leak.Leak) bool {
	words := strings.FieldsFunc(found.Name, func(c rune) bool { return c == ' ' || c == '(' || c == ')' })
	path := ""
	if len(words) > 0 {
		path = words[0]
	}
	for _, name := range l.target.Shared {
		if slices.Contains(words, name) || path == name || strings.HasPrefix(path, name+"/") ||
			found.Kind == leak.Sysctl && slices.Contains(strings.Split(path, "/"), name) || filepath.Base(path) == name {
			return true
		}
	}
	if l.isHostEnd(found.Kind, words) {
		return true
	}
	switch found.Kind {
	case leak.Process:
		group, err := syscall.Getpgid(pidOf(found.Name))
		return err == nil && l.daemon != 0 && group == l.daemon
	case leak.Address:
		return strings.Contains(found.Name, " fe80:")
	case leak.Namespace, leak.Mount:
		return !l.pins(found.Name)
	}
	return false
}

// isHostEnd reports whether the words are about the host end of an interface that the
// suite itself created for a chained plugin: that is CNI-DEL-005's.
func (l *lab) isHostEnd(kind leak.Kind, words []string) bool {
	if !slices.Contains(append(hungKinds(), leak.Link, leak.Address, leak.Route, leak.Sysctl), kind) {
		return false
	}
	return slices.ContainsFunc(l.made, func(c *container) bool {
		return c.hostEnd != "" && slices.ContainsFunc(words, func(word string) bool {
			return slices.Contains(strings.Split(word, "/"), c.hostEnd)
		})
	})
}

// pidOf returns the id in the name of a process in a snapshot, or 0.
func pidOf(name string) int {
	first, _, _ := strings.Cut(name, " ")
	pid, _ := strconv.Atoi(first)
	return pid
}

// pins reports whether a mount pins one of the lab's namespaces, or is in one of the
// plugin's directories, and is not the suite's own.
func (l *lab) pins(mount string) bool {
	path, _, _ := strings.Cut(mount, " (")
	if filepath.Dir(path) == l.dir {
		return false // the suite's own pins
	}
	for _, dir := range append([]string{l.dir}, l.target.Dirs...) {
		if strings.HasPrefix(path, dir+"/") {
			return true
		}
	}
	return slices.ContainsFunc(l.made, func(c *container) bool {
		if !strings.Contains(mount, "("+c.nsName+")") {
			return false
		}
		return c.there() // otherwise the number may be reused by now
	})
}

// unchanged reports what has changed on the host, in the container unless it is nil,
// and in the plugin's files: for commands that only look.
func (l *lab) unchanged(c *container) (func() error, error) {
	take := func() (all []*leak.Snapshot, err error) {
		scope := l.scope()
		scope.Kinds = append(scope.Kinds, leak.Content)
		host, err := takeIn(l.host, scope)
		if err != nil || c == nil {
			return []*leak.Snapshot{host}, err
		}
		inside, err := l.inside(c)
		return []*leak.Snapshot{host, inside}, err
	}
	before, err := take()
	return func() error {
		after, err := take()
		if err != nil {
			return err
		}
		for i, where := range []string{"on the host", "in the container"}[:len(after)] {
			more := slices.DeleteFunc(before[i].Diff(after[i]), l.mayStay)
			less := slices.DeleteFunc(after[i].Diff(before[i]), l.mayStay)
			if len(more)+len(less) > 0 {
				return fmt.Errorf("it changed things %s: new %s, gone %s", where, list(more), list(less))
			}
		}
		return nil
	}, err
}
