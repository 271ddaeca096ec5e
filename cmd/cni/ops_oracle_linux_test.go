package main

import (
	"context"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/nodekit-project/nodekit/internal/leak"
	"github.com/nodekit-project/nodekit/internal/netns"
	"github.com/nodekit-project/nodekit/internal/redump"
)

// clean ends what is dirty or dead, as a runtime does at last.
func (w *world) clean() {
	w.t.Helper()
	w.each(func(a *attachment, d delivery) {
		if a.state == dirty || a.state == live && !a.c.alive {
			w.del(a, d)
		}
	})
}

// each does something for every attachment, on all containers at once.
func (w *world) each(do func(*attachment, delivery)) {
	w.t.Helper()
	var wg sync.WaitGroup
	for _, c := range w.containers {
		d := w.drawDelivery()
		d.killed, d.cut = false, false
		wg.Go(func() {
			for _, a := range c.attachments {
				do(a, d)
			}
		})
	}
	wg.Wait()
	if w.t.Failed() {
		w.t.FailNow()
	}
}

// quiet compares what is there with what shall be there.
func (w *world) quiet() {
	w.t.Helper()
	w.clean()
	w.each(func(a *attachment, d delivery) {
		if a.state == live {
			w.check(a, d)
		}
	})
	owners, reserved, links := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, c := range w.containers {
		for _, a := range c.attachments {
			if a.state == live {
				owners[a.String()], links[a.link] = true, true
				for ip := range a.ips {
					reserved[a.n.name+"/"+ip] = true
				}
			}
		}
	}
	w.same("owners of rules", owners, w.ruleOwners())
	w.same("reservations", reserved, w.reservations())
	w.links(links)
	if w.t.Failed() {
		w.t.FailNow()
	}
}

func (w *world) same(what string, want, got map[string]bool) {
	w.t.Helper()
	for key := range want {
		if !got[key] {
			w.t.Errorf("after %d operations: %s: %s is missing%s", w.ops, what, key, w.historyOf(key))
		}
	}
	for key := range got {
		if !want[key] {
			w.t.Errorf("after %d operations: %s: %s is left%s", w.ops, what, key, w.historyOf(key))
		}
	}
}

func (w *world) historyOf(owner string) string {
	for _, c := range w.containers {
		for _, a := range c.attachments {
			if a.String() == owner || a.link == owner {
				return "; its history:\n  " + strings.Join(a.history[max(0, len(a.history)-15):], "\n  ")
			}
		}
	}
	return ""
}

// comment finds owners, which have no blank, as the comment of our rules has.
var comment = regexp.MustCompile(`comment "([^" ]*)"`)

// ruleOwners returns who has elements in nftables.
func (w *world) ruleOwners() map[string]bool {
	w.t.Helper()
	var out []byte
	err := netns.Do(w.host, func() (err error) {
		out, err = exec.Command("nft", "list", "ruleset").CombinedOutput()
		return err
	})
	if err != nil {
		w.t.Fatalf("%v: %s", err, out)
	}
	owners := map[string]bool{}
	for _, m := range comment.FindAllSubmatch(out, -1) {
		owners[string(m[1])] = true
	}
	return owners
}

func (w *world) reservations() map[string]bool {
	w.t.Helper()
	reserved := map[string]bool{}
	for _, n := range w.networks {
		entries, err := os.ReadDir(filepath.Join(n.data, n.name))
		if err != nil {
			w.t.Fatal(err)
		}
		for _, e := range entries {
			if ip := net.ParseIP(e.Name()); ip != nil {
				reserved[n.name+"/"+ip.String()] = true
			}
		}
	}
	return reserved
}

// links waits for the kernel's removals and compares the pairs on the machine.
func (w *world) links(want map[string]bool) {
	w.t.Helper()
	var got map[string]bool
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		got = map[string]bool{}
		err := netns.Do(w.host, func() error {
			all, err := redump.List(netlink.LinkList)
			for _, l := range all {
				if l.Type() == "veth" {
					got[l.Attrs().Name] = true
				}
			}
			return err
		})
		if err == nil && maps.Equal(got, want) {
			return
		}
	}
	w.same("interfaces", want, got)
}

// drain ends every attachment: then the machine must be as after its start.
func (w *world) drain() {
	w.t.Helper()
	w.quiet()
	w.each(w.del)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	var left []leak.Leak
	err := netns.Do(w.host, func() error {
		left = leak.Settled(ctx, w.before)
		return nil
	})
	if err != nil || len(left) > 0 {
		w.t.Fatalf("after %d operations and DEL of all: %v, left: %v", w.ops, err, left)
	}
}

// look takes a snapshot of the machine.
func (w *world) look() (s *leak.Snapshot, err error) {
	err = netns.Do(w.host, func() (err error) {
		s, err = leak.Take(leak.Scope{
			Kinds:  []leak.Kind{leak.Link, leak.Address, leak.NFT, leak.Process, leak.File},
			Marker: w.bin, Dirs: []string{filepath.Join(w.dir, "data")},
		})
		return err
	})
	return s, err
}
