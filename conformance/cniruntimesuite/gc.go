package cniruntimesuite

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nodekit-project/nodekit/conformance"
)

// gcRules are about garbage collection.
func gcRules() []conformance.Rule[Target] {
	const collecting = "3, Garbage-collecting a network"
	return []conformance.Rule[Target]{
		rule("CNIRT-050", "no ADD and no DEL runs beside GC", lifecycle,
			"The runtime must ensure that no add or delete operations are in progress before executing gc, and must wait for gc to complete before issuing new add or delete commands.", gcAlone),
		rule("CNIRT-051", "GC runs the plugins in order", collecting,
			"For every plugin defined in the plugins key of the network configuration, [...] Execute the plugin binary, with CNI_COMMAND=GC.", gcOrder),
		rule("CNIRT-052", "GC goes on past errors and returns them", collecting,
			"If the plugin returns an error, continue with execution, returning all errors to the caller.", gcContinues),
		rule("CNIRT-053", "GC is told of every attachment that is valid, and of no other", "2, GC",
			"The runtime must provide a JSON-serialized plugin configuration object [...]. It contains an additional key; cni.dev/valid-attachments (array of objects): The list of still valid attachments to this network", gcValid),
		rule("CNIRT-054", "disableGC keeps GC away from the plugins", "1, Configuration format",
			"If disableGC is true, runtimes must not call GC for this network configuration list.", disableGC),
		rule("CNIRT-055", "what GC shall remove gets its DEL", "2, GC",
			"The runtime MUST NOT use GC as a substitute for DEL.", gcNotForDel),
		rule("CNIRT-056", "GC gives plugins the list of directories to search", "2, GC",
			"Required environment parameters: CNI_COMMAND, CNI_PATH", gcPath),
		rule("CNIRT-057", "GC gets no parameters of an attachment", collecting,
			"When garbage-collecting a configuration, there are no Attachment Parameters.", gcOfNone),
	}
}

// collectable configures a runtime that has GC, and adds a container.
func (l *lab) collectable(ctx context.Context, keys object) (Container, error) {
	if err := l.configure(ctx, keys); err != nil {
		return Container{}, err
	}
	if err := need(l.GC != nil, "GC"); err != nil {
		return Container{}, err
	}
	return l.added(ctx, keys)
}

// collected returns the calls of GC. A runtime without a version that has GC makes
// none.
func (l *lab) collected() (calls, error) {
	cs, err := l.calls()
	if err != nil {
		return nil, err
	}
	gc := cs.of("GC")
	if add := cs.of("ADD"); len(gc) == 0 && len(add) > 0 && string(add[0].request["cniVersion"]) != `"1.1.0"` {
		return nil, conformance.NotApplicable("the runtime does not speak version 1.1.0, which has GC")
	}
	if len(gc) == 0 {
		return nil, errors.New("GC of no plugin was called")
	}
	return gc, nil
}

// gcAlone requests a GC while an ADD is held, and an ADD and a DEL while the GC is.
func gcAlone(ctx context.Context, l *lab) error {
	c, err := l.collectable(ctx, nil)
	if err != nil {
		return err
	}
	second, err := l.container()
	if err != nil {
		return err
	}
	third, err := l.container()
	if err != nil {
		return err
	}
	for _, verb := range []string{"ADD", "GC"} {
		if err := l.prepare(chain[1], verb, fault{Hold: true, Keep: true}); err != nil {
			return err
		}
	}
	var calling errgroup.Group
	start := time.Now()
	calling.Go(func() error { return l.mustAdd(ctx, second) })
	err = l.await(ctx, beginTime, func(cs calls) error { return began(cs, "ADD", 2) })
	took := time.Since(start)
	if err == nil {
		calling.Go(func() error { return l.GC(ctx, []Container{c, second, third}) })
		l.watch(ctx, took, "GC", 1)
	}
	if err := errors.Join(err, l.release("ADD")); err != nil {
		return errors.Join(err, calling.Wait())
	}
	if err := l.await(ctx, beginTime, func(cs calls) error { return began(cs, "GC", 1) }); err == nil {
		calling.Go(func() error { return l.mustDel(ctx, c) })
		calling.Go(func() error { return l.mustAdd(ctx, third) })
		l.watch(ctx, took, "ADD", 3)
		l.watch(ctx, took, "DEL", 1)
	} // else collected returns the error
	if err := errors.Join(l.release("GC"), calling.Wait()); err != nil {
		return err
	}
	if _, err := l.collected(); err != nil {
		return err
	}
	cs, err := l.calls()
	if err != nil {
		return err
	}
	return cs.parallel(func(a, b *call) bool {
		return (a.verb == "GC") != (b.verb == "GC") && changes(a) && changes(b)
	})
}

// gcPath checks CNI_PATH of GC only: the section on STATUS does not have it.
func gcPath(ctx context.Context, l *lab) error {
	c, err := l.collectable(ctx, nil)
	if err != nil {
		return err
	}
	if err := l.GC(ctx, []Container{c}); err != nil {
		return err
	}
	gc, err := l.collected()
	if err != nil {
		return err
	}
	return l.givesPath(gc)
}

func changes(c *call) bool { return c.verb == "ADD" || c.verb == "DEL" || c.verb == "GC" }

func began(cs calls, verb string, n int) error {
	count := 0
	for _, c := range cs.of(verb) {
		if c.Plugin == chain[1] {
			count++
		}
	}
	if count < n {
		return fmt.Errorf("%s was called %d times", verb, count)
	}
	return nil
}

