package cniruntimesuite

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nodekit-project/nodekit/conformance"
)

const lifecycle = "3, Lifecycle & Ordering"

// lifeRules are about when a runtime calls plugins.
func lifeRules() []conformance.Rule[Target] {
	killed := rule("CNIRT-005", "an ADD that the runtime's death interrupted gets its DEL", lifecycle,
		"The container runtime must ensure that add is eventually followed by a corresponding delete.", interruptedAdd)
	killed.Tier = conformance.Crash
	return []conformance.Rule[Target]{
		rule("CNIRT-001", "the container's network namespace is there before any plugin runs", lifecycle,
			"The container runtime must create a new network namespace for the container before invoking any plugins.", namespaceFirst),
		rule("CNIRT-002", "the container's network namespace is removed in the end", lifecycle,
			"The container runtime is responsible for cleanup of the container's network namespace.", namespaceRemoved),
		rule("CNIRT-003", "operations of one container exclude each other", lifecycle,
			"The container runtime must not invoke parallel operations for the same container [...]. This includes across multiple attachments.", oneAtATime),
		rule("CNIRT-004", "an ADD that failed gets its DEL", lifecycle,
			"A delete must still be executed even if the add fails.", failedAdd),
		killed,
		rule("CNIRT-006", "no CHECK comes before ADD or after DEL", "2, CHECK",
			"A runtime must not call CHECK for a container that has not been ADDed, or has been DELeted after its last ADD.", noCheckWithoutAdd),
		at(conformance.Should, rule("CNIRT-007", "no ADD follows another without a DEL between them, also where the plugin asks to be tried again later", "2, ADD",
			"A runtime should not call ADD twice (without an intervening DEL) for the same (CNI_CONTAINERID, CNI_IFNAME) tuple.", noSecondAdd)),
		at(conformance.Advisory, rule("CNIRT-008", "a plugin that does not know the container has nothing to be deleted", "5, Error",
			"3: Container unknown or does not exist. This error implies the runtime does not need to perform any container network cleanup.", unknownContainer)),
		at(conformance.Advisory, rule("CNIRT-009", "a plugin that is not ready makes the network not ready", "2, STATUS",
			"STATUS is a way for a runtime to determine the readiness of a network plugin.", statusReported)),
	}
}

func (l *lab) needOwnNetNS() error {
	if l.target.OwnNetNS {
		return nil
	}
	return conformance.NotApplicable("the suite makes the network namespaces of this runtime's containers")
}

func namespaceFirst(ctx context.Context, l *lab) error {
	if err := l.needOwnNetNS(); err != nil {
		return err
	}
	if _, err := l.added(ctx, nil); err != nil {
		return err
	}
	cs, err := l.calls()
	if err != nil {
		return err
	}
	for _, c := range cs {
		switch {
		case c.verb != "ADD":
		case c.Target == "":
			return fmt.Errorf("%v: CNI_NETNS %q was no network namespace when the plugin ran", c, c.Env["CNI_NETNS"])
		case c.Target == c.Own:
			return fmt.Errorf("%v: CNI_NETNS %q was the namespace that the plugin itself ran in", c, c.Env["CNI_NETNS"])
		}
	}
	return nil
}

func namespaceRemoved(ctx context.Context, l *lab) error {
	if err := l.needOwnNetNS(); err != nil {
		return err
	}
	cs, err := l.addedAndDeleted(ctx)
	if err != nil {
		return err
	}
	add := cs.of("ADD").last(chain[0])
	if add == nil {
		return errors.New("no ADD was called")
	}
	return l.await(ctx, settle, func(calls) error {
		if namespace(add.Env["CNI_NETNS"]) == add.Target {
			return fmt.Errorf("%q is still a network namespace", add.Env["CNI_NETNS"])
		}
		return nil
	})
}

// oneAtATime holds a plugin while it requests what the runtime must not run in
// parallel: ADD of two interfaces of a container, and its DEL twice.
func oneAtATime(ctx context.Context, l *lab) error {
	if err := l.configure(ctx, nil); err != nil {
		return err
	}
	for _, verb := range []string{"ADD", "DEL"} {
		for _, name := range []string{chain[1], "loopback"} {
			if err := l.prepare(name, verb, fault{Hold: true, Keep: true}); err != nil {
				return err
			}
		}
	}
	c, err := l.container()
	if err != nil {
		return err
	}
	other := c
	add := []func() error{func() error { return l.Add(ctx, c) }}
	if !l.target.OwnNetNS {
		other.IfName = "eth1"
		add = append(add, func() error { return l.Add(ctx, other) })
	}
	del := []func() error{func() error { return l.Del(ctx, c) }, func() error { return l.Del(ctx, other) }}
	if err := errors.Join(l.atOnce(ctx, "ADD", add), l.atOnce(ctx, "DEL", del)); err != nil {
		return err
	}
	cs, err := l.calls()
	if err != nil {
		return err
	}
	return cs.parallel(func(a, b *call) bool { return a.container() == b.container() && a.container() != "" })
}

// atOnce calls the functions at the same time, and releases the command that they
// lead to once all calls that will begin have begun. It ignores their errors: the
// runtime may refuse a second one.
func (l *lab) atOnce(ctx context.Context, command string, fs []func() error) error {
	var calling sync.WaitGroup
	start := time.Now()
	for _, f := range fs {
		calling.Go(func() { _ = f() })
	}
	held := func(n int) func(calls) error {
		return func(cs calls) error {
			if got := len(cs.of(command)); got < n {
				return fmt.Errorf("%s was called for %d plugins", command, got)
			}
			return nil
		}
	}
	err := l.await(ctx, beginTime, held(1))
	if err == nil {
		// The first plugin may be loopback or one that is not held; a call that is not
		// held may follow it.
		l.watch(ctx, time.Since(start), command, len(fs))
	}
	err = errors.Join(err, l.release(command))
	calling.Wait()
	return err
}

