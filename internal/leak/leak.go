// Package leak audits what is left on a machine: it takes a snapshot of the kernel
// objects and files in a scope, and reports what a later snapshot has in addition. It
// reads only the kernel (/proc, /sys, netlink), so it sees what any program left, and
// changes nothing.
//
// Take sees the network of the calling thread's network namespace. It does not see
// iptables-legacy rules, but it does see iptables-nft rules. The package needs Linux;
// elsewhere Take returns an error. A Snapshot is immutable.
package leak

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Kind is a kind of thing that can be left behind.
type Kind string

// The kinds. In parentheses is how a thing's name begins, which Scope.Prefixes
// matches.
const (
	Mount      Kind = "mount"      // a mount in this mount namespace (mount point)
	Namespace  Kind = "namespace"  // a namespace pinned by a bind mount (path)
	Link       Kind = "link"       // a network interface (its name)
	Address    Kind = "address"    // an IP address (name of its interface)
	NFT        Kind = "nft"        // an nftables table, chain, rule, set or element (name of the table)
	Cgroup     Kind = "cgroup"     // a cgroup of any hierarchy, v1 or v2 (path below the hierarchy's mount)
	Process    Kind = "process"    // a process, threads and kernel threads excepted (process id)
	Descriptor Kind = "descriptor" // an open file of one of Scope.PIDs (process id)
	Loop       Kind = "loop"       // a loop device in use (path of the backing file)
	File       Kind = "file"       // a file or directory below Scope.Dirs (path)
	Route      Kind = "route"      // a route of any table that the kernel did not create by itself (name of its interface, or "-")
	Rule       Kind = "rule"       // a policy routing rule (its priority)
	Neighbour  Kind = "neighbour"  // a permanent neighbour, or one that is answered for (name of its interface)
	Forwarding Kind = "fdb"        // a static entry in the forwarding database of a bridge or a tunnel (name of its interface)
	Traffic    Kind = "tc"         // a queueing discipline, class or filter that was configured (name of its interface)
	Sysctl     Kind = "sysctl"     // a value below /proc/sys/net (path below /proc/sys)
	Content    Kind = "content"    // the content of a file below Scope.Dirs (path)
	// Audit is the kind of a finding that says why the audit itself was not possible.
	// No snapshot contains it.
	Audit Kind = "audit"
)

// Kinds returns all kinds that a snapshot can contain.
func Kinds() []Kind {
	return []Kind{Mount, Namespace, Link, Address, NFT, Cgroup, Process, Descriptor, Loop, File, Route, Rule, Neighbour, Forwarding, Traffic, Sysctl, Content}
}

// Scope says what an audit covers. Others use the same machine, so a scope should be
// as narrow as the tested subject allows. The zero value covers everything but
// descriptors and files, which need PIDs and Dirs.
type Scope struct {
	// Kinds are the kinds to look at. Empty means all.
	Kinds []Kind
	// Prefixes restricts a kind to things whose name begins with one of the strings.
	// A kind without an entry is not restricted. See the list of kinds for how names
	// begin.
	Prefixes map[Kind][]string
	// Marker restricts processes to the descendants of this process and to those that
	// carry the marker (see internal/procmark), such as the path of a temporary
	// directory. Empty means every process.
	Marker string
	// MarkedOnly excludes descendants that do not carry the marker: an audit needs it
	// if this process has other children at the same time.
	MarkedOnly bool
	// NetNS are network namespaces, in the form of the links in /proc
	// ("net:[4026531840]"). Their processes count even without a marker.
	NetNS []string
	// PIDs are the processes whose descriptors count.
	PIDs []int
	// Dirs are the directories below which files count.
	Dirs []string
}

func (s *Scope) has(kind Kind) bool {
	return len(s.Kinds) == 0 || slices.Contains(s.Kinds, kind)
}

func (s *Scope) matches(kind Kind, name string) bool {
	prefixes, restricted := s.Prefixes[kind]
	return !restricted || slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(name, p) })
}

// Leak is one thing that exists and should not.
type Leak struct {
	Kind Kind
	// Name identifies it, in the notation of the tool that shows it.
	Name string
}

// String returns kind and name.
func (l Leak) String() string { return fmt.Sprintf("%s %s", l.Kind, l.Name) }

// Snapshot is what existed at one time.
type Snapshot struct {
	scope Scope
	kinds map[Kind]things
}

// things are the things of one kind by identity. Several may share an identity:
// mounts on the same mount point, equal rules.
type things map[string]thing

type thing struct {
	name  string
	count int
}

func (t things) add(id, name string) {
	t[id] = thing{name: name, count: t[id].count + 1}
}

// Diff returns what after has in addition to s, sorted by kind and name. With the
// snapshots exchanged it returns what is gone.
func (s *Snapshot) Diff(after *Snapshot) []Leak {
	var leaks []Leak
	for _, kind := range Kinds() {
		var names []string
		for id, now := range after.kinds[kind] {
			for range now.count - s.kinds[kind][id].count {
				names = append(names, now.name)
			}
		}
		slices.Sort(names)
		for _, name := range names {
			leaks = append(leaks, Leak{kind, name})
		}
	}
	return leaks
}

// Settled takes snapshots of the same scope until nothing is left that was not there
// before, or until ctx ends; then it returns what is left. The kernel removes some
// things asynchronously, network namespaces above all, so an audit that looks only
// once blames the innocent. If the scope cannot be read, the finding is of kind
// Audit.
func Settled(ctx context.Context, before *Snapshot) []Leak {
	const first, last = 2 * time.Millisecond, 100 * time.Millisecond
	for wait := first; ; wait = min(2*wait, last) {
		leaks := before.again()
		if len(leaks) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return leaks
		case <-time.After(wait):
		}
	}
}

func (s *Snapshot) again() []Leak {
	now, err := Take(s.scope)
	if err != nil {
		return []Leak{{Audit, err.Error()}}
	}
	return s.Diff(now)
}

// Names returns the names of a kind's things in the snapshot, sorted.
func (s *Snapshot) Names(kind Kind) []string {
	var names []string
	for _, t := range s.kinds[kind] {
		names = append(names, t.name)
	}
	return slices.Sorted(slices.Values(names))
}

// Processes returns the snapshot's processes: their start times, as in procstat, by
// id.
func (s *Snapshot) Processes() map[int]uint64 {
	all := make(map[int]uint64)
	for id := range s.kinds[Process] {
		var pid int
		var start uint64
		if _, err := fmt.Sscan(id, &pid, &start); err == nil { // as it was written
			all[pid] = start
		}
	}
	return all
}

// clone copies a scope, so that the snapshot does not depend on what the caller later
// does with its parts.
func (s Scope) clone() Scope {
	s.Kinds, s.PIDs, s.Dirs, s.NetNS = slices.Clone(s.Kinds), slices.Clone(s.PIDs), slices.Clone(s.Dirs), slices.Clone(s.NetNS)
	s.Prefixes = maps.Clone(s.Prefixes)
	return s
}
