package main

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

var (
	opsCount = flag.Int("ops", 1000, "how many operations TestRandomOperations makes; make soak makes 10000")
	opsSeed  = flag.Uint64("ops-seed", 0, "what TestRandomOperations draws from; 0 takes the time")
)

// TestRandomOperations makes operations in a random order, as a runtime may,
// several at once, with kill -9 in the middle of them and between the plugins
// of one, containers that die under them and machines that reboot. An oracle
// knows what must be there: attachments that live pass CHECK and share no
// address, and nothing is left of the others.
//
// What is drawn for a step depends on the seed and the step's number alone.
// Where in its work a killed plugin is met depends on the machine.
func TestRandomOperations(t *testing.T) {
	testenv.Require(t, testenv.Root, testenv.NFT)
	seed := *opsSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("to repeat: go test ./cmd/cni -run TestRandomOperations -ops %d -ops-seed %d", *opsCount, seed)
	w := newWorld(t)
	const quiet, drain = 60, 240 // operations
	var quietAt, drainAt int
	for step := uint64(0); w.ops < *opsCount; step++ {
		w.rand = rand.New(rand.NewPCG(seed, step))
		w.step()
		if w.ops >= drainAt+drain {
			drainAt, quietAt = w.ops, w.ops
			w.drain()
		}
		if w.ops >= quietAt+quiet {
			quietAt = w.ops
			w.quiet()
		}
	}
	w.drain()
	t.Logf("%d operations, %d killed, %d reboots: %v", w.ops, w.kills, w.reboots, w.made)
}

// step makes the operations of one step: one that stands alone, or some on
// different containers at once. A runtime never makes two on one container.
func (w *world) step() {
	w.t.Helper()
	switch n := w.rand.IntN(100); {
	case n < 5:
		w.gc(w.networks[w.rand.IntN(len(w.networks))])
	case n < 8:
		w.status(w.networks[w.rand.IntN(len(w.networks))])
	case n < 11:
		w.clash()
	case n < 14:
		w.again()
	case n < 15 && w.rand.IntN(3) == 0:
		w.reboot()
	case n < 22:
		w.die(w.containers[w.rand.IntN(len(w.containers))])
	default:
		w.several()
	}
}

// several makes operations on some containers at once.
func (w *world) several() {
	var wg sync.WaitGroup
	for _, i := range w.rand.Perm(len(w.containers))[:1+w.rand.IntN(4)] {
		c := w.containers[i]
		a := c.attachments[w.rand.IntN(len(c.attachments))]
		run := w.choose(a)
		wg.Go(run)
	}
	wg.Wait()
	if w.t.Failed() {
		w.t.FailNow()
	}
}

// choose draws an operation that a runtime may make on the attachment as it is.
func (w *world) choose(a *attachment) (run func()) {
	d := w.drawDelivery()
	if !a.c.alive && a.state == absent && !a.c.busy() {
		w.revive(a.c)
	}
	switch n := w.rand.IntN(10); {
	case a.state == absent && a.c.alive && n < 9:
		return func() { w.add(a, d) }
	case a.state == live && a.c.alive && n < 4:
		return func() { w.check(a, d) }
	}
	return func() { w.del(a, d) }
}

// delivery is how an operation goes wrong, if it does, and what its runtime
// still knows.
type delivery struct {
	killed   bool    // a plugin is killed
	plugin   int     // which of the chain
	at       float64 // when, as a part of the time that it usually takes
	cut      bool    // the runtime dies between the plugins
	noPrev   bool    // DEL: the result is lost
	noNetNS  bool    // DEL: the network namespace's path is lost
	noConfig bool    // DEL: the runtime's configuration is lost
}

func (w *world) drawDelivery() delivery {
	d := delivery{
		killed: w.rand.IntN(100) < 40, plugin: w.rand.IntN(2), at: 1.3 * w.rand.Float64(), cut: w.rand.IntN(100) < 5,
		noPrev: w.rand.IntN(4) == 0, noNetNS: w.rand.IntN(4) == 0, noConfig: w.rand.IntN(4) == 0,
	}
	return d
}

func (w *world) add(a *attachment, d delivery) {
	w.note(a, "ADD", d)
	result, err := w.chain("ADD", a, d)
	switch {
	case err == nil:
		w.lives(a, result)
	case isKill(err):
		a.state = dirty
	default:
		w.fail(a, "ADD: %v", err)
	}
}