// parallel returns an error about two calls that ran at the same time but must not.
func (cs calls) parallel(excluded func(a, b *call) bool) error {
	for i, a := range cs {
		for _, b := range cs[i+1:] {
			if a.overlaps(b) && excluded(a, b) {
				return fmt.Errorf("%v of %q and %v of %q ran at the same time", a, a.container(), b, b.container())
			}
		}
	}
	return nil
}

func failedAdd(ctx context.Context, l *lab) error {
	if err := l.configure(ctx, nil); err != nil {
		return err
	}
	if err := l.prepare(chain[1], "ADD", fault{Code: 100, Keep: true}); err != nil {
		return err
	}
	c, err := l.container()
	if err != nil {
		return err
	}
	if err := l.Add(ctx, c); err == nil {
		return errors.New("the runtime adds the container although a plugin's ADD failed")
	}
	_ = l.Del(ctx, c) // a runtime that has cleaned up may not know it any more
	return l.await(ctx, settle, deletedAfterAdd)
}

// deletedAfterAdd reports the plugin whose last ADD is not followed by a DEL.
func deletedAfterAdd(cs calls) error {
	for _, add := range cs.of("ADD") {
		del := cs.of("DEL").last(add.Plugin)
		if del == nil || del.begin < add.begin {
			return fmt.Errorf("%s got ADD and no DEL after it: %v", add.Plugin, cs)
		}
	}
	if len(cs.of("ADD")) == 0 {
		return errors.New("no plugin's ADD was called")
	}
	return nil
}

// interruptedAdd kills the runtime while a plugin's ADD runs, and has the restarted
// one delete the container.
func interruptedAdd(ctx context.Context, l *lab) error {
	if err := l.configure(ctx, nil); err != nil {
		return err
	}
	if err := need(l.Restart != nil, "restart"); err != nil {
		return err
	}
	if err := l.prepare(chain[1], "ADD", fault{Hold: true, Keep: true}); err != nil {
		return err
	}
	c, err := l.container()
	if err != nil {
		return err
	}
	adding, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan struct{})
	go func() {
		_ = l.Add(adding, c) // its answer is lost with the runtime
		close(ended)
	}()
	if _, err := l.awaitBegin(ctx, chain[1], "ADD"); err != nil {
		return err
	}
	if err := l.Restart(ctx); err != nil {
		return fmt.Errorf("restarting the runtime: %w", err)
	}
	stop()
	<-ended
	_ = l.Del(ctx, c) // a runtime that has cleaned up may not know it any more
	return l.await(ctx, settle, deletedAfterAdd)
}

func noCheckWithoutAdd(ctx context.Context, l *lab) error {
	if err := l.configure(ctx, nil); err != nil {
		return err
	}
	if err := need(l.Check != nil, "CHECK"); err != nil {
		return err
	}
	c, err := l.container()
	if err != nil {
		return err
	}
	if err := l.refusesCheck(ctx, c, "before ADD"); err != nil {
		return err
	}
	if err := errors.Join(l.mustAdd(ctx, c), l.mustDel(ctx, c)); err != nil {
		return err
	}
	return l.refusesCheck(ctx, c, "after DEL")
}

// refusesCheck requires that no plugin is called for a CHECK. A runtime that runs CHECK
// by itself after each ADD has no reason to do so here.
func (l *lab) refusesCheck(ctx context.Context, c Container, when string) error {
	before, err := l.calls()
	if err != nil {
		return err
	}
	_ = l.Check(ctx, c) // it may be refused
	cs, err := l.calls()
	if err != nil {
		return err
	}
	if len(cs.of("CHECK")) > len(before.of("CHECK")) {
		return fmt.Errorf("CHECK was called %s: %v", when, cs)
	}
	return nil
}

func noSecondAdd(ctx context.Context, l *lab) error {
	if err := l.configure(ctx, nil); err != nil {
		return err
	}
	if err := l.prepare(chain[1], "ADD", fault{Code: 11}); err != nil {
		return err
	}
	c, err := l.container()
	if err != nil {
		return err
	}
	if err := l.Add(ctx, c); err != nil { // the runtime leaves the retry to its caller
		if err := l.Add(ctx, c); err != nil {
			return fmt.Errorf("the runtime does not add the container after a plugin asked once to be tried later: %w", err)
		}
	}
	cs, err := l.calls()
	if err != nil {
		return err
	}
	have := map[string]bool{}
	for _, c := range cs {
		key := c.Plugin + " " + c.container() + " " + c.Env["CNI_IFNAME"]
		if c.verb == "ADD" && have[key] {
			return fmt.Errorf("%s was called for %s twice without a DEL: %v", c, c.container(), cs)
		}
		have[key] = c.verb == "ADD"
	}
	return nil
}

func unknownContainer(ctx context.Context, l *lab) error {
	c, err := l.added(ctx, nil)
	if err != nil {
		return err
	}
	if err := l.prepare(chain[1], "DEL", fault{Code: 3, Keep: true}); err != nil {
		return err
	}
	return l.mustDel(ctx, c)
}

func statusReported(ctx context.Context, l *lab) error {
	for _, name := range chain {
		if err := l.prepare(name, "STATUS", fault{Code: 50, Keep: true}); err != nil {
			return err
		}
	}
	if err := l.configure(ctx, nil); err != nil {
		return err
	}
	if err := need(l.Status != nil, "STATUS"); err != nil {
		return err
	}
	if err := l.Status(ctx); err == nil {
		return errors.New("the runtime says that the network is ready although STATUS of its plugins fails")
	}
	return nil
}