func gcOrder(ctx context.Context, l *lab) error {
	c, err := l.collectable(ctx, nil)
	if err != nil {
		return err
	}
	if err := l.GC(ctx, []Container{c}); err != nil {
		return fmt.Errorf("the runtime does not collect garbage: %w", err)
	}
	if _, err := l.collected(); err != nil {
		return err
	}
	return l.inOrder("GC", strings.Join(chain, " "))
}

func gcContinues(ctx context.Context, l *lab) error {
	c, err := l.collectable(ctx, nil)
	if err != nil {
		return err
	}
	if err := l.prepare(chain[0], "GC", fault{Code: 100, Keep: true}); err != nil {
		return err
	}
	reported := l.GC(ctx, []Container{c})
	gc, err := l.collected()
	if err != nil {
		return err
	}
	if gc.last(chain[1]) == nil || gc.last(chain[2]) == nil {
		return fmt.Errorf("after an error of %s, GC was called for %q alone", chain[0], gc.plugins())
	}
	if reported == nil {
		return errors.New("the runtime reports no error although a plugin's GC failed")
	}
	return nil
}

// gcValid compares the attachments that GC lists with the ADDs and DELs that the plugins
// have seen: with two containers left and one deleted, and with none left.
func gcValid(ctx context.Context, l *lab) error {
	c, err := l.collectable(ctx, nil)
	if err != nil {
		return err
	}
	var others [2]Container
	for i := range others {
		if others[i], err = l.container(); err != nil {
			return err
		}
		if err := l.mustAdd(ctx, others[i]); err != nil {
			return err
		}
	}
	stays, goes := others[0], others[1]
	if err := l.mustDel(ctx, goes); err != nil {
		return err
	}
	if err := l.GC(ctx, []Container{c, stays}); err != nil {
		return fmt.Errorf("the runtime does not collect garbage: %w", err)
	}
	if err := errors.Join(l.mustDel(ctx, c), l.mustDel(ctx, stays)); err != nil {
		return err
	}
	if err := l.GC(ctx, nil); err != nil {
		return fmt.Errorf("the runtime does not collect garbage where no attachment is valid: %w", err)
	}
	gc, err := l.collected()
	if err != nil {
		return err
	}
	cs, err := l.calls()
	if err != nil {
		return err
	}
	for _, g := range gc {
		if err := cs.toldRightly(g); err != nil {
			return err
		}
	}
	return nil
}

// toldRightly compares the list of a GC with the last preceding ADD or DEL of each
// attachment.
func (cs calls) toldRightly(g *call) error {
	var valid []struct {
		ContainerID string `json:"containerID"`
		IfName      string `json:"ifname"`
	}
	raw := g.request["cni.dev/valid-attachments"]
	if err := json.Unmarshal(raw, &valid); err != nil {
		return fmt.Errorf("%v got cni.dev/valid-attachments %q, want an array of objects: %w", g, raw, err)
	}
	if valid == nil {
		return fmt.Errorf("%v got cni.dev/valid-attachments %q, want an array of objects, which may be empty", g, raw)
	}
	told := map[string]bool{}
	for _, v := range valid {
		told[v.ContainerID+"/"+v.IfName] = true
	}
	last := map[string]string{}
	for _, c := range cs {
		if c.begin < g.begin && (c.verb == "ADD" || c.verb == "DEL") {
			last[c.container()+"/"+c.Env["CNI_IFNAME"]] = c.verb
		}
	}
	for _, key := range slices.Sorted(maps.Keys(last)) {
		if last[key] == "ADD" && !told[key] {
			return fmt.Errorf("%v is not told that %s is valid, which had an ADD and no DEL: %s", g, key, raw)
		}
		if last[key] == "DEL" && told[key] {
			return fmt.Errorf("%v is told that %s is valid, which had its DEL: %s", g, key, raw)
		}
	}
	return nil
}

// gcOfNone checks that GC gets no attachment parameters.
func gcOfNone(ctx context.Context, l *lab) error {
	c, err := l.collectable(ctx, nil)
	if err != nil {
		return err
	}
	if err := l.GC(ctx, []Container{c}); err != nil {
		return fmt.Errorf("the runtime does not collect garbage: %w", err)
	}
	gc, err := l.collected()
	if err != nil {
		return err
	}
	for _, g := range gc {
		for _, name := range []string{"CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"} {
			if value := g.Env[name]; value != "" {
				return fmt.Errorf("%v got %s=%q, and is about no attachment", g, name, value)
			}
		}
	}
	return nil
}

func disableGC(ctx context.Context, l *lab) error {
	c, err := l.collectable(ctx, object{"disableGC": true})
	if err != nil {
		return err
	}
	if err := l.GC(ctx, []Container{c}); err != nil {
		return fmt.Errorf("the runtime does not report success of a disabled GC: %w", err)
	}
	cs, err := l.calls()
	if err != nil {
		return err
	}
	if len(cs.of("GC")) > 0 {
		return fmt.Errorf("GC was called: %v", cs)
	}
	return nil
}

func gcNotForDel(ctx context.Context, l *lab) error {
	if _, err := l.collectable(ctx, nil); err != nil {
		return err
	}
	if err := l.GC(ctx, nil); err != nil {
		return fmt.Errorf("the runtime does not collect garbage: %w", err)
	}
	return l.await(ctx, 0, deletedAfterAdd)
}