func (w *world) del(a *attachment, d delivery) {
	w.note(a, "DEL", d)
	_, err := w.chain("DEL", a, d)
	switch {
	case err == nil:
		a.state, a.result = absent, nil
	case isKill(err):
		a.state = dirty
	default:
		w.fail(a, "DEL: %v", err)
	}
}

func (w *world) check(a *attachment, d delivery) {
	w.note(a, "CHECK", d)
	if _, err := w.chain("CHECK", a, d); err != nil && !isKill(err) {
		w.fail(a, "CHECK of a living attachment: %v", err)
	}
}

// status must succeed: there are more addresses than attachments.
func (w *world) status(n *network) {
	w.count("STATUS")
	for _, kind := range []string{"bridge", "portmap"} {
		if _, err := w.exec(kind, map[string]string{"CNI_COMMAND": "STATUS"}, n.config(kind), 0); err != nil {
			w.t.Fatalf("STATUS of %s, %s: %v", n.name, kind, err)
		}
	}
}

// gc keeps what lives. Of dead containers it sometimes keeps one, as a runtime
// does that has not seen the death.
func (w *world) gc(n *network) {
	w.count("GC")
	d := w.drawDelivery()
	var valid []cni.Attachment
	kept := map[*attachment]bool{}
	for _, a := range w.attachments(n) {
		if a.state == live && (a.c.alive || w.rand.IntN(2) == 0) {
			kept[a] = true
			valid = append(valid, a.id())
		}
	}
	for i, kind := range []string{"bridge", "portmap"} {
		config := n.config(kind)
		config["cni.dev/valid-attachments"] = validList(valid)
		_, err := w.exec(kind, map[string]string{"CNI_COMMAND": "GC"}, config, d.kill(i))
		if isKill(err) {
			w.dirtyAll(n, kept)
			return
		}
		if err != nil {
			w.t.Fatalf("GC of %s, %s: %v", n.name, kind, err)
		}
	}
	w.collected(n, kept)
}

// collected looks for what GC should have removed, and takes it as gone. Pairs
// may take the kernel a moment, so quiet looks for those.
func (w *world) collected(n *network, kept map[*attachment]bool) {
	owners, reserved := w.ruleOwners(), w.reservations()
	for _, a := range w.attachments(n) {
		if kept[a] {
			continue
		}
		a.history = append(a.history, "GC removed it")
		if owners[a.String()] {
			w.fail(a, "rules are left after a GC that did not keep it")
		}
		for ip := range a.ips {
			if a.state == live && reserved[n.name+"/"+ip] {
				w.fail(a, "%s is still reserved after a GC that did not keep it", ip)
			}
		}
		a.state = absent
	}
}

// dirtyAll notes that a GC was killed that may have removed anything but the
// kept.
func (w *world) dirtyAll(n *network, kept map[*attachment]bool) {
	for _, a := range w.attachments(n) {
		if !kept[a] && a.state == live {
			a.history = append(a.history, "a GC that did not keep it was killed")
			a.state = dirty
		}
	}
}

func validList(valid []cni.Attachment) []map[string]string {
	list := []map[string]string{}
	for _, v := range valid {
		list = append(list, map[string]string{"containerID": v.ContainerID, "ifname": v.IfName})
	}
	return list
}

// again repeats the ADD of what lives: it must be refused and harm nothing.
func (w *world) again() {
	a := w.pick(func(a *attachment) bool { return a.state == live && a.c.alive })
	if a == nil {
		return
	}
	w.note(a, "ADD again", delivery{})
	if _, err := w.exec("bridge", a.env("ADD", delivery{}), a.n.config("bridge"), 0); err == nil {
		w.fail(a, "a second ADD succeeded")
	}
	w.check(a, delivery{})
}

// clash asks for a host port that another container's attachment has: the ADD must
// fail, and the DEL behind it must leave the other's port alone.
func (w *world) clash() {
	a := w.pick(func(a *attachment) bool { return a.state == absent && a.c.alive })
	if a == nil {
		return
	}
	other := w.pick(func(o *attachment) bool { return o.state == live && o.c.alive && o.c != a.c })
	if other == nil {
		return
	}
	w.note(a, fmt.Sprintf("ADD with the port of %v", other), delivery{})
	own := a.port
	a.port = other.port
	_, err := w.chain("ADD", a, delivery{})
	if err == nil {
		w.fail(a, "ADD took a host port of %v", other)
	}
	w.del(a, delivery{})
	a.port = own
	w.check(other, delivery{})
}
